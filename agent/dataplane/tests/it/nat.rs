//! A node that nobody can reach unasked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use podwire_dataplane::DropReason;

use crate::packets::Packet;
use crate::simulation::{Network, Transit, seconds};

/// How long its router remembers whom the node has asked: Linux's for UDP without an answer.
const MEMORY: Duration = seconds(30);

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Node 0 is behind a router that lets in only what comes from where it lately sent to.
pub(crate) fn hidden(lanes: &[usize]) -> Network {
    let outside = address("198.51.100.7:40000");
    let mut network = Network::unconnected(lanes);
    let inside = &mut network.nodes[0];
    inside.nat = Some(outside);
    inside.keeps_open = true;
    let mut asked: BTreeMap<(SocketAddr, SocketAddr), Instant> = BTreeMap::new();
    network.watch(move |now, transit: &Transit| {
        if transit.from == 0 {
            asked.insert((transit.source, transit.destination), now);
            return false;
        }
        let way = (transit.destination, transit.source);
        let is_known = asked.get(&way).is_some_and(|at| now - *at < MEMORY);
        transit.destination.ip() == outside.ip() && !is_known
    });
    network.restart(0);
    network.publish();
    network
}

#[test]
fn it_is_reached_by_peers_that_it_never_sent_a_packet_to() {
    let mut network = hidden(&[2, 2, 1]);
    network.run(seconds(2));
    for n in 0..100 {
        for lane in [0, 1] {
            network.send(1, lane, &Packet::new(1, 0).sequence(2 * n).bytes());
            network.send(2, 0, &Packet::new(2, 0).sequence(2 * n + 1).bytes());
        }
        // Longer than its router remembers anything.
        network.run(seconds(50));
        network.clear_log();
    }
    let sequence = network.nodes[0].sequence();
    assert_eq!(sequence.len(), 400, "{:?}", network.nodes[1].all_drops());
}

#[test]
fn it_asks_a_peer_that_comes_later_and_one_that_was_away() {
    let mut network = hidden(&[1, 1, 1]);
    let only_one = [(network.nodes[1].name.clone(), network.record(1))].into();
    network.nodes[0].device.set_peers(&only_one, network.now);
    let away = network.lose(|transit| transit.from == 1);
    network.run(seconds(600));
    network.publish();
    network.heal(away);
    network.run(seconds(6));
    for peer in [1, 2] {
        network.ping(peer, 0, 0);
    }
    network.run(seconds(1));
    assert_eq!(network.nodes[0].delivered.len(), 2);
}

#[test]
fn another_place_outside_is_learnt_though_only_the_peer_sends() {
    let mut network = hidden(&[1, 1]);
    network.run(seconds(2));
    let moved = address("198.51.100.7:41000");
    network.nodes[0].nat = Some(moved);
    for n in 0..60 {
        network.ping(1, 0, n);
        network.run(seconds(1));
    }
    assert_eq!(network.lane_status(1, 0, 0).endpoint, Some(moved));
    let arrived = network.nodes[0].sequence();
    assert!(arrived.len() >= 34, "{arrived:?}");
    assert_eq!(arrived.last(), Some(&59));
}

#[test]
fn a_peer_that_restarted_and_forgot_where_it_is_hears_of_it_by_itself() {
    let mut network = hidden(&[1, 1]);
    network.run(seconds(2));
    network.ping(1, 0, 0);
    network.run(seconds(5));
    network.restart(1);
    for n in 1..40 {
        network.ping(1, 0, n);
        network.run(seconds(1));
    }
    assert!(network.nodes[1].dropped(DropReason::NoEndpoint) <= 26);
    assert_eq!(network.nodes[0].sequence().last(), Some(&39));
}

#[test]
fn two_of_them_leave_each_other_alone() {
    let mut network = hidden(&[1, 1]);
    network.nodes[1].nat = Some(address("198.51.100.9:40000"));
    network.publish();
    network.run(seconds(600));
    assert_eq!(network.count(0, 1), 0);
    assert_eq!(network.count(1, 1), 0);
}

#[test]
fn what_it_costs_is_a_handshake_every_25_seconds_and_only_while_idle() {
    let mut network = hidden(&[1, 1]);
    network.run(seconds(1000));
    let idle = network.count(0, 1);
    assert!((36..=40).contains(&idle), "{idle} in 1,000 s");
    assert_eq!(network.count(1, 1), 0);
    network.clear_log();
    for n in 0..1000 {
        network.ping(0, 1, n);
        network.ping(1, 0, n);
        network.run(seconds(1));
    }
    let busy = network.count(0, 1) + network.count(1, 1);
    assert!(busy <= 9, "{busy} in 1,000 s");
}
