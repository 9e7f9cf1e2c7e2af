//! Cryptokey routing, packet sizes and what pods are told.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use podwire_dataplane::DropReason;

use crate::packets::{Packet, pod_ipv4, pod_ipv6};
use crate::simulation::{Network, milliseconds, seconds};

#[test]
fn both_families_are_routed_and_their_bytes_are_kept() {
    let mut network = Network::new(&[1, 1, 1]);
    let mut expected = [const { Vec::new() }; 3];
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        for length in [28, 29, 48, 60, 64, 100, 1279, 1280, 1440] {
            for packet in [Packet::new(from, to), Packet::new_ipv6(from, to)] {
                let packet = packet.length(length.max(48)).bytes();
                network.send(from, 0, &packet);
                expected[to].push(packet);
            }
        }
    }
    network.run(seconds(1));
    for (node, mut expected) in expected.into_iter().enumerate() {
        let mut delivered = network.nodes[node].delivered.clone();
        delivered.sort();
        expected.sort();
        assert_eq!(delivered, expected);
    }
}

#[test]
fn a_source_that_another_peer_owns_is_dropped() {
    let mut network = Network::new(&[1, 1, 1]);
    let outside: IpAddr = "203.0.113.5".parse().expect("an address");
    let own = pod_ipv4(1).into();
    for source in [pod_ipv4(0).into(), outside, own] {
        network.send(2, 0, &Packet::between(source, pod_ipv4(1).into()).bytes());
    }
    network.send(
        2,
        0,
        &Packet::between(pod_ipv6(0).into(), pod_ipv6(1).into()).bytes(),
    );
    network.run(seconds(1));
    assert_eq!(network.nodes[1].delivered.len(), 0);
    assert_eq!(network.nodes[1].dropped(DropReason::SourceNotAllowed), 4);
    network.ping(2, 1, 0);
    network.run(seconds(1));
    network.assert_all_delivered(1, 1);
}

#[test]
fn the_most_specific_prefix_decides_in_both_directions() {
    let mut network = Network::new(&[1, 1, 1]);
    // Node 2 owns half of what node 1 owns as a whole.
    let mut peers = BTreeMap::new();
    for other in [1, 2] {
        let mut config = network.record(other);
        if other == 2 {
            config
                .allowed_ips
                .push("10.244.1.128/25".parse().expect("a prefix"));
        }
        peers.insert(network.nodes[other].name.clone(), config);
    }
    network.nodes[0].device.set_peers(&peers, network.now);
    let (lower, upper): (IpAddr, IpAddr) = (
        "10.244.1.5".parse().expect("an address"),
        "10.244.1.200".parse().expect("an address"),
    );
    network.send(
        0,
        0,
        &Packet::between(pod_ipv4(0).into(), lower)
            .sequence(0)
            .bytes(),
    );
    network.send(
        0,
        0,
        &Packet::between(pod_ipv4(0).into(), upper)
            .sequence(1)
            .bytes(),
    );
    network.run(seconds(1));
    assert_eq!(network.nodes[1].sequence(), [0]);
    assert_eq!(network.nodes[2].sequence(), [1]);
    network.send(1, 0, &Packet::between(upper, pod_ipv4(0).into()).bytes());
    network.send(
        1,
        0,
        &Packet::between(lower, pod_ipv4(0).into())
            .sequence(9)
            .bytes(),
    );
    network.run(seconds(1));
    assert_eq!(network.nodes[0].sequence(), [9]);
    assert_eq!(network.nodes[0].dropped(DropReason::SourceNotAllowed), 1);
}

#[test]
fn a_destination_that_nobody_owns_is_unreachable() {
    let mut network = Network::new(&[1, 1]);
    let nobody: IpAddr = "10.244.99.1".parse().expect("an address");
    network.send(0, 0, &Packet::between(pod_ipv4(0).into(), nobody).bytes());
    let nobody: IpAddr = "fd00:10:244:99::1".parse().expect("an address");
    network.send(0, 0, &Packet::between(pod_ipv6(0).into(), nobody).bytes());
    let errors = std::mem::take(&mut network.nodes[0].delivered);
    assert_eq!(errors.len(), 2);
    assert_eq!(errors[0][20..22], [3, 1]);
    assert_eq!(
        errors[0][12..16],
        [10, 244, 99, 1],
        "from the original destination"
    );
    assert_eq!(errors[1][40..42], [1, 3]);
    // An error is not answered with an error, and there are not too many.
    network.send(0, 0, &errors[0]);
    assert_eq!(network.nodes[0].delivered.len(), 0);
    for _ in 0..500 {
        network.send(
            0,
            0,
            &Packet::between(pod_ipv4(0).into(), nobody_ipv4()).bytes(),
        );
    }
    assert_eq!(network.nodes[0].delivered.len(), 100 - 3);
    assert_eq!(network.nodes[0].dropped(DropReason::NoPeer), 503);
}

