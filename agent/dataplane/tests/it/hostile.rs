//! A peer with a valid key that seals whatever it likes, made by hand of the protocol engine.

use std::net::{IpAddr, SocketAddr};

use blake2::digest::{FixedOutput, KeyInit, Mac};
use blake2::{Blake2s256, Blake2sMac, Digest};
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use podwire_core::key::PublicKey;
use podwire_dataplane::DropReason;

use crate::packets::{Packet, pod_ipv4, pod_ipv6};
use crate::simulation::Network;

/// In the place of node 2.
struct Hostile {
    tunn: Tunn,
    endpoint: SocketAddr,
}

impl Hostile {
    /// Puts itself into node 1's peer table and makes a session with it.
    fn join(network: &mut Network) -> Self {
        let own = x25519::StaticSecret::from([0x66; 32]);
        let mut record = network.record(2);
        let key = *x25519::PublicKey::from(&own).as_bytes();
        record.pair.lanes[0].key = PublicKey::from_bytes(key).expect("a key");
        let endpoint = record.pair.endpoints[0];
        let peers = [
            (network.nodes[0].name.clone(), network.record(0)),
            (network.nodes[2].name.clone(), record),
        ];
        network.nodes[1]
            .device
            .set_peers(&peers.into(), network.now);
        let victim = *network.record(1).pair.lanes[0].key.as_bytes();
        let tunn = Tunn::new(own, victim.into(), None, None, 1, None);
        let mut hostile = Self { tunn, endpoint };
        let mut room = [0; 256];
        let TunnResult::WriteToNetwork(initiation) =
            hostile.tunn.format_handshake_initiation(&mut room, false)
        else {
            panic!("no initiation");
        };
        let initiation = initiation.to_vec();
        hostile.send(network, initiation);
        let response = network.last_sent(1, 2).bytes;
        let TunnResult::WriteToNetwork(keepalive) =
            hostile.tunn.decapsulate(None, &response, &mut room)
        else {
            panic!("no session");
        };
        let keepalive = keepalive.to_vec();
        hostile.send(network, keepalive);
        assert!(network.lane_status(1, 2, 0).confirmed);
        hostile
    }

    fn send(&self, network: &mut Network, message: Vec<u8>) {
        network.inject_now(1, 0, &[(self.endpoint, message)]);
    }

    fn seal(&mut self, network: &mut Network, packet: &[u8]) {
        let mut room = vec![0; packet.len() + 256];
        let TunnResult::WriteToNetwork(message) = self.tunn.encapsulate(packet, &mut room) else {
            panic!("not sealed");
        };
        let message = message.to_vec();
        self.send(network, message);
    }
}

/// From the pod of node `from`, as if it were behind the hostile peer.
fn of(from: usize) -> [Vec<u8>; 2] {
    [
        Packet::new(from, 1).bytes(),
        Packet::new_ipv6(from, 1).bytes(),
    ]
}

/// With eight bytes of IPv4 options.
fn with_options(options: [u8; 8]) -> Vec<u8> {
    let mut bytes = Packet::new(2, 1).bytes();
    bytes[0] = 0x47;
    bytes[20..28].copy_from_slice(&options);
    bytes
}

/// With an IPv6 extension header of 24 bytes.
fn with_extension(kind: u8, head: [u8; 4]) -> Vec<u8> {
    let mut bytes = Packet::new_ipv6(2, 1).bytes();
    bytes[6] = kind;
    bytes[40..44].copy_from_slice(&head);
    bytes[48..64].copy_from_slice(&pod_ipv6(0).octets());
    bytes
}

/// What is dropped, and for what.
fn dropped() -> Vec<(DropReason, Vec<u8>)> {
    let [other_v4, other_v6] = of(0);
    let [victims_v4, victims_v6] = of(1);
    let between = |source: &str| {
        let source: IpAddr = source.parse().expect("an address");
        let destination = match source {
            IpAddr::V4(_) => pod_ipv4(1).into(),
            IpAddr::V6(_) => pod_ipv6(1).into(),
        };
        Packet::between(source, destination).bytes()
    };
    let sources = [
        "203.0.113.5",
        "0.0.0.0",
        "127.0.0.1",
        "192.0.2.12",
        "::1",
        "fe80::1",
        "ff02::1",
    ];
    let mut dropped = vec![other_v4, other_v6, victims_v4, victims_v6];
    dropped.extend(sources.map(between));
    // An option does not hide a wrong source.
    let mut recorded = with_options([7, 7, 4, 0, 0, 0, 0, 0]);
    recorded[12..16].copy_from_slice(&pod_ipv4(0).octets());
    dropped.push(recorded);
    let mut dropped: Vec<_> = dropped
        .into_iter()
        .map(|packet| (DropReason::SourceNotAllowed, packet))
        .collect();
    let routed = [
        with_options([131, 7, 4, 10, 244, 0, 2, 0]),
        with_options([1, 137, 7, 4, 10, 244, 0, 2]),
        with_extension(43, [17, 2, 0, 1]),
        with_extension(43, [17, 2, 4, 1]),
    ];
    dropped.extend(routed.map(|packet| (DropReason::SourceRouted, packet)));
    let [good, good_v6] = of(2);
    let changed = |packet: &[u8], at: usize, byte: u8| {
        let mut packet = packet.to_vec();
        packet[at] = byte;
        packet
    };
    let malformed = [
        changed(&good, 0, 0x55),
        changed(&good, 0, 0x44),
        changed(&good, 2, 1),
        changed(&good, 3, 19),
        changed(&good_v6, 4, 1),
        good[..19].to_vec(),
        good_v6[..39].to_vec(),
        vec![0],
        vec![0xff; 1400],
    ];
    dropped.extend(malformed.map(|packet| (DropReason::MalformedInner, packet)));
    dropped
}

