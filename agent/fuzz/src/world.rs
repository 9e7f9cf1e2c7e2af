//! The device under test and its peers, as far as the targets share them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use podwire_core::key::{PrivateKey, PublicKey};
use podwire_core::mesh::EncryptedPair;
use podwire_core::node::NodeName;
use podwire_core::record;
use podwire_dataplane::batch::ROOM_MIN;
use podwire_dataplane::packet_queue::QUEUE_PACKETS;
use podwire_dataplane::{
    Datagram, DeliveryBatch, Device, DeviceConfig, DropReason, Ecn, Lane, OverlayBatch, OwnKeys,
    PeerConfig, Traffic, UnderlayBatch,
};
use zeroize::Zeroizing;

use crate::wireguard_peer::{Reaction, WireguardPeer};

/// Lanes of every node.
pub(crate) const LANES: u8 = 2;
/// Lane 0's port.
const PORT: u16 = 51880;
/// So few that an input can reach the limit.
const HANDSHAKES_PER_SECOND: u32 = 4;
/// Members of a session set at most.
const MEMBERS_MAX: usize = 4;
/// Path MTU of the underlay.
pub(crate) const PATH_MTU: u32 = 1500;
/// Bytes and descriptors of each batch.
const BATCH_BYTES: usize = 2 * ROOM_MIN;
const BATCH_LENGTH: usize = 256;

/// The peer whose record names an endpoint.
pub(crate) const FIXED: usize = 0;
/// The peer whose record names none.
pub(crate) const ROAMING: usize = 1;

/// What lies behind an input.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Setup {
    /// Nothing has happened yet.
    Idle,
    /// A session that this peer has started.
    PeerStarted(usize),
    /// A session with the peer of fixed endpoint that the device has started.
    DeviceStarted,
}

impl From<u8> for Setup {
    fn from(byte: u8) -> Self {
        match byte % 4 {
            0 => Self::Idle,
            1 => Self::PeerStarted(FIXED),
            2 => Self::PeerStarted(ROAMING),
            _ => Self::DeviceStarted,
        }
    }
}

/// What one call has brought about.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(crate) sent: Vec<(SocketAddr, Vec<u8>)>,
    pub(crate) delivered: Vec<Vec<u8>>,
    pub(crate) dropped: BTreeMap<DropReason, u64>,
}

impl Effects {
    pub(crate) fn sent_bytes(&self) -> usize {
        self.sent.iter().map(|(_, message)| message.len()).sum()
    }

    pub(crate) fn drops(&self) -> u64 {
        self.dropped.values().sum()
    }
}

/// What only an authenticated message may change of a peer's lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Authenticated {
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) confirmed_key: Option<PublicKey>,
    pub(crate) handshakes: u64,
    pub(crate) received: (u64, u64),
}

/// The device with its batches, and its peers.
pub(crate) struct World {
    pub(crate) device: Arc<Device>,
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    lanes: Vec<Lane>,
    pub(crate) peers: [WireguardPeer; 2],
    datagrams: UnderlayBatch,
    send: UnderlayBatch,
    packets: OverlayBatch,
    deliver: DeliveryBatch,
}

fn key(number: u8) -> PrivateKey {
    PrivateKey::from_random(Zeroizing::new([number; 32]))
}

/// The public keys of [`key`], which cost more than most inputs.
fn public_key(number: u8) -> PublicKey {
    static KEYS: [OnceLock<PublicKey>; 64] = [const { OnceLock::new() }; 64];
    *KEYS[usize::from(number)].get_or_init(|| key(number).public_key())
}

/// The device's key of a lane.
pub(crate) fn device_key(lane: u8) -> PublicKey {
    public_key(1 + lane)
}

/// The number of a peer's key.
const fn peer_key(peer: u8, lane: u8) -> u8 {
    16 * (peer + 1) + lane
}

/// Where peer number `peer` is.
fn address(peer: u8) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(192, 0, 2, 11 + peer).into(), PORT)
}

/// A pod of a peer's, or of nobody's.
pub(crate) fn pod_ipv4(peer: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 1 + peer, 2)
}

/// The same in IPv6.
pub(crate) fn pod_ipv6(peer: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0x244, 1 + u16::from(peer), 0, 0, 0, 2)
}

