//! The peer table: what a change touches and what it leaves alone.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use podwire_core::key::PrivateKey;
use podwire_dataplane::packet_queue::{ALL_QUEUES_BYTES, QUEUE_PACKETS};
use podwire_dataplane::{DropReason, PeerState};
use zeroize::Zeroizing;

use crate::packets::{Packet, pod_ipv4};
use crate::simulation::{Network, milliseconds, seconds};

#[test]
fn the_same_configuration_again_changes_nothing() {
    let mut network = Network::new(&[1, 1, 1]);
    network.ping(0, 1, 0);
    network.run(seconds(1));
    let peers: BTreeMap<_, _> = [1, 2]
        .map(|other| (network.nodes[other].name.clone(), network.record(other)))
        .into();
    let changes = network.nodes[0].device.set_peers(&peers, network.now);
    assert_eq!((changes.added, changes.changed, changes.removed), (0, 0, 0));
    assert!(network.lane_status(0, 1, 0).confirmed);
}

#[test]
fn one_change_touches_one_peer_and_keeps_its_counters() {
    let mut network = Network::new(&[1, 1, 1]);
    for peer in [1, 2] {
        network.ping(0, peer, 0);
    }
    network.run(seconds(1));
    let mut peers: BTreeMap<_, _> = [1, 2]
        .map(|other| (network.nodes[other].name.clone(), network.record(other)))
        .into();
    peers.values_mut().next().expect("a peer").path_mtu = 1400;
    let changes = network.nodes[0].device.set_peers(&peers, network.now);
    assert_eq!((changes.added, changes.changed, changes.removed), (0, 1, 0));
    network.clear_log();
    for peer in [1, 2] {
        network.ping(0, peer, 1);
        let traffic = network.status(0, peer).traffic();
        assert_eq!(
            (traffic.sent_packets, traffic.sent_bytes, traffic.handshakes),
            (2, 200, 1)
        );
    }
    network.run(seconds(1));
    network.assert_all_delivered(1, 2);
    network.assert_all_delivered(2, 2);
    assert_eq!(network.count(0, 1), 0, "sessions go on");
}

#[test]
fn a_peer_that_is_removed_loses_its_sessions_and_can_come_back() {
    let mut network = Network::new(&[1, 1, 1]);
    network.ping(0, 1, 0);
    network.run(seconds(1));
    let only_two = [(network.nodes[2].name.clone(), network.record(2))].into();
    let changes = network.nodes[0].device.set_peers(&only_two, network.now);
    assert_eq!((changes.added, changes.changed, changes.removed), (0, 0, 1));
    network.ping(1, 0, 0);
    network.ping(0, 1, 1);
    network.run(seconds(1));
    assert_eq!(network.nodes[0].dropped(DropReason::UnknownIndex), 1);
    assert_eq!(network.nodes[0].dropped(DropReason::NoPeer), 1);
    assert_eq!(network.nodes[0].device.peers(network.now).len(), 1);
    // The same name with another key is another node.
    network.restart_with_new_keys(1);
    network.publish();
    network.ping(0, 1, 2);
    network.run(seconds(1));
    assert_eq!(network.nodes[1].sequence().last(), Some(&2));
    assert_eq!(
        network.status(0, 1).traffic().sent_packets,
        1,
        "counters start anew"
    );
}

#[test]
fn a_node_that_is_created_again_under_its_name_loses_its_sessions_at_once() {
    let mut network = Network::new(&[1, 1, 1]);
    for peer in [1, 2] {
        network.ping(0, peer, 0);
    }
    network.run(seconds(1));
    let mut peers: BTreeMap<_, _> = [1, 2]
        .map(|other| (network.nodes[other].name.clone(), network.record(other)))
        .into();
    let again = peers.get_mut(&network.nodes[1].name).expect("a peer");
    again.uid = "another".to_owned();
    let changes = network.nodes[0].device.set_peers(&peers, network.now);
    assert_eq!((changes.added, changes.changed, changes.removed), (1, 0, 1));
    assert_eq!(network.status(0, 1).state, PeerState::Idle);
    assert_eq!(network.status(0, 1).traffic().sent_packets, 0);
    network.ping(1, 0, 0);
    network.run(seconds(1));
    assert_eq!(network.nodes[0].dropped(DropReason::UnknownIndex), 1);
    network.clear_log();
    for peer in [1, 2] {
        network.ping(0, peer, 1);
    }
    network.run(seconds(1));
    network.assert_all_delivered(1, 2);
    network.assert_all_delivered(2, 2);
    assert_eq!(
        network.count(0, 1),
        0,
        "it was asked for a session, and the other's goes on"
    );
}

#[test]
fn a_peer_that_was_gone_for_a_moment_is_asked_for_handshakes_on_every_lane() {
    let mut network = Network::new(&[2, 2]);
    let mut n = 0;
    let mut send = |network: &mut Network, times: u32| {
        for _ in 0..times {
            for lane in [0, 1] {
                network.send(1, lane, &Packet::new(1, 0).sequence(n).bytes());
                n += 1;
            }
            network.run(milliseconds(100));
        }
    };
    send(&mut network, 50);
    // As when its record cannot be read for a moment. Node 0 itself has nothing to send.
    network.nodes[0]
        .device
        .set_peers(&BTreeMap::new(), network.now);
    send(&mut network, 10);
    let peers = [(network.nodes[1].name.clone(), network.record(1))].into();
    network.nodes[0].device.set_peers(&peers, network.now);
    send(&mut network, 50);
    let lost = 220 - network.nodes[0].delivered.len();
    assert!(
        lost <= 34,
        "the second, a tick and jitter, not {lost} packets"
    );
}

