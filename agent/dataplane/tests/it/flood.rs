//! Handshake floods: one budget for the node, cookies above it.

use podwire_dataplane::{DropReason, HANDSHAKES_PER_SECOND, HANDSHAKES_PER_SOURCE};

use crate::packets::Packet;
use crate::simulation::{BASE_PORT, Network, Transit, milliseconds, seconds};

#[test]
fn a_peer_gets_through_a_flood_by_its_cookie() {
    // Node 2 knows node 1 but is no peer of it: its initiations have a valid mac1.
    let mut network = Network::new(&[1, 1, 1]);
    let only_zero = [(network.nodes[0].name.clone(), network.record(0))].into();
    network.nodes[1].device.set_peers(&only_zero, network.now);
    network.ping(2, 1, 0);
    network.run(milliseconds(500));
    let initiation = network.last_sent(2, 1);
    assert_eq!(network.nodes[1].dropped(DropReason::UnknownPeer), 1);
    network.clear_log();
    let flood: Vec<_> = (0..100)
        .map(|_| (initiation.source, initiation.bytes.clone()))
        .collect();
    for n in 0..80 {
        // 1,000 a second for eight seconds, each time before the peer's turn.
        network.inject_now(1, 0, &flood);
        if n == 12 {
            network.ping(0, 1, 0);
        }
        network.run(milliseconds(100));
        network.clear_log();
    }
    network.assert_all_delivered(1, 1);
    let counts = network.nodes[1].device.handshakes();
    let answered = network.nodes[1].dropped(DropReason::UnknownPeer);
    assert!(
        answered <= u64::from(HANDSHAKES_PER_SECOND) * 9,
        "{answered} Diffie-Hellmans"
    );
    assert!(counts.cookie_replies_sent >= 8000 - answered);
    assert_eq!(
        network.nodes[0].device.handshakes().cookie_replies_received,
        1
    );
    assert_eq!(
        network.nodes[1].dropped(DropReason::HandshakeLimited),
        counts.cookie_replies_sent
    );
}

/// An initiation of node 2, which node 1 does not know, with a cookie of node 1 in it.
fn initiation_with_a_cookie(network: &mut Network) -> Transit {
    network.ping(2, 1, 0);
    network.run(milliseconds(500));
    let initiation = network.last_sent(2, 1);
    network.clear_log();
    let flood = vec![(initiation.source, initiation.bytes); 300];
    // Until its next one, which is then above the budget, and the one after that.
    for _ in 0..22 {
        network.inject_now(1, 0, &flood);
        network.run(milliseconds(500));
    }
    let with_cookie = network.last_sent(2, 1);
    assert_ne!(with_cookie.bytes[132..], [0; 16], "it has no cookie");
    network.clear_log();
    with_cookie
}

#[test]
fn a_source_that_has_a_cookie_is_limited_too() {
    let mut network = Network::new(&[1, 1, 1]);
    let only_zero = [(network.nodes[0].name.clone(), network.record(0))].into();
    network.nodes[1].device.set_peers(&only_zero, network.now);
    let initiation = initiation_with_a_cookie(&mut network);
    network.run(seconds(1));
    let before = network.nodes[1].dropped(DropReason::UnknownPeer);
    let flood = vec![(initiation.source, initiation.bytes); 1000];
    for n in 0..50 {
        // 10,000 a second for five seconds, and a peer that has to get through.
        network.inject_now(1, 0, &flood);
        if n == 2 {
            network.ping(0, 1, 0);
        }
        network.run(milliseconds(100));
        network.clear_log();
    }
    network.run(seconds(1));
    network.assert_all_delivered(1, 1);
    let answered = network.nodes[1].dropped(DropReason::UnknownPeer) - before;
    assert!(
        answered <= 6 * u64::from(HANDSHAKES_PER_SECOND + HANDSHAKES_PER_SOURCE),
        "{answered} Diffie-Hellmans"
    );
}