fn peer_config(peer: u8) -> PeerConfig {
    let is_fixed = usize::from(peer) == FIXED;
    let lanes = (0..LANES).map(|lane| record::Lane {
        port: if is_fixed { PORT + u16::from(lane) } else { 0 },
        key: public_key(peer_key(peer, lane)),
    });
    PeerConfig {
        uid: format!("uid-{peer}"),
        pair: EncryptedPair {
            endpoints: is_fixed.then(|| address(peer)).into_iter().collect(),
            lanes: lanes.collect(),
            next: Vec::new(),
            previous: Vec::new(),
            is_revoked: false,
            key_generation: 1,
            epoch: 0,
        },
        allowed_ips: prefixes(peer).into(),
        path_mtu: PATH_MTU,
    }
}

fn prefixes(peer: u8) -> [ipnet::IpNet; 2] {
    [
        ipnet::IpNet::new_assert(pod_ipv4(peer).into(), 24).trunc(),
        ipnet::IpNet::new_assert(pod_ipv6(peer).into(), 64).trunc(),
    ]
}

fn wireguard_peer(peer: u8) -> WireguardPeer {
    let key = key(peer_key(peer, 0));
    WireguardPeer::new(key, device_key(0), address(peer), prefixes(peer))
}

impl World {
    /// The device with two peers, and what `setup` says.
    pub(crate) fn new(setup: Setup) -> Self {
        let start = Instant::now();
        let device = Device::new(DeviceConfig {
            keys: OwnKeys::of((0..LANES).map(|lane| key(1 + lane)).collect()),
            process_generation: 5,
            addresses: Vec::new(),
            handshakes_per_second: HANDSHAKES_PER_SECOND,
            seed: 7,
            keeps_open: false,
        })
        .expect("a device");
        let configs = [0, 1].map(|peer| (name(peer), peer_config(peer)));
        device.set_peers(&configs.into(), start);
        let mut world = Self {
            start,
            now: start,
            lanes: (0..LANES)
                .map(|lane| device.lane(usize::from(lane), start))
                .collect(),
            device,
            peers: [0, 1].map(wireguard_peer),
            datagrams: UnderlayBatch::with_capacity(BATCH_BYTES, BATCH_LENGTH),
            send: UnderlayBatch::with_capacity(BATCH_BYTES, BATCH_LENGTH),
            packets: OverlayBatch::with_capacity(BATCH_BYTES, BATCH_LENGTH),
            deliver: DeliveryBatch::with_capacity(BATCH_BYTES, BATCH_LENGTH),
        };
        match setup {
            Setup::Idle => {}
            Setup::PeerStarted(peer) => {
                let initiation = world.peers[peer].initiation().expect("an initiation");
                world.shake_hands(peer, &initiation);
            }
            Setup::DeviceStarted => {
                let sent = world.send(0, &[&udp(0, FIXED)]).sent;
                let (_, initiation) = sent.first().expect("the device asks");
                let Reaction::Answer(response) = world.peers[FIXED].receive(initiation) else {
                    panic!("the peer answers");
                };
                world.shake_hands(FIXED, &response);
            }
        }
        world
    }

    /// Hands the device a handshake message of a peer and carries the handshake to its end.
    fn shake_hands(&mut self, peer: usize, message: &[u8]) {
        let address = self.peers[peer].address;
        let mut message = message.to_vec();
        loop {
            let sent = self.receive(0, address, &message, message.len()).sent;
            let answers: Vec<_> = sent
                .iter()
                .filter_map(|(_, sent)| match self.peers[peer].receive(sent) {
                    Reaction::Answer(answer) => Some(answer),
                    Reaction::Packet(_) | Reaction::Nothing => None,
                })
                .collect();
            match answers.into_iter().next() {
                Some(answer) => message = answer,
                None => break,
            }
        }
        let confirmed = self.authenticated()[peer].confirmed_key;
        assert!(confirmed.is_some(), "the handshake has come to its end");
    }

    /// Datagrams of one size behind each other, from the underlay.
    pub(crate) fn receive(
        &mut self,
        lane: usize,
        source: SocketAddr,
        bytes: &[u8],
        segment_size: usize,
    ) -> Effects {
        let before = self.device.drops();
        self.datagrams.clear();
        let start = self.datagrams.room_start();
        let length = bytes.len().min(ROOM_MIN);
        self.datagrams.room()[..length].copy_from_slice(&bytes[..length]);
        self.datagrams.commit(Datagram {
            lane,
            endpoint: source,
            start,
            length,
            segment_size: segment_size.max(1),
            ecn: Ecn::default(),
        });
        let mut effects = Effects::default();
        while !self.datagrams.is_empty() {
            let (send, deliver) = (&mut self.send, &mut self.deliver);
            self.lanes[lane].handle_underlay(self.now, &mut self.datagrams, send, deliver);
            self.collect(&mut effects);
        }
        self.settle(&before, effects)
    }

