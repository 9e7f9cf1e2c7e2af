//! The traps of boringtun, one test each: avoided, or shown where there is no way around.

use std::net::SocketAddr;

use podwire_dataplane::{DropReason, REPLAY_WINDOW};

use crate::packets::Packet;
use crate::simulation::{Network, Transit, milliseconds, seconds};

/// Initiations of node 0 that node 1 never saw, oldest first.
fn lost_initiations(network: &mut Network, count: u64) -> Vec<Transit> {
    let filter = network.lose(|transit| transit.kind() == 1);
    network.ping(0, 1, 0);
    network.run(seconds(6 * count));
    network.heal(filter);
    let sent = network.log.iter().map(|(_, transit)| transit.clone());
    let initiations: Vec<_> = sent.filter(|transit| transit.kind() == 1).collect();
    network.clear_log();
    initiations
}

#[test]
fn trap_1_a_handshake_is_counted_once_and_by_the_node_only() {
    let mut network = Network::new(&[1, 1]);
    let initiations = lost_initiations(&mut network, 14);
    assert!(
        initiations.len() > 10,
        "more than a Tunn of its own would answer in a second"
    );
    for initiation in &initiations {
        network.inject_now(1, 0, &[(initiation.source, initiation.bytes.clone())]);
    }
    let counts = network.nodes[1].device.handshakes();
    let expected = u64::try_from(initiations.len()).expect("fits");
    assert_eq!(counts.initiations_received, expected);
    assert_eq!(counts.responses_sent, expected);
    assert_eq!(counts.cookie_replies_sent, 0);
}

#[test]
fn trap_2_two_ends_that_start_with_full_queues_need_one_round() {
    let mut network = Network::new(&[1, 1]);
    for n in 0..50 {
        network.ping(0, 1, n);
        network.ping(1, 0, n);
    }
    network.run(milliseconds(20));
    network.assert_all_delivered(0, 50);
    network.assert_all_delivered(1, 50);
    assert_eq!(network.count(0, 1) + network.count(1, 1), 2);
    assert_eq!(network.count(0, 2) + network.count(1, 2), 1);
}

#[test]
fn trap_2_the_queue_drops_the_oldest_and_what_has_waited_long() {
    let mut network = Network::new(&[1, 1]);
    let filter = network.lose(|_| true);
    for n in 0..130 {
        network.ping(0, 1, n);
    }
    assert_eq!(network.nodes[0].dropped(DropReason::QueueFull), 2);
    assert_eq!(network.lane_status(0, 1, 0).queued, 128);
    network.run(seconds(9));
    network.heal(filter);
    network.run(milliseconds(900));
    assert_eq!(
        network.lane_status(0, 1, 0).queued,
        128,
        "waits for the retry at ten seconds"
    );
    network.run(seconds(1));
    assert_eq!(network.nodes[0].dropped(DropReason::QueueExpired), 128);
    let filter = network.lose(|transit| transit.kind() == 1);
    network.run(seconds(200));
    network.ping(0, 1, 200);
    network.run(seconds(3));
    network.heal(filter);
    network.run(seconds(3));
    assert_eq!(
        network.nodes[1].sequence(),
        [200],
        "one lost initiation is ridden over"
    );
}

#[test]
fn trap_3_initiations_whose_responses_are_lost_do_not_evict_the_live_session() {
    let mut network = Network::new(&[1, 1]);
    // Node 0 asks and asks, and never hears an answer.
    let mut lost = 0;
    for n in 0..178 {
        if n == 100 {
            lost = network.lose(|transit| transit.kind() == 2);
            network.clear_log();
        }
        network.ping(0, 1, n);
        network.run(seconds(1));
    }
    let (accepted, own) = (network.count(1, 2), network.count(1, 1));
    assert!(
        accepted > 8,
        "the eighth of {accepted} would have evicted it"
    );
    assert_eq!(own, 0);
    network.assert_all_delivered(1, 178);
    network.heal(lost);
    network.clear_log();
    for n in 178..1000 {
        network.ping(0, 1, n);
        network.run(seconds(1));
    }
    network.assert_all_delivered(1, 1000);
    assert_eq!(
        network.lane_status(1, 0, 0).sessions,
        1,
        "back to one member"
    );
    let handshakes = network.count(0, 1) + network.count(1, 1);
    assert!(handshakes <= 9, "{handshakes} in 822 s");
}

#[test]
fn trap_3_own_retries_and_foreign_initiations_together_do_not_evict_it_either() {
    // boringtun counts an index for each of its own initiations too, so that fewer than eight that
    // are accepted reach the live session.
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    network.run(seconds(1));
    network.lose(|transit| transit.from == 0 && transit.kind() < 4);
    for n in 0..177 {
        network.ping(0, 1, 1 + n);
        network.ping(1, 0, n);
        network.run(seconds(1));
    }
    assert!(network.count(0, 1) >= 2 && network.count(0, 2) >= 7);
    network.assert_all_delivered(0, 177);
    network.assert_all_delivered(1, 178);
}

