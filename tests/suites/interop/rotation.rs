//! A node rotates or revokes its keys beside peers that know nothing of rotations, and beside
//! somebody who has stolen the key.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, drops, peer, status, wait_status};
use podwire_testbed::suite::Context;
use podwire_testbed::thief::{Stolen, Thief};
use podwire_testbed::wireguard_daemon::{Key, decode, public_key};
use podwire_testbed::{IpVersion, Node, Protocol, Testbed, Topology, UdpCounter, until};

use crate::foreign_node::ForeignNode;
use crate::{Initiator, RotationTest};

pub(crate) const TESTS: &[RotationTest] = &[
    (
        "a_retired_key_opens_nothing_and_a_plain_peer_that_kept_it_goes_on_with_the_new_one",
        |context, program| given_up(context, program, Ending::Retired),
    ),
    (
        "a_revoked_key_opens_nothing_at_once_and_a_plain_peer_goes_on_with_the_new_one",
        |context, program| given_up(context, program, Ending::Revoked),
    ),
];

/// Those that count, and one of the whole ten minutes for which an announcement waits.
pub(crate) const LONG_TESTS: &[RotationTest] = &[
    (
        "a_plain_peer_that_is_given_the_new_key_in_time_goes_on_through_a_rotation",
        given_in_time,
    ),
    (
        "a_plain_peer_that_keeps_the_old_key_loses_nothing_until_that_is_retired",
        never_given,
    ),
];

/// A phase that waits for nothing but handshakes is over within seconds; the machine is busy.
const PHASE_DEADLINE: Duration = Duration::from_secs(60);

/// For what a phase waits three minutes: the end of keys, and that of a session.
const MINUTES_DEADLINE: Duration = Duration::from_secs(300);

/// The ten minutes of an announcement that is not confirmed.
const CONFIRM_DEADLINE: Duration = Duration::from_secs(700);

/// Datagrams a second, each way.
const RATE: u32 = 500;

/// Where the rotation of a node's keys stands.
fn rotation(node: &Node) -> Result<serde_json::Value> {
    Ok(node.status_json()?["rotation"].take())
}

fn wait_phase(node: &Node, phase: &str, deadline: Duration) -> Result<()> {
    until(deadline, &format!("the phase {phase:?}"), || {
        let now = rotation(node)?;
        let text = now["phase"].as_str().unwrap_or_default();
        ensure!(text.starts_with(phase), "{now}");
        Ok(())
    })
}

/// One pod reaches another one.
fn reach(bed: &Testbed, from: u8, to: u8) -> Result<()> {
    let target = bed.pod(to, 1).host().address(IpVersion::V4)?;
    bed.probe(bed.pod(from, 1).host(), Protocol::Udp, target)
        .ask()?;
    Ok(())
}

fn wait_reach(bed: &Testbed, from: u8, to: u8) -> Result<()> {
    until(
        CONVERGENCE,
        &format!("pod {from} to reach pod {to}"),
        || reach(bed, from, to),
    )
}

/// These nodes' agents run; the others' do not.
fn mesh(context: &Context, nodes: u8, agents: &[u8]) -> Result<Arc<Testbed>> {
    let topology = Topology::new()
        .nodes(nodes)
        .pods_per_node(1)
        .agent_arguments(&["--lanes", "2"]);
    let bed = context.testbed(&topology)?;
    bed.capture().search_payloads(false)?;
    for node in bed.nodes() {
        node.edit_manifest(|_| ())?;
    }
    for number in agents {
        bed.node(*number).start_agent()?;
    }
    for number in agents {
        bed.node(*number).wait_ready()?;
    }
    Ok(bed)
}

/// Node 2 knows nothing of rotations and is a peer of nodes 1 and 3.
fn beside_a_plain_peer(context: &Context, program: &Path) -> Result<(Arc<Testbed>, ForeignNode)> {
    let bed = mesh(context, 3, &[1, 3])?;
    let keys = [(1, public_key(&bed, 1)?), (3, public_key(&bed, 3)?)];
    let both = (IpVersion::V4, Initiator::Either);
    let foreign = ForeignNode::start(&bed, 2, program, both, &keys)?;
    for number in [1, 3] {
        wait_status(bed.node(number), "its peers", |status| {
            status.peers.encrypted == 2
        })?;
        wait_reach(&bed, number, 2)?;
    }
    wait_reach(&bed, 1, 3)?;
    Ok((bed, foreign))
}

/// Datagrams between node 1, which rotates, and the plain peer; and beside them those between that
/// and node 3, which does not.
struct Streams([Vec<UdpCounter>; 2]);

