//! Short floods at a low rate: each is dropped under its reason, and nobody's session breaks.
//!
//! How much of the others' traffic gets through a real one is measured in the suite `performance`.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, drops, peer, sample, status, wait_peers};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{
    Attack, Flood, FloodPlan, IpVersion, Node, ProcessMemory, TcpCounter, Testbed, Topology,
    WIREGUARD_PORTS, attackers, matrix, until,
};

pub(crate) const TESTS: &[Test] = &[(
    "floods_are_dropped_by_reason_and_break_nobodys_session",
    floods,
)];

/// Datagrams a second: ten times what a node answers.
const RATE: u32 = 2_000;

/// Datagrams after which a flood has been seen.
const SEEN: u64 = 1_000;

/// Messages a second of a connection that has to survive.
const TCP_RATE: u32 = 50;

/// Handshakes that cost a curve operation in a second: 200 without a cookie, 100 with the cookie of
/// an address that no record names.
const ANSWERED_PER_SECOND: u64 = 200 + 100;

/// How much an agent may grow, in KiB. The full queue of an unreachable peer is 192 KiB a lane, and
/// a batch of datagrams in every buffer of a lane 3 MiB.
const GROWTH_MAX: u64 = 32 * 1024;

/// The address of a node's lane 0.
fn wireguard(node: &Node, version: IpVersion) -> Result<SocketAddr> {
    Ok(SocketAddr::new(
        node.host().address(version)?,
        WIREGUARD_PORTS.start,
    ))
}

fn key(node: &Node) -> Result<String> {
    status(node)?
        .public_key
        .context("an encrypted node has a key")
}

fn dropped(node: &Node, reason: &str) -> Result<u64> {
    Ok(drops(node)?.get(reason).copied().unwrap_or(0))
}

/// Waits until a node has dropped so many more packets for a reason.
fn wait_dropped(node: &Node, reason: &str, more: u64, before: u64) -> Result<()> {
    until(CONVERGENCE, &format!("{more} drops: {reason}"), || {
        let dropped = dropped(node, reason)?;
        ensure!(dropped >= before + more, "{dropped}, {before} before");
        Ok(())
    })
}

fn floods(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(3).pods_per_node(1))?;
    bed.start_agents()?;
    wait_peers(&bed)?;
    packets_for_an_unreachable_peer(&bed)?;
    bed.node(3).start_agent()?;
    until(CONVERGENCE, "the mesh to be whole", || {
        matrix::all_reached(&bed.matrix().run())
    })?;
    let victim = bed.node(1);
    let memory = ProcessMemory::of(victim.agent_pid()?)?;
    let witness = witness(&bed)?;
    let sessions = peer(victim, "node-3")?.handshakes;

    forged(&bed)?;
    sealed(&bed)?;
    with_cookies(&bed)?;

    witness.wait_for_more(u64::from(TCP_RATE), CONVERGENCE)?;
    let count = witness.stop()?;
    ensure!(
        count.broken.is_none() && count.out_of_turn == 0 && count.echoed == count.sent,
        "{count:?}"
    );
    // One more at most, if the test took two minutes: nothing made them start anew.
    let after = peer(victim, "node-3")?.handshakes;
    ensure!(after <= sessions + 2, "{sessions} handshakes, then {after}");
    check_growth(victim, memory)
}

fn check_growth(node: &Node, before: ProcessMemory) -> Result<()> {
    let after = ProcessMemory::of(node.agent_pid()?)?;
    ensure!(
        after.peak <= before.peak + GROWTH_MAX,
        "{before:?} before, {after:?} after"
    );
    Ok(())
}

/// A connection of the victim's pod that has nothing to do with any flood.
fn witness(bed: &Testbed) -> Result<TcpCounter> {
    let target = bed.pod(3, 1).host().address(IpVersion::V4)?;
    let counter = bed.tcp_counter(bed.pod(1, 1).host(), target, TCP_RATE)?;
    counter.wait_for_more(u64::from(TCP_RATE), CONVERGENCE)?;
    Ok(counter)
}

