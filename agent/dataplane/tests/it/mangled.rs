//! Every message with every bit changed, of every length, on every lane: dropped for its reason,
//! and nothing else changes.

use std::collections::BTreeSet;

use podwire_dataplane::{DropReason, HandshakeCounts, LaneStatus};

use crate::packets::Packet;
use crate::simulation::{Network, Transit, milliseconds, seconds};

const LANES: usize = 2;

/// Reasons for one change, of which the dataplane must name one.
type Reasons = &'static [DropReason];

const MALFORMED: Reasons = &[DropReason::MalformedMessage];
const BAD_MAC: Reasons = &[DropReason::BadMac];
const REJECTED: Reasons = &[DropReason::HandshakeRejected];
const NO_SESSION: Reasons = &[DropReason::UnknownIndex, DropReason::ForeignGeneration];
const REPLAYED: Reasons = &[DropReason::Replayed];
const NOT_AUTHENTIC: Reasons = &[DropReason::DecryptFailed];
/// A changed counter is one that was seen, or one whose packet does not authenticate.
const COUNTER: Reasons = &[DropReason::Replayed, DropReason::DecryptFailed];

/// What a message with a bit changed at `at` is dropped for; `whole` says what for as it is.
//= WireGuard §5.4
fn reasons(kind: u8, at: usize, whole: Reasons) -> Reasons {
    match (kind, at) {
        (_, 0..=3) => MALFORMED,
        // The lowest byte of a receiver index is the session's in its slot.
        (2, 9..=11) | (3, 5..=7) | (4, 4..=7) => NO_SESSION,
        // mac1 covers all before it; mac2 counts only under load.
        (1, 4..=131) | (2, 4..=75) => BAD_MAC,
        (3, _) => REJECTED,
        (4, 8..=15) => COUNTER,
        _ => whole,
    }
}

/// All that a mangled message must leave alone.
#[derive(Debug, PartialEq)]
struct Untouched {
    lanes: Vec<String>,
    handshakes: HandshakeCounts,
    delivered: usize,
    sent: usize,
}

fn untouched(network: &Network, node: usize) -> Untouched {
    let lane = |lane| {
        let mut status: LaneStatus = network.lane_status(node, 1 - node, lane);
        status.traffic.drops = 0;
        format!("{status:?}")
    };
    Untouched {
        lanes: (0..LANES).map(lane).collect(),
        handshakes: HandshakeCounts {
            // Those whose mac1 is right are counted, whatever becomes of them.
            initiations_received: 0,
            ..network.nodes[node].device.handshakes()
        },
        delivered: network.nodes[node].delivered.len(),
        sent: network.log.len(),
    }
}

/// Hands bytes to a lane and checks that they are dropped for one of `expected`, once, and that
/// nothing else has changed.
#[track_caller]
fn assert_dropped(network: &mut Network, transit: &Transit, lane: usize, expected: Reasons) {
    let node = 1 - transit.from;
    let (before, drops) = (untouched(network, node), network.nodes[node].device.drops());
    network.inject_now(node, lane, &[(transit.source, transit.bytes.clone())]);
    let counted: Vec<_> = (drops.into_iter().zip(network.nodes[node].device.drops()))
        .filter(|(before, after)| before != after)
        .map(|((reason, before), (_, after))| (reason, after - before))
        .collect();
    let what = (transit.kind(), transit.bytes.len(), lane);
    assert!(
        matches!(counted[..], [(reason, 1)] if expected.contains(&reason)),
        "{what:?}: {counted:?}, not {expected:?}"
    );
    assert_eq!(untouched(network, node), before, "{what:?}");
}

