//! Sessions come, are renewed and end.

use podwire_dataplane::{DropReason, PeerState};

use crate::packets::Packet;
use crate::simulation::{Network, milliseconds, seconds};

//= WireGuard §6.1
const REKEY_AFTER_TIME: u64 = 120;
const REJECT_AFTER_TIME: u64 = 180;

#[test]
fn the_first_packet_waits_for_the_handshake_and_arrives() {
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    assert_eq!(network.status(0, 1).state, PeerState::Handshaking);
    network.run(milliseconds(10));
    network.assert_all_delivered(1, 1);
    assert_eq!(network.status(0, 1).state, PeerState::Connected);
    assert_eq!(network.status(1, 0).state, PeerState::Connected);
    assert_eq!((network.count(0, 1), network.count(1, 2)), (1, 1));
}

#[test]
fn two_hours_at_a_packet_a_second_lose_nothing() {
    let mut network = Network::new(&[1, 1]);
    let hours = 2 * 3600;
    for n in 0..hours {
        network.ping(0, 1, n);
        network.ping(1, 0, n);
        network.run(seconds(1));
    }
    network.assert_all_delivered(1, hours);
    network.assert_all_delivered(0, hours);
    let handshakes = network.count(0, 1) + network.count(1, 1);
    let expected = usize::try_from(u64::from(hours) / REKEY_AFTER_TIME).expect("fits");
    assert!(
        handshakes <= expected + 2,
        "{handshakes} handshakes, expected {expected}"
    );
    assert!(
        handshakes >= expected - 2,
        "{handshakes} handshakes, expected {expected}"
    );
}

#[test]
fn a_rekey_under_load_loses_nothing_and_keeps_the_order() {
    let mut network = Network::new(&[1, 1]);
    let mut sequence = 0;
    // 1,000 packets a second in both directions, through three rekeys.
    for _ in 0..400_u64 * 100 {
        let burst = |from, to| -> Vec<_> {
            let numbers = sequence..sequence + 10;
            numbers
                .map(|n| Packet::new(from, to).sequence(n).bytes())
                .collect()
        };
        let (there, back) = (burst(0, 1), burst(1, 0));
        network.send_all(0, 0, &there);
        network.send_all(1, 0, &back);
        sequence += 10;
        network.run(milliseconds(10));
        network.clear_log();
    }
    network.run(seconds(1));
    for node in [0, 1] {
        network.assert_all_delivered(node, sequence);
        assert!(network.nodes[node].sequence().is_sorted(), "order is kept");
        let drops = network.nodes[node].all_drops();
        assert!(
            drops
                .iter()
                .all(|(reason, _)| *reason == DropReason::HandshakeCrossed),
            "{drops:?}"
        );
        let handshakes = network.lane_status(node, 1 - node, 0).traffic.handshakes;
        assert!((3..=5).contains(&handshakes), "{handshakes} handshakes");
    }
}

#[test]
fn a_rekey_whose_messages_are_lost_is_ridden_over() {
    let mut network = Network::new(&[1, 1]);
    let mut handshakes_lost = 0;
    // Every handshake message of the first five after the first is lost: 25 s of retries.
    network.lose(move |transit| {
        let is_lost = transit.kind() < 4 && (2..12).contains(&handshakes_lost);
        handshakes_lost += u32::from(transit.kind() < 4);
        is_lost
    });
    for n in 0..600 {
        network.ping(0, 1, n);
        network.run(seconds(1));
    }
    network.assert_all_delivered(1, 600);
}

#[test]
fn an_idle_session_ends_and_leaves_nothing_to_tick() {
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    network.run(seconds(5));
    assert!(network.lane_status(0, 1, 0).confirmed);
    network.clear_log();
    network.run(seconds(REJECT_AFTER_TIME));
    assert!(!network.lane_status(0, 1, 0).confirmed);
    let sent = network.log.len();
    // One packet that is answered by a keepalive is followed by nothing else.
    assert!(sent <= 1, "an idle pair sent {sent} datagrams");
    network.run(seconds(420));
    for node in [0, 1] {
        assert_eq!(
            network.lane_status(node, 1 - node, 0).sessions,
            0,
            "dropped when long idle"
        );
    }
    network.clear_log();
    network.run(seconds(3600));
    assert_eq!(network.log.len(), 0);
    network.ping(0, 1, 1);
    network.run(seconds(1));
    network.assert_all_delivered(1, 2);
    assert_eq!(network.nodes[1].dropped(DropReason::HandshakeRejected), 0);
}

#[test]
fn a_pair_that_talks_now_and_then_reuses_its_state() {
    let mut network = Network::new(&[1, 1]);
    // Between the end of a session and the end of its state, and beyond both.
    let pauses = [200, 300, 400, 500, 550, 590, 601, 700, 1200, 181, 359];
    for (n, pause) in (0..).zip(pauses) {
        network.ping(0, 1, n);
        network.run(seconds(1));
        network.assert_all_delivered(1, n + 1);
        network.run(seconds(pause));
    }
    let initiations = network.count(0, 1);
    assert_eq!(initiations, pauses.len(), "one handshake for each packet");
}