fn nobody_ipv4() -> IpAddr {
    "10.244.98.1".parse().expect("an address")
}

#[test]
fn what_is_no_ip_packet_is_dropped_on_both_sides() {
    let mut network = Network::new(&[1, 1]);
    for bytes in [&[][..], &[0x45; 10], &[0x60; 39], &[0xff; 100], &[0x45; 20]] {
        network.send(0, 0, bytes);
    }
    assert_eq!(network.nodes[0].dropped(DropReason::MalformedInner), 5);
    assert_eq!(network.log.len(), 0);
}

#[test]
fn packets_that_are_too_big_are_told_so() {
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    network.run(seconds(1));
    network.send(0, 0, &Packet::new(0, 1).length(1441).bytes());
    network.send(0, 0, &Packet::new_ipv6(0, 1).length(1441).bytes());
    network.send(0, 0, &Packet::new(0, 1).length(1441).fragmentable().bytes());
    assert_eq!(network.nodes[0].dropped(DropReason::TooBig), 3);
    let errors = &network.nodes[0].delivered;
    assert_eq!(
        errors.len(),
        2,
        "the kernel fragments what may be fragmented"
    );
    assert_eq!(errors[0][20..22], [3, 4]);
    assert_eq!(errors[0][26..28], 1440_u16.to_be_bytes());
    assert_eq!(errors[1][40..42], [2, 0]);
    assert_eq!(errors[1][44..48], 1440_u32.to_be_bytes());
    network.send(
        0,
        0,
        &Packet::new_ipv6(0, 1).length(1440).sequence(1).bytes(),
    );
    network.run(seconds(1));
    network.assert_all_delivered(1, 2);
}

#[test]
fn ipv6_packets_of_1280_bytes_pass_a_path_that_is_too_small_for_them() {
    let mut network = Network::unconnected(&[1, 1]);
    network.nodes[1].path_mtu = 1300;
    network.publish();
    network.send(0, 0, &Packet::new_ipv6(0, 1).length(1280).bytes());
    network.run(seconds(1));
    network.assert_all_delivered(1, 1);
    network.send(0, 0, &Packet::new_ipv6(0, 1).length(1281).bytes());
    network.send(0, 0, &Packet::new(0, 1).length(1241).bytes());
    let errors = &network.nodes[0].delivered;
    assert_eq!(errors[0][44..48], 1280_u32.to_be_bytes());
    assert_eq!(errors[1][26..28], 1240_u16.to_be_bytes());
}

#[test]
fn a_path_mtu_that_the_kernel_reports_counts_until_the_configuration_changes() {
    let mut network = Network::new(&[1, 1, 1]);
    let endpoint: SocketAddr = "192.0.2.12:51880".parse().expect("an address");
    network.handle_path_mtu(0, endpoint, 1400);
    network.send(0, 0, &Packet::new(0, 1).length(1341).bytes());
    network.send(0, 0, &Packet::new(0, 2).length(1440).sequence(0).bytes());
    assert_eq!(
        network.nodes[0].delivered[0][26..28],
        1340_u16.to_be_bytes()
    );
    network.run(seconds(1));
    network.assert_all_delivered(2, 1);
    network.nodes[1].path_mtu = 1501;
    network.publish();
    network.send(0, 0, &Packet::new(0, 1).length(1440).sequence(0).bytes());
    network.run(seconds(1));
    network.assert_all_delivered(1, 1);
}

#[test]
fn indices_that_name_no_session_are_counted_and_dropped() {
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    network.run(seconds(1));
    network.ping(0, 1, 1);
    let data = network.last_sent(0, 4);
    let with_index = |change: u32| {
        let mut transit = data.clone();
        let index = u32::from_le_bytes(transit.bytes[4..8].try_into().expect("four")) ^ change;
        transit.bytes[4..8].copy_from_slice(&index.to_le_bytes());
        (transit.source, transit.bytes)
    };
    let dropped = |network: &Network, reason| network.nodes[1].dropped(reason);
    network.inject_now(1, 0, &[with_index(0x8000_0000)]);
    assert_eq!(dropped(&network, DropReason::ForeignGeneration), 1);
    network.inject_now(1, 0, &[with_index(0x0001_0000)]);
    assert_eq!(dropped(&network, DropReason::UnknownIndex), 1);
    network.inject_now(1, 0, &[with_index(0x0000_0005)]);
    assert_eq!(dropped(&network, DropReason::UnknownIndex), 2);
    let mut forged = data.clone();
    *forged.bytes.last_mut().expect("bytes") ^= 1;
    network.inject_now(1, 0, &[(forged.source, forged.bytes)]);
    assert_eq!(dropped(&network, DropReason::DecryptFailed), 1);
    network.inject_now(1, 0, &[(data.source, vec![9; 148])]);
    assert_eq!(dropped(&network, DropReason::MalformedMessage), 1);
    network.run(milliseconds(10));
    network.assert_all_delivered(1, 2);
}