impl Streams {
    /// As [`Self::begin`], once a second of them has passed that is not counted.
    fn start(bed: &Testbed) -> Result<Self> {
        Self::begin(bed)?;
        Self::begin(bed)
    }

    fn begin(bed: &Testbed) -> Result<Self> {
        // wireguard-go sends IPv4: of datagrams over IPv6 it loses those whose checksum comes to
        // zero, one in 65,536, as it does not write that as all ones (RFC 8200 section 8.1).
        let both_ways = |number| -> Result<Vec<UdpCounter>> {
            let ways = [(number, 2, IpVersion::V6), (2, number, IpVersion::V4)];
            let start = |(from, to, version)| {
                let (from, to) = (bed.pod(from, 1).host(), bed.pod(to, 1).host());
                bed.udp_counter(from, to, version, RATE)
            };
            ways.into_iter().map(start).collect()
        };
        let streams = Self([both_ways(1)?, both_ways(3)?]);
        streams.flow(1)?;
        Ok(streams)
    }

    /// Waits until each has brought so many seconds of datagrams more.
    fn flow(&self, seconds: u32) -> Result<()> {
        let all: Vec<_> = self.0.iter().flatten().collect();
        UdpCounter::wait_for_more_of_each(&all, u64::from(seconds * RATE), PHASE_DEADLINE)
    }

    #[expect(clippy::print_stdout, reason = "every count is told")]
    fn lost_nothing(self, what: &str) -> Result<()> {
        self.flow(1)?;
        let stop = |counters: Vec<UdpCounter>| -> Result<Vec<(u64, u64)>> {
            let counts = counters.into_iter().map(UdpCounter::stop);
            counts
                .map(|count| count.map(|count| (count.lost(), count.sent)))
                .collect()
        };
        let [rotated, beside] = self.0;
        let (rotated, beside) = (stop(rotated)?, stop(beside)?);
        let told = format!("{what}: lost and sent each way {rotated:?}, beside them {beside:?}");
        println!("{told}");
        let lost = |counts: &[(u64, u64)]| counts.iter().map(|(lost, _)| lost).sum::<u64>();
        ensure!(lost(&beside) == 0, "inconclusive: {told}");
        ensure!(lost(&rotated) == 0, "{told}");
        Ok(())
    }
}

/// The status of an announcing node says to a plain peer's operator what to do.
fn told_key(node: &Node) -> Result<Key> {
    let now = rotation(node)?;
    let newer = now["newer_public_key"].as_str().context("no newer key")?;
    let text = node.agent_output(&["status"])?;
    let advice = format!("where no agent runs, configure this node's key {newer}");
    ensure!(text.contains(&advice), "{text}");
    let waiting = now["waiting"].as_array().context("no list")?;
    ensure!(waiting.iter().any(|it| it == "node-2"), "{now}");
    decode(newer)
}

fn given_in_time(context: &Context, program: &Path) -> Result<()> {
    let (bed, foreign) = beside_a_plain_peer(context, program)?;
    let (one, three) = (bed.node(1), bed.node(3));
    let before = public_key(&bed, 1)?;
    // Holds the announcement, also once the plain peer has confirmed.
    three.mute_initiations()?;
    let streams = Streams::start(&bed)?;
    one.agent_output(&["rotate"])?;
    wait_phase(one, "announced", PHASE_DEADLINE)?;
    let next = told_key(one)?;
    ensure!(next != before && public_key(&bed, 1)? == before, "{next:?}");
    // As long as an announcement lasts in any case, and longer.
    streams.flow(7)?;
    wait_phase(one, "announced", Duration::ZERO)?;
    streams.lost_nothing("announced to a plain peer")?;
    foreign.configure(&bed, &[(1, next), (3, public_key(&bed, 3)?)])?;
    for number in [1, 3] {
        wait_reach(&bed, 2, number)?;
    }
    until(CONVERGENCE, "the plain peer's confirmation", || {
        let now = rotation(one)?;
        ensure!(now["waiting"] == serde_json::json!(["node-3"]), "{now}");
        Ok(())
    })?;
    let streams = Streams::start(&bed)?;
    three.unmute_initiations()?;
    // Node 3 has asked for the next key in vain: it tries again after a minute.
    wait_phase(one, "promoted confirmed=2/2", MINUTES_DEADLINE)?;
    ensure!(public_key(&bed, 1)? == next, "another key");
    wait_phase(one, "settled", MINUTES_DEADLINE)?;
    streams.flow(3)?;
    streams.lost_nothing("promoted and retired beside a plain peer with the new key")
}

