//! Where peers are reached, and what may change it.

use std::net::{IpAddr, SocketAddr};

use podwire_dataplane::DropReason;

use crate::packets::Packet;
use crate::simulation::{Network, milliseconds, seconds};

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// Each of the two nodes has found the other at an endpoint of this kind.
fn assert_both_use(network: &Network, is_of_family: fn(&SocketAddr) -> bool) {
    for (from, to) in [(0, 1), (1, 0)] {
        let endpoint = network.lane_status(from, to, 0).endpoint;
        assert!(
            endpoint.as_ref().is_some_and(is_of_family),
            "{from} to {to}: {endpoint:?}"
        );
    }
}

/// Node 0 is behind NAT, at the returned address.
fn behind_nat() -> (Network, SocketAddr) {
    let outside = address("198.51.100.7:40000");
    let mut network = Network::unconnected(&[1, 1]);
    network.nodes[0].nat = Some(outside);
    network.publish();
    (network, outside)
}

#[test]
fn a_peer_without_endpoints_is_followed_by_its_data() {
    let (mut network, outside) = behind_nat();
    network.ping(0, 1, 0);
    network.run(seconds(1));
    assert_eq!(network.lane_status(1, 0, 0).endpoint, Some(outside));
    network.ping(1, 0, 0);
    network.run(seconds(1));
    network.assert_all_delivered(0, 1);
    let moved = address("198.51.100.8:41000");
    network.nodes[0].nat = Some(moved);
    network.ping(0, 1, 1);
    network.run(seconds(1));
    assert_eq!(network.lane_status(1, 0, 0).endpoint, Some(moved));
    network.ping(1, 0, 1);
    network.run(seconds(1));
    network.assert_all_delivered(0, 2);
}

#[test]
fn an_initiation_is_answered_where_it_came_from_but_moves_nobody() {
    let (mut network, outside) = behind_nat();
    network.ping(0, 1, 0);
    network.run(seconds(1));
    // An initiation that is caught and sent on from elsewhere: valid, but not by whom.
    let filter = network.lose(|transit| transit.kind() == 1);
    network.run(seconds(200));
    network.ping(0, 1, 1);
    network.heal(filter);
    let mut caught = network.last_sent(0, 1);
    let elsewhere = address("203.0.113.66:6666");
    caught.source = elsewhere;
    network.inject(caught, milliseconds(1));
    network.clear_log();
    network.run(milliseconds(10));
    let response = network.last_sent(1, 2);
    assert_eq!(response.destination, elsewhere);
    assert_eq!(network.lane_status(1, 0, 0).endpoint, Some(outside));
    assert!(!network.lane_status(1, 0, 0).confirmed);
}

#[test]
fn a_peer_that_was_never_seen_has_no_endpoint_and_its_pods_are_unreachable() {
    let (mut network, _) = behind_nat();
    network.ping(1, 0, 0);
    assert_eq!(network.nodes[1].dropped(DropReason::NoEndpoint), 1);
    assert_eq!(
        network.nodes[1].delivered.len(),
        1,
        "an ICMP error for the sender"
    );
    assert_eq!(network.nodes[1].delivered[0][20..22], [3, 1]);
    assert_eq!(network.log.len(), 0);
}

#[test]
fn a_peer_with_endpoints_is_never_followed() {
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    network.run(seconds(1));
    let named = network.lane_status(1, 0, 0).endpoint;
    let filter = network.lose(|_| true);
    network.ping(0, 1, 1);
    network.heal(filter);
    let mut caught = network.last_sent(0, 4);
    caught.source = address("203.0.113.66:6666");
    network.inject(caught, milliseconds(1));
    network.run(seconds(1));
    network.assert_all_delivered(1, 2);
    assert_eq!(network.lane_status(1, 0, 0).endpoint, named);
    network.ping(1, 0, 0);
    network.run(seconds(1));
    network.assert_all_delivered(0, 1);
}

#[test]
fn the_other_family_is_tried_when_one_does_not_answer() {
    let mut network = Network::new(&[1, 1]);
    network.prefer_ipv6();
    network.lose(|transit| transit.destination.is_ipv6());
    for n in 0..30 {
        network.ping(0, 1, n);
        network.run(seconds(1));
    }
    // What waited while IPv6 was tried is delivered too.
    network.assert_all_delivered(1, 30);
    assert_both_use(&network, SocketAddr::is_ipv4);
    network.ping(1, 0, 0);
    network.run(milliseconds(10));
    network.assert_all_delivered(0, 1);
}

#[test]
fn a_lost_initiation_moves_nobody_to_the_other_family() {
    let mut network = Network::new(&[1, 1]);
    network.prefer_ipv6();
    let mut is_first = true;
    network.lose(move |transit| transit.kind() == 1 && std::mem::take(&mut is_first));
    network.ping(0, 1, 0);
    network.run(seconds(6));
    network.assert_all_delivered(1, 1);
    assert_both_use(&network, SocketAddr::is_ipv6);
}

