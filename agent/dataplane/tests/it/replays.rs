//! What was caught on the underlay and is sent again, in time or much later.

use podwire_dataplane::DropReason;

use crate::simulation::{Network, Transit, milliseconds, seconds};

/// Initiations of `from` that nobody has received, oldest first.
fn caught_initiations(network: &mut Network, from: usize, to: usize, count: usize) -> Vec<Transit> {
    let filter = network.lose(|transit| transit.kind() == 1);
    let mut caught = Vec::new();
    while caught.len() < count {
        network.ping(from, to, 0);
        network.run(seconds(1));
        let sent = network.log.iter().map(|(_, transit)| transit.clone());
        caught.extend(sent.filter(|t| t.from == from && t.kind() == 1));
        network.clear_log();
    }
    network.heal(filter);
    caught
}

#[test]
fn initiations_that_are_sent_again_do_not_keep_us_from_asking() {
    let mut network = Network::new(&[1, 1]);
    let caught = caught_initiations(&mut network, 1, 0, 8);
    // What node 1 wanted is forgotten, and node 0 does not know that it ever was there.
    network.restart(0);
    network.restart(1);
    network.run(seconds(1));
    for (n, initiation) in (0..).zip(&caught) {
        network.inject_now(0, 0, &[(initiation.source, initiation.bytes.clone())]);
        for m in 0..4 {
            network.ping(0, 1, 4 * n + m);
            network.run(seconds(1));
        }
    }
    assert!(network.nodes[0].device.handshakes().responses_sent >= 8);
    network.assert_all_delivered(1, 32);
}

#[test]
fn an_initiation_that_is_sent_again_takes_nobodys_turn() {
    let mut network = Network::new(&[1, 1]);
    let caught = caught_initiations(&mut network, 1, 0, 1);
    network.restart(0);
    network.restart(1);
    // A handshake that was asked for is held back for a moment at random.
    let name = network.nodes[1].name.clone();
    network.nodes[0].device.request_handshake(&name);
    while !network.lane_status(0, 1, 0).handshaking {
        network.run(milliseconds(1));
    }
    assert_eq!(network.count(0, 1), 0, "still held back");
    network.inject_now(0, 0, &[(caught[0].source, caught[0].bytes.clone())]);
    network.run(seconds(2));
    assert!(network.lane_status(0, 1, 0).confirmed);
}

#[test]
fn two_initiations_that_are_sent_again_do_not_take_the_place_of_ours() {
    for (from, to) in [(0, 1), (1, 0)] {
        for is_held_back in [false, true] {
            let mut network = Network::new(&[1, 1]);
            let caught = caught_initiations(&mut network, to, from, 12);
            network.restart(from);
            network.restart(to);
            network.run(seconds(1));
            let mut recorded = caught
                .iter()
                .map(|t| (t.source, t.bytes.clone()))
                .collect::<std::collections::VecDeque<_>>();
            if is_held_back {
                let name = network.nodes[to].name.clone();
                network.nodes[from].device.request_handshake(&name);
                while !network.lane_status(from, to, 0).handshaking {
                    network.run(milliseconds(1));
                }
            } else {
                network.ping(from, to, 0);
            }
            // Two while each of ours is on its way.
            let mut sent = 0;
            network.clear_log();
            for _ in 0..3000 {
                let now_sent = network.count(from, 1);
                if now_sent > sent || recorded.len() == 12 {
                    for copy in recorded.drain(..2.min(recorded.len())).collect::<Vec<_>>() {
                        network.inject_now(from, 0, &[copy]);
                    }
                }
                sent = now_sent;
                network.run(milliseconds(1));
            }
            assert!(recorded.len() <= 10);
            assert!(
                network.lane_status(from, to, 0).confirmed,
                "{from} {is_held_back}"
            );
        }
    }
}

#[test]
fn a_cookie_reply_that_nobody_asked_for_changes_nothing() {
    let mut network = Network::unconnected(&[1, 1]);
    network.nodes[1].handshakes_per_second = 0;
    network.publish();
    network.restart(1);
    network.ping(0, 1, 0);
    network.run(seconds(10));
    network.assert_all_delivered(1, 1);
    // Whoever sends a copy of the last initiation from an address of its own is given a cookie
    // reply that fits it.
    let initiation = network.last_sent(0, 1);
    let elsewhere = "203.0.113.66:6666".parse().expect("an address");
    network.inject_now(1, 0, &[(elsewhere, initiation.bytes)]);
    let reply = network.last_sent(1, 3);
    assert_eq!(reply.destination, elsewhere);
    let before = network.nodes[0].device.handshakes();
    assert_eq!(before.cookie_replies_received, 1);
    // Node 1 is gone; each copy would be a sign of life, and node 0 would never ask.
    network.lose(|transit| transit.from == 1);
    network.run(seconds(20));
    network.clear_log();
    for n in 1..14 {
        network.ping(0, 1, n);
        network.inject_now(0, 0, &[(reply.source, reply.bytes.clone())]);
        network.run(seconds(1));
    }
    assert_eq!(network.nodes[0].device.handshakes(), before);
    assert_eq!(network.nodes[0].dropped(DropReason::HandshakeRejected), 13);
    network.run(seconds(3));
    assert!(network.count(0, 1) >= 1, "asks after 15 s of silence");
}

#[test]
fn an_initiation_from_before_an_epoch_does_not_shut_its_sender_out() {
    for (from, to) in [(0, 1), (1, 0)] {
        let mut network = Network::new(&[1, 1]);
        // The clock is an hour ahead, and somebody records what it stamps.
        let recorded = caught_initiations(&mut network, from, to, 2);
        network.run(seconds(200));
        network.nodes[to].delivered.clear();
        network.nodes[from].clock_behind = seconds(3600);
        network.begin_epoch(from);
        network.publish_to(to);
        let mut n = 0;
        for round in 0..4 {
            let answered = |network: &Network| network.nodes[to].device.handshakes().responses_sent;
            // Long enough for the receiver to begin anew.
            network.run(seconds(600));
            let before = answered(&network);
            for initiation in recorded.iter().rev().take(1 + round % 2) {
                let copy = (initiation.source, initiation.bytes.clone());
                network.inject_now(to, 0, &[copy]);
            }
            assert!(answered(&network) > before, "the recording is taken");
            for _ in 0..200 {
                network.ping(from, to, n);
                network.run(seconds(1));
                n += 1;
            }
            network.assert_all_delivered(to, n);
        }
        let asked = network.count(to, 1);
        assert!(asked <= 16, "{asked} initiations for what was recorded");
    }
}