fn never_given(context: &Context, program: &Path) -> Result<()> {
    let (bed, foreign) = beside_a_plain_peer(context, program)?;
    let one = bed.node(1);
    let streams = Streams::start(&bed)?;
    one.agent_output(&["rotate"])?;
    wait_phase(one, "announced", PHASE_DEADLINE)?;
    let next = told_key(one)?;
    // Node 3 has nothing to say to it, and is in touch no more by then.
    wait_phase(one, "promoted confirmed=0/1", CONFIRM_DEADLINE)?;
    ensure!(told_key(one)? == next, "another key is told");
    wait_phase(one, "settled", MINUTES_DEADLINE)?;
    streams.flow(3)?;
    streams.lost_nothing("announced, promoted and retired beside a plain peer with the old key")?;
    // Its last session with the old key ends.
    until(MINUTES_DEADLINE, "the plain peer to be cut off", || {
        ensure!(reach(&bed, 2, 1).is_err(), "it still reaches node 1");
        Ok(())
    })?;
    reach(&bed, 2, 3)?;
    foreign.configure(&bed, &[(1, next), (3, public_key(&bed, 3)?)])?;
    wait_reach(&bed, 2, 1)
}

/// How a key ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Retired,
    Revoked,
}

/// Node 1 gives its key up, which node 2 has for a peer's, a thief on node 3 for his own, and the
/// plain peer on node 4 for that of its peer.
fn given_up(context: &Context, program: &Path, ending: Ending) -> Result<()> {
    let bed = mesh(context, 4, &[1, 2])?;
    let (one, two) = (bed.node(1), bed.node(2));
    wait_reach(&bed, 1, 2)?;
    let old = public_key(&bed, 1)?;
    let stolen = Stolen {
        of: 1,
        set: "current",
    };
    let thief = Thief::start(&bed, program, stolen, (3, 2))?;
    if ending == Ending::Retired {
        // Before the plain peer is in touch: it would be waited for.
        one.agent_output(&["rotate"])?;
        wait_phase(one, "promoted confirmed=1/1", PHASE_DEADLINE)?;
        ensure!(public_key(&bed, 1)? != old, "the old key");
    }
    thief.is_heard()?;
    not_followed(&bed)?;
    let both = (IpVersion::V4, Initiator::Either);
    let foreign = ForeignNode::start(&bed, 4, program, both, &[(1, old)])?;
    wait_reach(&bed, 4, 1)?;
    let changes = || -> Result<u64> { Ok(status(two)?.reconcile.peer_changes) };
    let before = changes()?;
    match ending {
        Ending::Retired => wait_phase(one, "settled", MINUTES_DEADLINE)?,
        Ending::Revoked => {
            one.agent_output(&["revoke", "--yes"])?;
            wait_phase(one, "revoked", PHASE_DEADLINE)?;
        }
    }
    let new = public_key(&bed, 1)?;
    ensure!(new != old, "the old key");
    until(CONVERGENCE, "node 2 to have read it", || {
        ensure!(changes()? > before, "nothing has changed");
        let row = peer(two, "node-1")?;
        let key = row.public_key.context("no key")?;
        ensure!(decode(&key)? == new, "{key}");
        Ok(())
    })?;
    if ending == Ending::Revoked {
        thief.is_cut_off()?;
    }
    thief.is_refused()?;
    plain_peer_is_refused(&bed)?;
    wait_reach(&bed, 1, 2)?;
    foreign.configure(&bed, &[(1, new)])?;
    wait_reach(&bed, 4, 1)?;
    not_followed(&bed)
}

/// What spoke as node 1 from elsewhere has not moved it.
fn not_followed(bed: &Testbed) -> Result<()> {
    let row = peer(bed.node(2), "node-1")?;
    let addresses = bed.node(1).host().addresses();
    let endpoints = row.lane_endpoints.iter().flatten();
    for endpoint in endpoints {
        ensure!(addresses.contains(&endpoint.ip()), "{row:?}");
    }
    Ok(())
}

/// Node 4, which asks node 1 by the key of before, gets no answer.
fn plain_peer_is_refused(bed: &Testbed) -> Result<()> {
    until(MINUTES_DEADLINE, "the plain peer to be cut off", || {
        ensure!(reach(bed, 4, 1).is_err(), "it still reaches node 1");
        Ok(())
    })?;
    // A handshake message that was not made for any key of the node's.
    let refused = || -> Result<u64> { Ok(drops(bed.node(1))?["bad-mac"]) };
    let before = refused()?;
    until(PHASE_DEADLINE, "its handshakes to be refused", || {
        ensure!(reach(bed, 4, 1).is_err(), "it reaches node 1");
        let refused = refused()? - before;
        ensure!(refused >= 2, "{refused} only");
        Ok(())
    })
}