/// Every bit changed, every shorter and some longer lengths; `whole` is what the message is dropped
/// for as it is.
fn mangle(network: &mut Network, message: &Transit, whole: Reasons) {
    let (kind, length) = (message.kind(), message.bytes.len());
    let lane = usize::from(message.destination.port() - crate::simulation::BASE_PORT);
    for at in 0..length {
        for bit in 0..8 {
            let mut mangled = message.clone();
            mangled.bytes[at] ^= 1 << bit;
            assert_dropped(network, &mangled, lane, reasons(kind, at, whole));
        }
    }
    for other in (1..length).chain([length + 1, length + 16, 1500, 9000, 65_507]) {
        let mut mangled = message.clone();
        mangled.bytes.resize(other, 0);
        let expected = match kind {
            4 if other >= 32 && whole == REPLAYED => REPLAYED,
            4 if other >= 32 => NOT_AUTHENTIC,
            _ => MALFORMED,
        };
        assert_dropped(network, &mangled, lane, expected);
    }
    // The other lane has another key and other sessions.
    let expected = if kind == 1 { BAD_MAC } else { NO_SESSION };
    assert_dropped(network, message, 1 - lane, expected);
}

/// A pair with sessions on all lanes, and one message of each kind that has arrived.
fn connected() -> (Network, Vec<Transit>) {
    let mut network = Network::new(&[LANES, LANES]);
    for lane in 0..LANES {
        network.send(0, lane, &Packet::new(0, 1).bytes());
    }
    network.run(seconds(1));
    let sent = network.log.iter().map(|(_, transit)| transit.clone());
    let mut seen = BTreeSet::new();
    let of_each = sent.filter(|t| seen.insert((t.kind(), t.destination.port())));
    let messages = of_each.collect();
    (network, messages)
}

/// Traffic goes on, on the sessions that were there.
fn assert_whole(network: &mut Network) {
    network.clear_log();
    for node in &mut network.nodes {
        node.delivered.clear();
    }
    for (from, lane) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        network.send(from, lane, &Packet::new(from, 1 - from).bytes());
    }
    network.run(seconds(1));
    assert!(network.nodes.iter().all(|node| node.delivered.len() == 2));
    assert!(network.log.iter().all(|(_, transit)| transit.kind() == 4));
}

#[test]
fn a_message_that_has_arrived_arrives_no_more_however_it_is_changed() {
    let (mut network, messages) = connected();
    let kinds: BTreeSet<_> = messages.iter().map(Transit::kind).collect();
    assert_eq!(kinds, BTreeSet::from([1, 2, 4]));
    for message in &messages {
        let whole = if message.kind() == 4 {
            REPLAYED
        } else {
            REJECTED
        };
        assert_dropped(
            &mut network,
            message,
            usize::from(message.destination.port() - crate::simulation::BASE_PORT),
            whole,
        );
        mangle(&mut network, message, whole);
        // Below the handshake limit.
        network.run(seconds(1));
    }
    assert_whole(&mut network);
}

#[test]
fn a_packet_that_is_changed_on_its_way_is_not_delivered() {
    let (mut network, _) = connected();
    let held = network.lose(|_| true);
    for lane in 0..LANES {
        network.send(0, lane, &Packet::new(0, 1).length(60).bytes());
        let fresh = network.last_sent(0, 4);
        mangle(&mut network, &fresh, NOT_AUTHENTIC);
        // As it was sent it still is good.
        network.inject(fresh, milliseconds(1));
    }
    network.heal(held);
    network.run(milliseconds(10));
    assert_eq!(network.nodes[1].delivered.len(), 2 + LANES);
    assert_whole(&mut network);
}

#[test]
fn a_cookie_reply_that_is_changed_on_its_way_is_not_kept() {
    let mut network = Network::unconnected(&[LANES, LANES]);
    network.nodes[1].handshakes_per_second = 0;
    network.publish();
    network.restart(1);
    let held = network.lose(|transit| transit.from == 1);
    network.ping(0, 1, 0);
    network.run(milliseconds(10));
    let reply = network.last_sent(1, 3);
    mangle(&mut network, &reply, REJECTED);
    network.heal(held);
    network.inject(reply, milliseconds(1));
    network.run(seconds(6));
    let counts = network.nodes[0].device.handshakes();
    assert_eq!(counts.cookie_replies_received, 1);
    network.assert_all_delivered(1, 1);
}