#[test]
fn nothing_that_is_not_its_own_gets_past_a_valid_key() {
    let mut network = Network::new(&[1, 1, 1]);
    let mut hostile = Hostile::join(&mut network);
    for (reason, packet) in dropped() {
        let before = (network.nodes[1].device.drops(), network.log.len());
        hostile.seal(&mut network, &packet);
        let drops = network.nodes[1].device.drops();
        let expected = before.0.into_iter().map(|(counted, count)| {
            let more = u64::from(counted == reason);
            (counted, count + more)
        });
        assert_eq!(drops, expected.collect::<Vec<_>>(), "{packet:02x?}");
        assert_eq!(network.log.len(), before.1, "no answer");
    }
    assert_eq!(network.nodes[1].delivered.len(), 0);
    let delivered = [
        of(2)[0].clone(),
        of(2)[1].clone(),
        with_options([7, 7, 4, 0, 0, 0, 0, 0]),
        // Padding that every hop reads; a routing header that is used up.
        with_extension(0, [17, 2, 1, 20]),
        with_extension(43, [17, 2, 0, 0]),
    ];
    for packet in &delivered {
        hostile.seal(&mut network, packet);
    }
    assert_eq!(network.nodes[1].delivered, delivered);
    assert_eq!(
        network.lane_status(1, 2, 0).endpoint,
        Some(hostile.endpoint)
    );
}

#[test]
fn a_packet_with_a_route_of_its_own_is_not_sent_and_its_sender_is_told() {
    let mut network = Network::new(&[1, 1, 1]);
    let [ping, _] = of(2);
    network.send(2, 0, &ping);
    for packet in [
        with_options([131, 7, 4, 10, 244, 0, 2, 0]),
        with_extension(43, [17, 2, 0, 1]),
    ] {
        network.send(2, 0, &packet);
    }
    network.run(crate::simulation::seconds(1));
    assert_eq!(network.nodes[2].dropped(DropReason::SourceRouted), 2);
    assert_eq!(network.nodes[2].delivered.len(), 2, "ICMP errors");
    assert_eq!(network.nodes[1].delivered, [ping]);
}

/// An initiation of node 0 to node 1 up to the sender's key, as anybody can make it who knows the
/// keys of both, and mac1.
fn forge(network: &mut Network) -> (SocketAddr, Vec<u8>) {
    let filter = network.lose(|_| true);
    network.ping(0, 1, 0);
    network.heal(filter);
    let mut forged = network.last_sent(0, 1);
    forged.bytes[100] ^= 1;
    //= WireGuard §5.4.4
    let key = Blake2s256::new()
        .chain_update(b"mac1----")
        .chain_update(network.record(1).pair.lanes[0].key.as_bytes())
        .finalize();
    let mut mac: Blake2sMac<blake2::digest::consts::U16> =
        KeyInit::new_from_slice(&key).expect("a key");
    mac.update(&forged.bytes[..116]);
    forged.bytes[116..132].copy_from_slice(&mac.finalize_fixed());
    (forged.source, forged.bytes)
}

#[test]
fn an_initiation_that_only_names_a_peer_makes_no_session() {
    let mut network = Network::new(&[1, 1]);
    let forged = forge(&mut network);
    network.restart(0);
    network.inject_now(1, 0, &[forged]);
    assert_eq!(network.nodes[1].dropped(DropReason::HandshakeRejected), 1);
    assert_eq!(network.count(1, 2), 0);
    assert_eq!(network.lane_status(1, 0, 0).sessions, 0);
    network.ping(0, 1, 1);
    network.run(crate::simulation::seconds(1));
    assert_eq!(network.nodes[1].sequence(), [1]);
}