#[test]
fn a_family_that_dies_under_a_session_is_left() {
    let mut network = Network::new(&[1, 1]);
    network.prefer_ipv6();
    let mut n = 0;
    let mut talk = |network: &mut Network, seconds: u32| {
        for _ in 0..seconds {
            network.ping(0, 1, n);
            network.ping(1, 0, n);
            network.run(crate::simulation::seconds(1));
            n += 1;
        }
    };
    talk(&mut network, 60);
    let endpoint = network.lane_status(0, 1, 0).endpoint;
    assert!(endpoint.is_some_and(|endpoint| endpoint.is_ipv6()));
    network.lose(|transit| transit.destination.is_ipv6());
    talk(&mut network, 60);
    for node in [0, 1] {
        let arrived = network.nodes[node].sequence();
        let lost = 120 - arrived.len();
        assert!(
            lost <= 22,
            "15 s of silence and one try of 5 s, not {lost} s"
        );
        assert_eq!(arrived.last(), Some(&119));
    }
}

#[test]
fn a_family_that_carries_one_direction_only_is_left_before_there_is_a_session() {
    for mute in [0, 1] {
        let mut network = Network::new(&[1, 1]);
        network.prefer_ipv6();
        network.lose(move |t| t.from == mute && t.destination.is_ipv6());
        for n in 0..30 {
            network.ping(0, 1, n);
            network.run(seconds(1));
        }
        // What waited while IPv6 was tried is delivered too.
        network.assert_all_delivered(1, 30);
        network.ping(1, 0, 0);
        network.run(milliseconds(10));
        network.assert_all_delivered(0, 1);
        assert_both_use(&network, SocketAddr::is_ipv4);
    }
}

#[test]
fn a_family_that_loses_one_direction_under_a_session_is_left() {
    for (mute, answers) in [(0, false), (0, true), (1, false), (1, true)] {
        let mut network = Network::new(&[1, 1]);
        network.prefer_ipv6();
        let mut n = 0;
        let mut talk = |network: &mut Network, seconds: u32| {
            for _ in 0..seconds {
                network.ping(0, 1, n);
                if answers {
                    network.ping(1, 0, n);
                }
                network.run(crate::simulation::seconds(1));
                n += 1;
            }
        };
        network.ping(1, 0, 1000);
        talk(&mut network, 60);
        network.lose(move |t| t.from == mute && t.destination.is_ipv6());
        talk(&mut network, 40);
        for node in [0, 1] {
            let arrived = network.nodes[node].sequence();
            let count = if node == 1 || answers { 100 } else { 0 };
            let lost = count - arrived.iter().filter(|n| **n < 1000).count();
            // 15 s of silence and tries of 6 s. Where only keepalives come back, the last of them
            // says until 10 s after the loss that all is well.
            let patience = if mute == 0 && !answers { 32 } else { 22 };
            assert!(lost <= patience, "{mute} {answers}: {lost} s");
        }
        for (from, to) in [(0, 1), (1, 0)] {
            let endpoint = network.lane_status(from, to, 0).endpoint;
            assert!(
                endpoint.is_some_and(|endpoint| endpoint.is_ipv4()),
                "{mute} {answers}: {endpoint:?}"
            );
        }
    }
}

#[test]
fn a_family_that_this_node_loses_is_left_at_once_by_both_ends() {
    let mut network = Network::new(&[2, 2]);
    network.prefer_ipv6();
    for n in 0..50 {
        network.ping(0, 1, n);
        network.ping(1, 0, n);
        network.run(milliseconds(100));
    }
    network.lose(|transit| transit.destination.is_ipv6());
    // The control plane of node 0 finds no path to the first endpoint any more.
    network.nodes[1].addresses.swap(0, 1);
    network.publish_to(0);
    for n in 50..100 {
        network.ping(0, 1, n);
        network.ping(1, 0, n);
        network.run(milliseconds(100));
    }
    network.assert_all_delivered(1, 100);
    let lost = 100 - network.nodes[0].sequence().len();
    assert!(lost <= 6, "a tick and jitter, not {lost} packets");
}

#[test]
fn a_changed_address_in_the_record_is_used_at_once() {
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    network.run(seconds(1));
    let moved: IpAddr = "192.0.2.99".parse().expect("an address");
    network.nodes[1].addresses = vec![moved];
    network.publish();
    network.clear_log();
    for n in 1..10 {
        network.ping(0, 1, n);
        network.ping(1, 0, n - 1);
        network.run(seconds(1));
    }
    network.assert_all_delivered(1, 10);
    network.assert_all_delivered(0, 9);
    assert_eq!(
        network.count(0, 1) + network.count(1, 1),
        0,
        "the session goes on"
    );
}

#[test]
fn a_lane_has_the_same_address_and_its_own_port() {
    let mut network = Network::new(&[2, 2]);
    network.send(0, 1, &Packet::new(0, 1).bytes());
    network.run(seconds(1));
    assert_eq!(
        network.lane_status(0, 1, 0).endpoint,
        Some(address("192.0.2.12:51880"))
    );
    assert_eq!(
        network.lane_status(0, 1, 1).endpoint,
        Some(address("192.0.2.12:51881"))
    );
}