#[test]
fn trap_4_a_packet_that_is_1024_packets_late_is_taken_for_a_replay() {
    assert_eq!(REPLAY_WINDOW, 1024, "boringtun's window");
    for (late, is_delivered) in [(1023, true), (1024, false)] {
        let mut network = Network::new(&[1, 1]);
        network.ping(0, 1, 0);
        // Until the session is confirmed for the last time: keepalives count too.
        network.run(seconds(5));
        let filter = network.lose(|transit| transit.kind() == 4);
        network.ping(0, 1, 1);
        network.heal(filter);
        let held = network.last_sent(0, 4);
        for n in 0..late {
            network.ping(0, 1, 2 + n);
        }
        network.run(seconds(1));
        network.inject(held, milliseconds(1));
        network.run(seconds(1));
        assert_eq!(
            network.nodes[1].sequence().contains(&1),
            is_delivered,
            "late by {late}"
        );
        let replayed = network.nodes[1].dropped(DropReason::Replayed);
        assert_eq!(replayed, u64::from(!is_delivered));
    }
}

#[test]
fn trap_4_a_packet_that_is_sent_twice_is_delivered_once() {
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    network.run(seconds(1));
    network.ping(0, 1, 1);
    let copy = network.last_sent(0, 4);
    network.inject(copy, milliseconds(50));
    network.run(seconds(1));
    network.assert_all_delivered(1, 2);
    assert_eq!(network.nodes[1].dropped(DropReason::Replayed), 1);
}

#[test]
fn trap_5_packets_are_padded_to_16_bytes_but_never_beyond_the_path() {
    let mut network = Network::unconnected(&[1, 1]);
    network.nodes[1].path_mtu = 1480;
    network.publish();
    network.ping(0, 1, 0);
    network.run(seconds(1));
    for (length, datagram) in [
        (100, 112 + 32),
        (112, 112 + 32),
        (1409, 1420 + 32),
        (1420, 1420 + 32),
    ] {
        let packet = Packet::new(0, 1).length(length).sequence(1).bytes();
        network.send(0, 0, &packet);
        assert_eq!(
            network.last_sent(0, 4).bytes.len(),
            datagram,
            "packet of {length}"
        );
        network.run(seconds(1));
        assert_eq!(
            network.nodes[1].delivered.last(),
            Some(&packet),
            "padding is taken off"
        );
    }
    // Packets that waited are padded too.
    let waited = network
        .log
        .iter()
        .find(|(_, t)| t.from == 0 && t.kind() == 4 && t.bytes.len() > 32);
    assert_eq!(
        waited.map(|(_, transit)| transit.bytes.len()),
        Some(112 + 32)
    );
}

#[test]
fn trap_5_retries_are_spread_at_random() {
    let mut network = Network::new(&[1, 1]);
    network.lose(|_| true);
    network.ping(0, 1, 0);
    network.run(seconds(80));
    let initiations = network
        .log
        .iter()
        .filter(|(_, transit)| transit.kind() == 1);
    let times: Vec<_> = initiations.map(|(at, _)| *at).collect();
    let pauses: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.len() >= 13, "{pauses:?}");
    // REKEY_TIMEOUT, up to one tick, jitter of 0 to 333 ms, of this retry and the one before.
    let is_near = |pause: &_| (milliseconds(4_600)..=milliseconds(5_600)).contains(pause);
    assert!(pauses.iter().all(is_near), "{pauses:?}");
    assert!(pauses.iter().any(|pause| *pause != pauses[0]), "{pauses:?}");
}

#[test]
fn trap_6_sparse_one_way_traffic_costs_no_handshakes_of_its_own() {
    let mut network = Network::new(&[1, 1]);
    for n in 0..180 {
        network.ping(0, 1, n);
        network.run(seconds(20));
    }
    network.assert_all_delivered(1, 180);
    // An hour: a rekey every 120 s. Left alone, boringtun does one for each packet.
    let handshakes = network.count(0, 1) + network.count(1, 1);
    assert!((25..=31).contains(&handshakes), "{handshakes} handshakes");
}

#[test]
fn trap_6_a_peer_that_does_not_answer_is_asked_after_15_seconds() {
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    network.run(seconds(40));
    network.clear_log();
    network.lose(|_| true);
    let sent = network.now - network.start;
    network.ping(0, 1, 1);
    network.run(seconds(20));
    let first = network
        .log
        .iter()
        .find(|(_, transit)| transit.kind() == 1)
        .expect("asks");
    let silence = first.0 - sent;
    assert!(
        (seconds(15)..milliseconds(15_600)).contains(&silence),
        "after {silence:?}"
    );
}

