//! A clock that is set, before a restart and while the agent runs, locks nobody out.
//!
//! WireGuard refuses a handshake whose stamp is no later than the last. Whose clock went back tells
//! peers another epoch. The false clock is libfaketime's (`Node::set_clock`), and each step makes
//! sure that the agent sees it. Node 2 starts no handshake itself where it would help node 1 out.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use podwire_testbed::agent_view::{CONVERGENCE, peer, wait_status, wait_whole};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{IpVersion, Node, Protocol, Testbed, Topology, matrix, until};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_clock_that_jumps_while_the_agent_runs_locks_nobody_out",
        while_running,
    ),
    (
        "clocks_of_both_ends_that_jump_lock_nobody_out_in_either_order",
        both_ends,
    ),
    (
        "a_clock_that_went_back_before_a_restart_locks_nobody_out",
        before_a_restart,
    ),
];

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;

/// Of a clock that an agent shows in its log: it was started a while ago.
const LATE: i64 = 120;

/// Which nodes start handshakes.
enum Initiators {
    Both,
    Node1,
}

/// Two nodes of one pod each whose clocks can be set, and the mesh whole.
fn mesh(context: &Context, initiators: Initiators) -> Result<std::sync::Arc<Testbed>> {
    // One lane: what one of several remembers would be seen by chance only.
    let topology = Topology::new()
        .nodes(2)
        .pods_per_node(1)
        .agent_arguments(&["--lanes", "1"]);
    let bed = context.testbed(&topology)?;
    for node in bed.nodes() {
        node.set_clock(0)?;
    }
    if let Initiators::Node1 = initiators {
        bed.node(2).mute_initiations()?;
    }
    bed.start_agents()?;
    wait_whole(&bed)?;
    Ok(bed)
}

/// Sets the clock of a running or a future agent.
fn set_clock(node: &Node, seconds: i64) -> Result<()> {
    node.set_clock(seconds)
        .with_context(|| format!("setting the clock of {}", node.name()))
}

/// Kills the agent and starts the next one, which must see this clock.
fn restart(node: &Node, seconds: i64) -> Result<()> {
    node.kill_agent()?;
    set_clock(node, seconds)?;
    start(node, seconds)
}

fn start(node: &Node, seconds: i64) -> Result<()> {
    node.start_agent()?;
    node.wait_ready()?;
    sees_clock(node, seconds)
}

/// The last line of its log is of that time: the clock reaches the agent.
fn sees_clock(node: &Node, seconds: i64) -> Result<()> {
    let line = node.log_tail(1);
    let stamp = line.split_whitespace().next().context("no line")?;
    let stamp: Timestamp = stamp.parse().with_context(|| format!("in {line:?}"))?;
    let off = stamp.as_second() - Timestamp::now().as_second();
    ensure!(
        (off - seconds).abs() <= LATE,
        "{} is off by {off} s and not by {seconds} s: {line}",
        node.name()
    );
    Ok(())
}

/// The pods of node `from` reach those of the other one, by handshakes that `from` starts.
fn accepted(bed: &Testbed, from: u8) -> Result<()> {
    let to = 3 - from;
    for version in [IpVersion::V4, IpVersion::V6] {
        let target = bed.pod(to, 1).host().address(version)?;
        let probe = bed.probe(bed.pod(from, 1).host(), Protocol::Udp, target);
        let what = format!("node-{to} to accept node-{from}");
        until(CONVERGENCE, &what, || Ok(probe.ask()?))?;
    }
    Ok(())
}

fn wait_epoch(node: &Node, epoch: u64) -> Result<()> {
    let what = format!("epoch {epoch}");
    wait_status(node, &what, |status| status.epoch == epoch).map(drop)
}

fn before_a_restart(context: &Context) -> Result<()> {
    let bed = mesh(context, Initiators::Node1)?;
    let node = bed.node(1);
    let steps = [
        ("an hour back", -HOUR, 1),
        ("a year back", -YEAR, 2),
        ("right again", 0, 2),
        ("a year ahead", YEAR, 2),
        ("right after a year ahead", 0, 3),
    ];
    for (what, seconds, epoch) in steps {
        restart(node, seconds).context(what)?;
        accepted(&bed, 1).context(what)?;
        wait_epoch(node, epoch).context(what)?;
    }
    // Nothing is known of the stamps of before, nor is the key that they were sent under.
    node.kill_agent()?;
    node.forget_state()?;
    set_clock(node, -YEAR)?;
    start(node, -YEAR)?;
    accepted(&bed, 1).context("without its state, a year back")
}