    /// Packets from the pods, in one batch.
    pub(crate) fn send(&mut self, lane: usize, packets: &[&[u8]]) -> Effects {
        let before = self.device.drops();
        self.packets.clear();
        for packet in packets {
            self.packets.room()[..packet.len()].copy_from_slice(packet);
            self.packets.commit_front(packet.len());
        }
        let mut effects = Effects::default();
        while !self.packets.is_empty() {
            let (send, deliver) = (&mut self.send, &mut self.deliver);
            self.lanes[lane].handle_overlay(self.now, &mut self.packets, send, deliver);
            self.collect(&mut effects);
        }
        self.settle(&before, effects)
    }

    /// Lets time pass on every lane.
    pub(crate) fn wait(&mut self, duration: Duration) -> Effects {
        let before = self.device.drops();
        self.now += duration;
        let mut effects = Effects::default();
        for lane in 0..self.lanes.len() {
            while self.lanes[lane].poll_timeout() <= self.now {
                let (send, deliver) = (&mut self.send, &mut self.deliver);
                self.lanes[lane].handle_timeout(self.now, send, deliver);
                self.collect(&mut effects);
            }
        }
        self.settle(&before, effects)
    }

    /// The kernel has reported a path MTU.
    pub(crate) fn path_mtu(&mut self, endpoint: SocketAddr, path_mtu: u32) {
        self.lanes[0].handle_path_mtu(endpoint, path_mtu);
    }

    fn collect(&mut self, effects: &mut Effects) {
        let sent = self.send.iter();
        effects
            .sent
            .extend(sent.map(|(datagram, bytes)| (datagram.endpoint, bytes.to_vec())));
        let delivered = self.deliver.iter();
        effects
            .delivered
            .extend(delivered.map(|packet| packet.bytes()));
        self.send.clear();
        self.deliver.clear();
    }

    /// Adds the drops since `before`, and checks what always holds.
    fn settle(&self, before: &[(DropReason, u64)], mut effects: Effects) -> Effects {
        let after = self.device.drops();
        for ((reason, before), (_, after)) in before.iter().zip(after) {
            if after > *before {
                effects.dropped.insert(*reason, after - before);
            }
        }
        for peer in self.device.peers(self.now) {
            for lane in &peer.lanes {
                assert!(lane.sessions <= MEMBERS_MAX, "{lane:?}");
                assert!(lane.queued <= QUEUE_PACKETS, "{lane:?}");
            }
        }
        let fixed = self.authenticated().swap_remove(FIXED).endpoint;
        assert_eq!(fixed, Some(address(0)), "a record's endpoint was left");
        effects
    }

    /// What is to be authenticated, of lane 0 of each peer.
    pub(crate) fn authenticated(&self) -> Vec<Authenticated> {
        let of = |traffic: Traffic| (traffic.received_packets, traffic.received_bytes);
        let peers = self.device.peers(self.now).into_iter();
        peers
            .map(|peer| {
                let lane = &peer.lanes[0];
                Authenticated {
                    endpoint: lane.endpoint,
                    confirmed_key: lane.confirmed_key,
                    handshakes: peer.traffic().handshakes,
                    received: of(peer.traffic()),
                }
            })
            .collect()
    }
}

fn name(peer: u8) -> NodeName {
    format!("node-{peer}").parse().expect("a name")
}

/// A small UDP packet of an own pod to a pod of a peer.
pub(crate) fn udp(number: u8, peer: usize) -> Vec<u8> {
    let mut packet = vec![0; 40];
    packet[0] = 0x45;
    packet[3] = 40;
    packet[8..10].copy_from_slice(&[64, 17]);
    packet[12..16].copy_from_slice(&[10, 244, 9, 2]);
    let peer = u8::try_from(peer).expect("two peers");
    packet[16..20].copy_from_slice(&pod_ipv4(peer).octets());
    packet[39] = number;
    packet
}