#[test]
fn trap_7_an_offline_peer_is_no_error_and_is_found_again() {
    let mut network = Network::new(&[1, 1]);
    let filter = network.lose(|_| true);
    for n in 0..3600 {
        network.ping(0, 1, n);
        network.run(seconds(1));
    }
    let initiations = network.count(0, 1);
    assert!(
        (600..=720).contains(&initiations),
        "{initiations} in an hour"
    );
    network.heal(filter);
    network.run(seconds(6));
    assert_eq!(network.nodes[1].sequence().last(), Some(&3599));
    // An error in the log would fail the test when the network goes.
}

#[test]
fn trap_7_a_peer_that_went_away_and_was_asked_once_is_no_error() {
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    network.run(seconds(5));
    network.lose(|_| true);
    network.run(seconds(400));
    network.ping(0, 1, 1);
    network.run(seconds(3600));
    assert_eq!(network.lane_status(0, 1, 0).sessions, 0);
    let initiations = network.count(0, 1);
    assert!(
        (17..=20).contains(&initiations),
        "one handshake of 90 s, not {initiations} initiations"
    );
}

#[test]
fn trap_8_a_keepalive_moves_a_roaming_peer_and_a_cookie_reply_does_not() {
    let address = |text: &str| -> SocketAddr { text.parse().expect("an address") };
    let (before, after) = (address("198.51.100.7:40000"), address("198.51.100.8:40000"));
    let mut network = Network::unconnected(&[1, 1]);
    network.nodes[0].nat = Some(before);
    network.publish();
    network.ping(0, 1, 0);
    network.run(seconds(1));
    assert_eq!(network.lane_status(1, 0, 0).endpoint, Some(before));
    // The roaming peer is under load for good, and has moved; the other end still knows the old
    // place.
    network.nodes[0].handshakes_per_second = 0;
    network.restart(0);
    let name = network.nodes[0].name.clone();
    network.run(seconds(200));
    network.clear_log();
    network.nodes[1].device.request_handshake(&name);
    network.run(seconds(1));
    let mut reply = network.last_sent(0, 3);
    assert_eq!(
        network.nodes[1].device.handshakes().cookie_replies_received,
        1
    );
    reply.source = after;
    network.inject(reply, milliseconds(1));
    network.run(milliseconds(10));
    assert_eq!(
        network.nodes[1].device.handshakes().cookie_replies_received,
        2
    );
    assert_eq!(
        network.lane_status(1, 0, 0).endpoint,
        Some(before),
        "a cookie reply proves nothing"
    );
    network.run(seconds(10));
    assert!(
        network.lane_status(1, 0, 0).confirmed,
        "the cookie is used at the next retry"
    );
    network.run(seconds(20));
    network.ping(1, 0, 1);
    network.run(milliseconds(3));
    network.nodes[0].nat = Some(after);
    network.clear_log();
    network.run(seconds(11));
    assert!(
        network
            .log
            .iter()
            .all(|(_, t)| t.from == 0 && t.kind() == 4 && t.bytes.len() == 32)
    );
    assert_eq!(
        network.lane_status(1, 0, 0).endpoint,
        Some(after),
        "a keepalive does"
    );
}

#[test]
fn trap_9_and_10_no_length_and_no_short_output_is_too_short() {
    use podwire_dataplane::{DeliveryBatch, OverlayBatch, UnderlayBatch};
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    network.run(seconds(1));
    network.ping(0, 1, 1);
    let data = network.last_sent(0, 4);
    let (initiation, response) = (network.last_sent(0, 1), network.last_sent(1, 2));
    let mut lane = network.nodes[1].device.lane(0, network.now);
    for message in [&data, &initiation, &response] {
        for length in 0..=message.bytes.len() {
            for room in [0, 1, 31, 32, 64, 91, 92, 147, 148, 149, 4096] {
                let mut datagrams = UnderlayBatch::with_capacity(4096, 1);
                datagrams.room()[..length].copy_from_slice(&message.bytes[..length]);
                datagrams.commit_front(0, message.source, length);
                let mut send = UnderlayBatch::with_capacity(room, 1);
                let mut deliver = DeliveryBatch::with_capacity(room, 1);
                lane.handle_underlay(network.now, &mut datagrams, &mut send, &mut deliver);
                lane.handle_timeout(network.now, &mut send, &mut deliver);
            }
        }
    }
    let mut lane = network.nodes[0].device.lane(0, network.now);
    let packet = Packet::new(0, 1).bytes();
    for length in 0..=packet.len() {
        for room in [0, 1, 31, 32, 92, 131, 132, 143, 144, 147, 148, 4096] {
            let mut packets = OverlayBatch::with_capacity(4096, 1);
            packets.room()[..length].copy_from_slice(&packet[..length]);
            packets.commit_front(length);
            let mut send = UnderlayBatch::with_capacity(room, 1);
            let mut deliver = DeliveryBatch::with_capacity(room, 1);
            lane.handle_overlay(network.now, &mut packets, &mut send, &mut deliver);
            let is_packet = length == packet.len();
            assert_eq!(
                packets.is_empty(),
                !is_packet || room >= 148,
                "{length} into {room}"
            );
        }
    }
}