/// Packets for a peer that never answered wait in a bounded queue, and the oldest go.
fn packets_for_an_unreachable_peer(bed: &Testbed) -> Result<()> {
    let (node, unreachable) = (bed.node(1), bed.node(3));
    unreachable.stop_agent()?;
    let memory = ProcessMemory::of(node.agent_pid()?)?;
    let target = bed.pod(3, 1).host().address(IpVersion::V4)?;
    let plan = FloodPlan {
        sources: Vec::new(),
        target: SocketAddr::new(target, 9),
        per_second: RATE,
        attack: Attack::Payload(bed.secret().bytes().repeat(75)),
    };
    let flood = Flood::start(bed.pod(1, 1).host().namespace(), &plan)?;
    wait_dropped(node, "no-session-queue-full", SEEN, 0)?;
    // Another pair starts its first session meanwhile.
    let other = bed.pod(2, 1).host().address(IpVersion::V4)?;
    let counter = bed.tcp_counter(bed.pod(1, 1).host(), other, TCP_RATE)?;
    counter.wait_for_more(u64::from(TCP_RATE), CONVERGENCE)?;
    let count = counter.stop()?;
    ensure!(count.broken.is_none(), "{count:?}");
    let count = flood.stop();
    ensure!(count.sent >= SEEN, "{count:?}");
    check_growth(node, memory)
}

/// Without the victim's public key nothing costs more than one hash.
fn forged(bed: &Testbed) -> Result<()> {
    let victim = bed.node(1);
    for version in [IpVersion::V4, IpVersion::V6] {
        let before = dropped(victim, "bad-mac")?;
        let plan = FloodPlan {
            sources: Vec::new(),
            target: wireguard(victim, version)?,
            per_second: RATE,
            attack: Attack::Forged,
        };
        let _flood = Flood::start(bed.outside().namespace(), &plan)?;
        wait_dropped(victim, "bad-mac", SEEN, before)?;
    }
    Ok(())
}

/// With it, one is answered with cookies, and a peer gets through by its own.
fn sealed(bed: &Testbed) -> Result<()> {
    let (victim, other) = (bed.node(1), bed.node(2));
    let before = dropped(victim, "handshake-limited")?;
    let plan = FloodPlan {
        sources: attackers(bed, IpVersion::V4, 64)?,
        target: wireguard(victim, IpVersion::V4)?,
        // The budget of each second is used up early in it: hardly any handshake falls before.
        per_second: 2 * RATE,
        attack: Attack::Sealed(key(victim)?),
    };
    let flood = Flood::start(bed.outside().namespace(), &plan)?;
    wait_dropped(victim, "handshake-limited", SEEN, before)?;
    let cookies =
        "podwire_handshake_messages_total{message=\"cookie-reply\",direction=\"received\"}";
    until(CONVERGENCE, "a peer that needs a cookie", || {
        other.kill_agent()?;
        other.start_agent()?;
        other.wait_ready()?;
        until(CONVERGENCE, "the peer's session in the flood", || {
            let state = peer(other, "node-1")?.state;
            ensure!(state == "up", "it is {state}");
            Ok(())
        })?;
        let taken = sample(other, cookies)?;
        ensure!(taken > 0, "it was answered before the flood of that second");
        Ok(())
    })?;
    until(CONVERGENCE, "the mesh to be whole in the flood", || {
        matrix::all_reached(&bed.matrix().run())
    })?;
    let count = flood.stop();
    ensure!(count.sent >= SEEN, "{count:?}");
    Ok(())
}

/// Those who open their cookies are limited by their addresses.
fn with_cookies(bed: &Testbed) -> Result<()> {
    let victim = bed.node(1);
    let sources: Vec<IpAddr> = attackers(bed, IpVersion::V6, 64)?;
    let plan = FloodPlan {
        sources,
        target: wireguard(victim, IpVersion::V6)?,
        per_second: RATE,
        attack: Attack::WithCookie(key(victim)?),
    };
    let limited = dropped(victim, "handshake-limited")?;
    let rejected = dropped(victim, "handshake-rejected")?;
    let start = Instant::now();
    let flood = Flood::start(bed.outside().namespace(), &plan)?;
    until(CONVERGENCE, "cookies to be opened and used", || {
        let (count, limited) = (
            flood.count(),
            dropped(victim, "handshake-limited")? - limited,
        );
        // More than were answered with a cookie: those that have theirs are refused too.
        ensure!(
            count.cookies >= 64 && limited >= count.cookies + SEEN,
            "{count:?}, {limited} limited"
        );
        Ok(())
    })?;
    let count = flood.stop();
    let rejected = dropped(victim, "handshake-rejected")? - rejected;
    // Two more for the parts of seconds at both ends.
    let seconds = start.elapsed().as_secs() + 2;
    ensure!(
        rejected <= ANSWERED_PER_SECOND * seconds,
        "{rejected} curve operations in {seconds} s: {count:?}"
    );
    Ok(())
}
