//! Lanes: several sessions between two nodes, each with its own key, port and thread.

use std::collections::BTreeSet;

use podwire_dataplane::DropReason;

use crate::packets::Packet;
use crate::simulation::{BASE_PORT, Network, milliseconds, seconds};

/// Every thread of every node sends a packet a second for some time, everything arrives, and the
/// data takes exactly the lanes that both nodes have.
fn check_lanes(counts: [usize; 2]) {
    let mut network = Network::new(&counts);
    let mut sequence = [0_u32; 2];
    for _ in 0..200 {
        for (from, to) in [(0, 1), (1, 0)] {
            for lane in 0..counts[from] {
                let packet = Packet::new(from, to).sequence(sequence[from]).bytes();
                network.send(from, lane, &packet);
                sequence[from] += 1;
            }
        }
        network.run(seconds(1));
    }
    network.assert_all_delivered(1, sequence[0]);
    network.assert_all_delivered(0, sequence[1]);
    let common = u16::try_from(counts[0].min(counts[1])).expect("few");
    for from in [0, 1] {
        // The first second is on lane 0, until the others have their sessions.
        let settled = network
            .log
            .iter()
            .filter(|(at, t)| *at > seconds(2) && t.from == from);
        let ports: BTreeSet<_> = settled
            .filter(|(_, t)| t.kind() == 4)
            .map(|(_, t)| t.destination.port())
            .collect();
        let of_node = u16::try_from(counts[from]).expect("few");
        let expected = (0..common.min(of_node))
            .map(|lane| BASE_PORT + lane)
            .collect();
        assert_eq!(ports, expected, "lanes of node {from} with {counts:?}");
        assert_eq!(
            network.status(from, 1 - from).lanes.len(),
            usize::from(common)
        );
    }
}

#[test]
fn two_nodes_use_the_lanes_that_both_have() {
    for counts in [[1, 1], [2, 2], [2, 5], [5, 2], [1, 8], [8, 1], [8, 8]] {
        check_lanes(counts);
    }
}

#[test]
fn each_flow_keeps_its_order() {
    let mut network = Network::new(&[2, 5]);
    for n in 0..2000_u32 {
        let lane = usize::try_from(n % 2).expect("small");
        network.send(0, lane, &Packet::new(0, 1).sequence(n).bytes());
        network.run(milliseconds(1));
    }
    network.run(seconds(1));
    network.assert_all_delivered(1, 2000);
    for parity in [0, 1] {
        let flow: Vec<_> = network.nodes[1]
            .sequence()
            .into_iter()
            .filter(|n| n % 2 == parity)
            .collect();
        assert!(flow.is_sorted(), "flow of lane {parity}");
    }
}

#[test]
fn a_lane_whose_port_is_blocked_leaves_its_flows_to_lane_0() {
    let mut network = Network::new(&[2, 2]);
    network.lose(|transit| transit.destination.port() == BASE_PORT + 1);
    for n in 0..600 {
        network.send(0, 1, &Packet::new(0, 1).sequence(n).bytes());
        network.run(seconds(1));
    }
    network.assert_all_delivered(1, 600);
    let tried = network
        .log
        .iter()
        .filter(|(_, t)| t.destination.port() == BASE_PORT + 1)
        .count();
    assert!(tried < 600 / 5, "{tried} datagrams to a blocked port");
}

#[test]
fn a_lane_whose_port_is_blocked_later_leaves_its_flows_to_lane_0() {
    // The session of the second case still lives when the lane is tried again.
    for before in [30, 125] {
        let mut network = Network::new(&[2, 2]);
        let mut n = 0;
        let mut send = |network: &mut Network, seconds: u32| {
            for _ in 0..seconds {
                network.send(0, 1, &Packet::new(0, 1).sequence(n).bytes());
                network.run(crate::simulation::seconds(1));
                n += 1;
            }
        };
        send(&mut network, before);
        assert!(network.lane_status(0, 1, 1).confirmed);
        let filter = network.lose(|transit| transit.destination.port() == BASE_PORT + 1);
        send(&mut network, 300);
        let sent = usize::try_from(before + 300).expect("small");
        let lost = sent - network.nodes[1].delivered.len();
        assert!(lost <= 20, "15 s of silence and a try of 5 s, not {lost} s");
        network.heal(filter);
        network.clear_log();
        send(&mut network, 100);
        let last = network.last_sent(0, 4);
        assert_eq!(
            last.destination.port(),
            BASE_PORT + 1,
            "the lane is taken again"
        );
        assert_eq!(network.nodes[1].delivered.len(), sent + 100 - lost);
    }
}

#[test]
fn a_plain_wireguard_peer_has_lane_0_only() {
    let mut network = Network::unconnected(&[4, 4]);
    network.nodes[1].publishes_lanes = 1;
    network.publish();
    for lane in 0..4_u32 {
        let thread = usize::try_from(lane).expect("small");
        network.send(0, thread, &Packet::new(0, 1).sequence(lane).bytes());
    }
    network.run(seconds(1));
    network.assert_all_delivered(1, 4);
    assert!(
        network
            .log
            .iter()
            .all(|(_, transit)| transit.destination.port() == BASE_PORT)
    );
}

#[test]
fn a_number_of_lanes_that_changes_loses_nothing() {
    let mut network = Network::unconnected(&[2, 2]);
    network.nodes[1].publishes_lanes = 1;
    network.publish();
    let mut n = 0;
    for publishes in [1, 2, 1, 2] {
        network.nodes[1].publishes_lanes = publishes;
        network.publish();
        for _ in 0..30 {
            network.send(0, 1, &Packet::new(0, 1).sequence(n).bytes());
            network.run(seconds(1));
            n += 1;
        }
        let common = network.status(0, 1).lanes.len();
        assert_eq!(common, publishes);
        let port = BASE_PORT + u16::try_from(publishes - 1).expect("small");
        assert_eq!(network.last_sent(0, 4).destination.port(), port);
    }
    network.assert_all_delivered(1, n);
}

#[test]
fn an_initiation_for_one_lane_is_nothing_to_another() {
    let mut network = Network::new(&[2, 2]);
    network.ping(0, 1, 0);
    let mut initiation = network.last_sent(0, 1);
    initiation.destination.set_port(BASE_PORT + 1);
    network.inject(initiation, milliseconds(1));
    network.run(seconds(1));
    assert_eq!(network.nodes[1].dropped(DropReason::BadMac), 1);
}
