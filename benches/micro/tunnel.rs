//! Two nodes of one lane each with a session between them, and nothing but memory in between.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use podwire_core::key::PrivateKey;
use podwire_core::mesh::EncryptedPair;
use podwire_core::record;
use podwire_dataplane::{
    Datagram, DeliveryBatch, Device, DeviceConfig, HANDSHAKES_PER_SECOND, Lane, OverlayBatch,
    OwnKeys, PeerConfig, UnderlayBatch,
};
use zeroize::Zeroizing;

/// Packets of one batch: what a lane takes in one go.
pub(super) const BATCH: usize = 64;

/// Room of a batch in bytes.
const BATCH_BYTES: usize = 1 << 20;

/// Rounds of messages in which a session is up: initiation, response, data.
const HANDSHAKE_ROUNDS: usize = 4;

const PORT: u16 = 51880;

/// One end.
pub(super) struct End {
    lane: Lane,
    /// Kept with its lane.
    _device: Arc<Device>,
    endpoint: SocketAddr,
}

/// Two ends.
pub(super) struct Tunnel {
    ends: [End; 2],
    pub(super) packets: OverlayBatch,
    pub(super) datagrams: UnderlayBatch,
    pub(super) send: UnderlayBatch,
    pub(super) deliver: DeliveryBatch,
}

impl Tunnel {
    /// A session that has carried a packet.
    pub(super) fn open() -> Self {
        let now = Instant::now();
        let mut tunnel = Self {
            ends: [end(0, now), end(1, now)],
            packets: OverlayBatch::with_capacity(BATCH_BYTES, BATCH),
            datagrams: UnderlayBatch::with_capacity(BATCH_BYTES, BATCH),
            send: UnderlayBatch::with_capacity(BATCH_BYTES, BATCH),
            deliver: DeliveryBatch::with_capacity(BATCH_BYTES, BATCH),
        };
        tunnel.fill(1, 100);
        tunnel.send();
        for round in 0..HANDSHAKE_ROUNDS {
            let receiver = (round + 1) % 2;
            tunnel.transmit(1 - receiver);
            tunnel.send.clear();
            tunnel.receive_at(receiver);
        }
        tunnel.fill(1, 100);
        tunnel.send();
        tunnel.transmit(0);
        tunnel.deliver.clear();
        tunnel.receive_at(1);
        assert_eq!(tunnel.deliver.len(), 1, "the session carries a packet");
        tunnel
    }

    /// Puts so many packets of so many bytes where the TUN device's come from.
    pub(super) fn fill(&mut self, count: usize, bytes: usize) {
        self.packets.clear();
        let packet = packet(bytes);
        for _ in 0..count {
            self.packets.room()[..bytes].copy_from_slice(&packet);
            self.packets.commit_front(bytes);
        }
    }

    /// The first node encrypts what is there.
    pub(super) fn send(&mut self) {
        self.send.clear();
        let lane = &mut self.ends[0].lane;
        lane.handle_overlay(
            Instant::now(),
            &mut self.packets,
            &mut self.send,
            &mut self.deliver,
        );
    }

    /// What was sent is what arrives, from that end.
    pub(super) fn transmit(&mut self, from: usize) {
        self.datagrams.clear();
        let endpoint = self.ends[from].endpoint;
        for (datagram, bytes) in self.send.iter() {
            self.datagrams.room()[..bytes.len()].copy_from_slice(bytes);
            let start = self.datagrams.room_start();
            self.datagrams.commit(Datagram {
                endpoint,
                start,
                ..*datagram
            });
        }
    }

    /// The second node decrypts what has arrived.
    pub(super) fn receive(&mut self) {
        self.deliver.clear();
        self.receive_at(1);
    }

    /// Lets time pass at both ends.
    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        self.send.clear();
        for end in &mut self.ends {
            end.lane
                .handle_timeout(now, &mut self.send, &mut self.deliver);
        }
    }

    fn receive_at(&mut self, end: usize) {
        let lane = &mut self.ends[end].lane;
        lane.handle_underlay(
            Instant::now(),
            &mut self.datagrams,
            &mut self.send,
            &mut self.deliver,
        );
    }
}

fn key(node: u8) -> PrivateKey {
    PrivateKey::from_random(Zeroizing::new([node + 1; 32]))
}

fn endpoint(node: u8) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(192, 0, 2, 11 + node).into(), PORT)
}

fn end(node: u8, now: Instant) -> End {
    let device = Device::new(DeviceConfig {
        keys: OwnKeys::of(vec![key(node)]),
        process_generation: 1,
        addresses: Vec::new(),
        handshakes_per_second: HANDSHAKES_PER_SECOND,
        keeps_open: false,
        seed: u64::from(node) + 1,
    })
    .expect("one lane with a key");
    let other = 1 - node;
    let peer = PeerConfig {
        uid: format!("uid-{other}"),
        pair: EncryptedPair {
            endpoints: vec![endpoint(other)],
            lanes: vec![record::Lane {
                port: PORT,
                key: key(other).public_key(),
            }],
            next: Vec::new(),
            previous: Vec::new(),
            is_revoked: false,
            key_generation: 1,
            epoch: 0,
        },
        allowed_ips: vec![
            format!("10.244.{}.0/24", other + 1)
                .parse()
                .expect("a network"),
        ],
        path_mtu: 1500,
    };
    let name = format!("node-{other}").parse().expect("a name");
    device.set_peers(&BTreeMap::from([(name, peer)]), now);
    let lane = device.lane(0, now);
    End {
        lane,
        _device: device,
        endpoint: endpoint(node),
    }
}

/// An IPv4 packet of so many bytes from a pod of the first node to one of the second.
fn packet(bytes: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; bytes];
    packet[0] = 0x45;
    let length = u16::try_from(bytes).expect("a packet's length");
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[6..8].copy_from_slice(&[0x40, 0]);
    packet[8..10].copy_from_slice(&[64, 17]);
    packet[12..16].copy_from_slice(&[10, 244, 1, 2]);
    packet[16..20].copy_from_slice(&[10, 244, 2, 2]);
    packet
}