#[test]
fn a_process_that_was_stopped_uses_no_expired_session() {
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    network.run(seconds(1));
    network.freeze(seconds(REJECT_AFTER_TIME));
    network.clear_log();
    network.ping(0, 1, 1);
    assert_eq!(network.count(0, 4), 0, "no data before the next handshake");
    network.run(seconds(6));
    network.assert_all_delivered(1, 2);
}

#[test]
fn a_session_that_its_initiator_cannot_renew_is_renewed_by_the_responder() {
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    network.run(seconds(1));
    network.lose(|transit| transit.from == 0 && transit.kind() == 1);
    for n in 0..400 {
        assert!(
            network.lane_status(1, 0, 0).confirmed,
            "no packet waits for a session"
        );
        network.ping(0, 1, 1 + n);
        network.ping(1, 0, n);
        network.run(seconds(1));
    }
    network.assert_all_delivered(0, 400);
    network.assert_all_delivered(1, 401);
}

#[test]
fn a_responder_with_packets_waits_for_the_initiator() {
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    network.run(milliseconds(3));
    assert_eq!(network.count(1, 2), 1, "answered, but not confirmed");
    network.ping(1, 0, 0);
    network.run(seconds(10));
    network.assert_all_delivered(0, 1);
    assert_eq!(network.count(0, 1) + network.count(1, 1), 1);
}

#[test]
fn a_responder_whose_initiator_vanishes_starts_over_by_itself() {
    let mut network = Network::new(&[1, 1]);
    let filter = network.lose(|transit| transit.from == 1 || transit.kind() == 4);
    network.ping(0, 1, 0);
    network.run(milliseconds(3));
    network.ping(1, 0, 0);
    network.heal(filter);
    network.lose(|transit| transit.from == 0 && transit.kind() == 1);
    network.run(seconds(6));
    network.assert_all_delivered(0, 1);
}

#[test]
fn simultaneous_starts_need_one_round() {
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    network.ping(1, 0, 0);
    network.run(milliseconds(20));
    network.assert_all_delivered(0, 1);
    network.assert_all_delivered(1, 1);
    let initiations = network.count(0, 1) + network.count(1, 1);
    let responses = network.count(0, 2) + network.count(1, 2);
    assert_eq!(
        (initiations, responses),
        (2, 1),
        "of two that cross, one is answered"
    );
    network.run(seconds(100));
    assert_eq!(
        network.count(0, 1) + network.count(1, 1),
        2,
        "and neither is repeated"
    );
}

#[test]
fn handshakes_that_both_ends_are_asked_for_are_one() {
    let mut network = Network::new(&[1, 1]);
    for (from, to) in [(0, 1), (1, 0)] {
        let name = network.nodes[to].name.clone();
        network.nodes[from].device.request_handshake(&name);
    }
    network.run(seconds(2));
    assert!(network.lane_status(0, 1, 0).confirmed && network.lane_status(1, 0, 0).confirmed);
    assert_eq!(
        network.count(0, 1) + network.count(1, 1),
        1,
        "the slower one is called off"
    );
}

#[test]
fn simultaneous_starts_survive_the_loss_of_the_first_initiation() {
    // At the same time, or when the other one is up only a moment later, and what was sent to it
    // before is lost.
    for (lost, pause) in [(0, 0), (1, 0), (0, 300), (1, 300), (0, 900), (1, 900)] {
        let mut network = Network::new(&[1, 1]);
        let mut is_first = true;
        network.lose(move |transit| {
            transit.from == lost && transit.kind() == 1 && std::mem::take(&mut is_first)
        });
        network.ping(lost, 1 - lost, 0);
        network.run(milliseconds(pause));
        network.ping(1 - lost, lost, 0);
        network.run(milliseconds(1_500));
        network.assert_all_delivered(0, 1);
        network.assert_all_delivered(1, 1);
        network.run(seconds(10));
        let initiations = network.count(0, 1) + network.count(1, 1);
        assert!(initiations <= 3, "{initiations}, {lost} {pause}");
    }
}

#[test]
fn three_nodes_that_start_together_all_talk() {
    let mut network = Network::new(&[1, 1, 1]);
    for (from, to) in [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)] {
        let number = u32::try_from(from).expect("few");
        network.ping(from, to, number);
    }
    network.run(milliseconds(30));
    for node in 0..3 {
        assert_eq!(network.nodes[node].delivered.len(), 2);
    }
    let initiations: usize = (0..3).map(|node| network.count(node, 1)).sum();
    assert_eq!(initiations, 6);
}