/// Node 2 forgets its sessions, and node 1 has to find that out: after 15 s of silence.
fn new_handshake(bed: &Testbed) -> Result<()> {
    let (node, other) = (bed.node(1), bed.node(2));
    let handshakes = peer(node, other.name())?.handshakes;
    other.kill_agent()?;
    other.start_agent()?;
    other.wait_ready()?;
    let target = bed.pod(2, 1).host().address(IpVersion::V4)?;
    let probe = bed.probe(bed.pod(1, 1).host(), Protocol::Udp, target);
    let probe = probe.timeout(Duration::from_millis(500));
    until(2 * CONVERGENCE, "a handshake of node-1", || {
        probe.ask()?;
        let now = peer(node, other.name())?.handshakes;
        ensure!(now > handshakes, "{now} handshakes");
        Ok(())
    })
}

/// Node 2 becomes another peer, whom node 1 meets with tunnels made at the present clock.
fn another_key(bed: &Testbed) -> Result<()> {
    let other = bed.node(2);
    other.kill_agent()?;
    other.forget_state()?;
    other.start_agent()?;
    other.wait_ready()?;
    accepted(bed, 1)
}

/// The highest stamp that the node has put on disk, in seconds off from the present.
fn stamp_on_disk(node: &Node) -> Result<i64> {
    let text = fs::read_to_string(node.state_dir().join("history.json"))?;
    let history: serde_json::Value = serde_json::from_str(&text)?;
    let stamp = history["highest_stamp"].as_u64().context("no stamp")?;
    let seconds = i64::try_from(stamp / 1_000_000_000)?;
    Ok(seconds - Timestamp::now().as_second())
}

fn while_running(context: &Context) -> Result<()> {
    let bed = mesh(context, Initiators::Node1)?;
    let node = bed.node(1);

    // A tunnel of before must not carry its stamps into the next epoch.
    set_clock(node, -HOUR)?;
    wait_epoch(node, 1)?;
    sees_clock(node, -HOUR)?;
    accepted(&bed, 1).context("an hour back")?;
    new_handshake(&bed).context("an hour back")?;
    restart(node, -HOUR)?;
    accepted(&bed, 1).context("restarted an hour back")?;

    // Forward, with handshakes of the future, and right again.
    set_clock(node, YEAR)?;
    another_key(&bed).context("a year ahead")?;
    set_clock(node, 0)?;
    wait_epoch(node, 2)?;
    sees_clock(node, 0)?;
    accepted(&bed, 1).context("right again")?;
    restart(node, 0)?;
    accepted(&bed, 1).context("restarted when right again")?;
    wait_epoch(node, 2)?;

    // Forward, and dead before it is right again.
    set_clock(node, YEAR)?;
    another_key(&bed).context("a year ahead again")?;
    until(CONVERGENCE, "the stamp of the future on disk", || {
        let off = stamp_on_disk(node)?;
        ensure!(off > YEAR / 2, "off by {off} s");
        Ok(())
    })?;
    restart(node, 0)?;
    wait_epoch(node, 3)?;
    accepted(&bed, 1).context("killed in the future")
}

fn both_ends(context: &Context) -> Result<()> {
    let bed = mesh(context, Initiators::Both)?;
    let accepted = |order: [u8; 2], what: &str| -> Result<()> {
        order
            .iter()
            .try_for_each(|number| accepted(&bed, *number))
            .context(what.to_owned())
    };
    for (seconds, order) in [(-HOUR, [1, 2]), (YEAR, [2, 1])] {
        for number in order {
            set_clock(bed.node(number), seconds)?;
        }
        accepted(order, "after the jump")?;
        for number in order {
            // Perhaps before it has noticed anything.
            restart(bed.node(number), seconds)?;
            accepted(order, "after a restart")?;
        }
    }
    // Right again, one after the other.
    for number in [1, 2] {
        set_clock(bed.node(number), 0)?;
        accepted([1, 2], "right again")?;
        restart(bed.node(number), 0)?;
        accepted([2, 1], "restarted right again")?;
    }
    matrix::all_reached(&bed.matrix().run())
}