#[test]
fn what_else_comes_from_a_nodes_address_does_not_hold_the_node_back() {
    let mut network = Network::unconnected(&[1, 1, 1]);
    // In the place of a pod of node 0, whose packets are masqueraded.
    let pod = "192.0.2.11:40000".parse().expect("an address");
    network.nodes[2].nat = Some(pod);
    network.publish();
    let only_zero = [(network.nodes[0].name.clone(), network.record(0))].into();
    network.nodes[1].device.set_peers(&only_zero, network.now);
    let initiation = initiation_with_a_cookie(&mut network);
    assert_eq!(initiation.source, pod);
    network.run(seconds(1));
    let flood = vec![(initiation.source, initiation.bytes); 1000];
    for n in 0..80 {
        network.inject_now(1, 0, &flood);
        if n == 2 {
            network.ping(0, 1, 0);
        }
        network.run(milliseconds(100));
        network.clear_log();
    }
    network.assert_all_delivered(1, 1);
}

#[test]
fn the_budget_is_one_for_all_lanes() {
    let mut network = Network::unconnected(&[2, 2]);
    network.nodes[1].handshakes_per_second = HANDSHAKES_PER_SECOND;
    network.publish();
    network.restart(1);
    let filter = network.lose(|_| true);
    for lane in [0, 1] {
        network.send(0, lane, &Packet::new(0, 1).bytes());
    }
    network.run(milliseconds(100));
    network.heal(filter);
    let initiations: Vec<_> = network
        .log
        .iter()
        .map(|(_, transit)| transit.clone())
        .collect();
    assert_eq!(initiations.len(), 2);
    for initiation in initiations.iter().cycle().take(500) {
        let lane = usize::from(initiation.destination.port() - BASE_PORT);
        let copy = (initiation.source, initiation.bytes.clone());
        network.inject_now(1, lane, &[copy]);
    }
    let counts = network.nodes[1].device.handshakes();
    assert_eq!(
        (counts.initiations_received, counts.cookie_replies_sent),
        (500, 300)
    );
}

#[test]
fn a_handshake_message_for_somebody_else_costs_no_curve_operation() {
    let mut network = Network::new(&[1, 1, 1]);
    network.ping(0, 1, 0);
    let mut initiation = network.last_sent(0, 1);
    initiation.destination = "192.0.2.13:51880".parse().expect("an address");
    network.inject(initiation, milliseconds(1));
    network.run(seconds(1));
    assert_eq!(network.nodes[2].dropped(DropReason::BadMac), 1);
    assert_eq!(network.nodes[2].device.handshakes().initiations_received, 0);
}

#[test]
fn our_own_initiation_that_comes_back_is_no_peer() {
    let mut network = Network::new(&[1, 1]);
    // A record that names our own key: the control plane refuses it, the device survives it.
    let own = network.record(0);
    let name = network.nodes[1].name.clone();
    network.nodes[0]
        .device
        .set_peers(&[(name, own)].into(), network.now);
    network.send(0, 0, &Packet::new(1, 0).bytes());
    network.run(seconds(1));
    assert_eq!(network.nodes[0].dropped(DropReason::OwnKey), 1);
    assert_eq!(network.count(0, 2), 0);
}

#[test]
fn recorded_initiations_do_not_hold_own_handshakes_back() {
    let mut network = Network::new(&[1, 1]);
    // Initiations of node 1 to node 0 that somebody has recorded: one each time after a long rest.
    let filter = network.lose(|_| true);
    for n in 0..8 {
        network.ping(1, 0, n);
        network.run(seconds(90));
    }
    network.heal(filter);
    let recorded: Vec<_> = network
        .log
        .iter()
        .map(|(_, transit)| transit.clone())
        .filter(|transit| transit.from == 1 && transit.kind() == 1)
        .collect();
    network.run(seconds(700));
    network.nodes[1].delivered.clear();
    assert!(recorded.len() >= 12);
    // Replayed in order, a little more often than a handshake is retried.
    for (n, transit) in (0..).zip(recorded.iter().take(12)) {
        network.inject_now(0, 0, &[(transit.source, transit.bytes.clone())]);
        network.ping(0, 1, n);
        network.run(milliseconds(4_900));
    }
    network.assert_all_delivered(1, 12);
}