#[test]
fn a_thousand_peers_cost_nothing_until_they_are_used() {
    let mut network = Network::new(&[2, 2]);
    let config = network.record(1);
    let mut peers = BTreeMap::new();
    for n in 0..1000_u32 {
        let mut config = config.clone();
        let (high, low) = (n / 256, n % 256);
        config.allowed_ips = vec![
            format!("10.{}.{low}.0/24", 100 + high)
                .parse()
                .expect("a prefix"),
        ];
        for (lane, entry) in config.pair.lanes.iter_mut().enumerate() {
            let mut key = [7; 32];
            key[..4].copy_from_slice(&n.to_le_bytes());
            key[4] = u8::try_from(lane).expect("small");
            entry.key = podwire_core::key::PublicKey::from_bytes(key).expect("a key");
        }
        peers.insert(format!("other-{n}").parse().expect("a name"), config);
    }
    let changes = network.nodes[0].device.set_peers(&peers, network.now);
    assert_eq!(changes.added, 1000);
    network.run(seconds(3600));
    assert_eq!(network.log.len(), 0);
    let status = network.nodes[0].device.peers(network.now);
    assert!(
        status
            .iter()
            .all(|peer| peer.lanes.iter().all(|lane| lane.sessions == 0))
    );
    assert!(status.iter().all(|peer| peer.state == PeerState::Idle));
}

#[test]
fn every_drop_reason_is_reported() {
    let network = Network::new(&[1, 1]);
    let reported: Vec<_> = network.nodes[0]
        .device
        .drops()
        .into_iter()
        .map(|(reason, _)| reason)
        .collect();
    assert_eq!(reported, DropReason::ALL);
}

#[test]
fn an_output_that_is_full_loses_nothing() {
    use podwire_dataplane::{DeliveryBatch, OverlayBatch, UnderlayBatch};
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    network.run(seconds(1));
    // 100 packets through outputs that take three datagrams at a time.
    let mut packets = OverlayBatch::with_capacity(1 << 17, 100);
    for n in 1..=100 {
        let packet = Packet::new(0, 1).sequence(n).bytes();
        packets.room()[..packet.len()].copy_from_slice(&packet);
        packets.commit_front(packet.len());
    }
    let mut send = UnderlayBatch::with_capacity(1 << 17, 3);
    let mut deliver = DeliveryBatch::with_capacity(1 << 17, 3);
    let mut datagrams = Vec::new();
    let mut lane = network.nodes[0].device.lane(0, network.now);
    while !packets.is_empty() {
        lane.handle_overlay(network.now, &mut packets, &mut send, &mut deliver);
        datagrams.extend(send.iter().map(|(_, bytes)| bytes.to_vec()));
        send.clear();
    }
    assert_eq!(datagrams.len(), 100);
    let mut underlay = UnderlayBatch::with_capacity(1 << 17, 100);
    for datagram in &datagrams {
        underlay.room()[..datagram.len()].copy_from_slice(datagram);
        let source = "192.0.2.11:51880".parse().expect("an address");
        underlay.commit_front(0, source, datagram.len());
    }
    let mut lane = network.nodes[1].device.lane(0, network.now);
    while !underlay.is_empty() {
        lane.handle_underlay(network.now, &mut underlay, &mut send, &mut deliver);
        let delivered: Vec<_> = deliver.iter().map(|packet| packet.bytes()).collect();
        network.nodes[1].delivered.extend(delivered);
        deliver.clear();
        send.clear();
    }
    network.run(milliseconds(1));
    network.assert_all_delivered(1, 101);
}

#[test]
fn what_waits_for_all_peers_is_bounded_together_until_they_are_gone() {
    const LENGTH: usize = 1400;
    let mut network = Network::new(&[1, 1]);
    network.lose(|_| true);
    let numbers = 0..400_u16;
    let pod = |number: u16| {
        let [high, low] = number.to_be_bytes();
        Ipv4Addr::new(10, 100 + high, low, 2)
    };
    let silent = numbers.clone().map(|number| {
        let mut peer = network.record(1);
        let mut key = Zeroizing::new([7; 32]);
        key[..2].copy_from_slice(&number.to_be_bytes());
        peer.pair.lanes[0].key = PrivateKey::from_random(key).public_key();
        peer.allowed_ips = vec![IpAddr::from(pod(number)).into()];
        let name = format!("silent-{number}").parse().expect("a name");
        (name, peer)
    });
    let silent: BTreeMap<_, _> = silent.collect();
    let node = &network.nodes[0];
    node.device.set_peers(&silent, network.now);
    for number in numbers.clone() {
        let packet = Packet::between(pod_ipv4(0).into(), pod(number).into()).length(LENGTH);
        network.send_all(0, 0, &vec![packet.bytes(); QUEUE_PACKETS]);
    }
    let node = &network.nodes[0];
    let peers = node.device.peers(network.now).into_iter();
    let waiting: usize = peers.map(|peer| peer.lanes[0].queued).sum();
    assert!(waiting * LENGTH <= ALL_QUEUES_BYTES, "{waiting} wait");
    assert!(
        waiting * (LENGTH + 100) > ALL_QUEUES_BYTES,
        "{waiting} wait"
    );
    let sent = numbers.len() * QUEUE_PACKETS;
    let dropped = node.dropped(DropReason::QueueFull);
    assert_eq!(dropped, u64::try_from(sent - waiting).expect("fits"));
    // Now there is room again.
    network.publish_to(0);
    for n in 0..100 {
        network.ping(0, 1, n);
    }
    assert_eq!(network.lane_status(0, 1, 0).queued, 100);
    assert_eq!(network.nodes[0].dropped(DropReason::QueueFull), dropped);
}
