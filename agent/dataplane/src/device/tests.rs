//! Real threads on the real clock. Simulated time has one thread, so this is what it cannot show.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use podwire_core::key::PrivateKey;
use podwire_core::mesh::EncryptedPair;
use podwire_core::record;
use zeroize::Zeroizing;

use super::*;
use crate::batch::{DeliveryBatch, OverlayBatch, UnderlayBatch};
use crate::handshake_limiter::HANDSHAKES_PER_SECOND;

const PACKETS: u32 = 2_000;
/// Generous: the machine may be busy.
const DEADLINE: Duration = Duration::from_secs(60);

fn key(number: u8) -> PrivateKey {
    PrivateKey::from_random(Zeroizing::new([number; 32]))
}

fn keys(node: u8, lanes: u8) -> Vec<PrivateKey> {
    (0..lanes).map(|lane| key(16 * node + lane + 1)).collect()
}

fn device(node: u8, lanes: u8) -> Arc<Device> {
    let config = DeviceConfig {
        keys: OwnKeys::of(keys(node, lanes)),
        process_generation: node,
        addresses: Vec::new(),
        handshakes_per_second: HANDSHAKES_PER_SECOND,
        keeps_open: false,
        seed: u64::from(node),
    };
    Device::new(config).expect("a device")
}

/// The record of a node: lane i at port i of its address.
fn config(node: u8, lanes: u8, epoch: u64) -> BTreeMap<NodeName, PeerConfig> {
    let lanes = keys(node, lanes).into_iter().zip(0..);
    let lanes = lanes.map(|(key, port)| record::Lane {
        port,
        key: key.public_key(),
    });
    let pair = EncryptedPair {
        endpoints: vec![SocketAddr::new(IpAddr::from([192, 0, 2, node]), 0)],
        lanes: lanes.collect(),
        next: Vec::new(),
        previous: Vec::new(),
        is_revoked: false,
        key_generation: 1,
        epoch,
    };
    let allowed_ips = vec![format!("10.244.{node}.0/24").parse().expect("a prefix")];
    let name = format!("node-{node}").parse().expect("a name");
    [(
        name,
        PeerConfig {
            uid: format!("uid-{node}"),
            pair,
            allowed_ips,
            path_mtu: 1500,
        },
    )]
    .into()
}

fn packet(from: u8, to: u8, sequence: u32) -> Vec<u8> {
    let mut bytes = crate::icmp::tests::ipv4(17, 20);
    (bytes[14], bytes[18]) = (from, to);
    bytes[28..32].copy_from_slice(&sequence.to_be_bytes());
    bytes
}

type Inbox = Mutex<Vec<(SocketAddr, Vec<u8>)>>;

/// A node of the test: its device and what lies in its sockets.
struct Node {
    number: u8,
    device: Arc<Device>,
    inboxes: Vec<Inbox>,
    delivered: Mutex<BTreeSet<u32>>,
}

impl Node {
    fn new(number: u8, lanes: u8) -> Self {
        let inboxes = (0..lanes).map(|_| Inbox::default()).collect();
        let (device, delivered) = (device(number, lanes), Mutex::default());
        Self {
            number,
            device,
            inboxes,
            delivered,
        }
    }

    /// The thread of one lane: sends its share of the packets and serves its socket until
    /// `is_done`.
    fn run(&self, lane: usize, peer: &Self, is_done: &AtomicBool) {
        let start = Instant::now();
        let mut thread = self.device.lane(lane, start);
        let mut send = UnderlayBatch::with_capacity(1 << 18, 64);
        let mut deliver = DeliveryBatch::with_capacity(1 << 18, 64);
        let mut packets = OverlayBatch::with_capacity(1 << 18, 64);
        let mut datagrams = UnderlayBatch::with_capacity(1 << 18, 64);
        let lanes = u32::try_from(self.inboxes.len()).expect("few");
        let mut sequence = u32::try_from(lane).expect("few");
        while !is_done.load(Ordering::Relaxed) {
            let now = Instant::now();
            packets.clear();
            // What would overflow the queue of a peer without a session is not sent.
            let is_ready = self
                .device
                .peers(now)
                .iter()
                .all(|peer| peer.lanes[0].confirmed);
            let is_first = sequence < lanes;
            while (is_ready || (is_first && packets.is_empty()))
                && !packets.is_full()
                && sequence < PACKETS
                && packets.len() < 8
            {
                let bytes = packet(self.number, peer.number, sequence);
                packets.room()[..bytes.len()].copy_from_slice(&bytes);
                packets.commit_front(bytes.len());
                sequence += lanes;
            }
            while !packets.is_empty() {
                thread.handle_overlay(now, &mut packets, &mut send, &mut deliver);
                self.flush(peer, &mut send, &mut deliver);
            }
            datagrams.clear();
            for (source, bytes) in std::mem::take(&mut *self.inboxes[lane].lock()) {
                datagrams.room()[..bytes.len()].copy_from_slice(&bytes);
                datagrams.commit_front(lane, source, bytes.len());
                if datagrams.is_full() {
                    self.receive(&mut thread, now, peer, &mut datagrams);
                    datagrams.clear();
                }
            }
            self.receive(&mut thread, now, peer, &mut datagrams);
            if thread.poll_timeout() <= now {
                thread.handle_timeout(now, &mut send, &mut deliver);
                self.flush(peer, &mut send, &mut deliver);
            }
            std::thread::yield_now();
        }
    }

    fn receive(&self, lane: &mut Lane, now: Instant, peer: &Self, datagrams: &mut UnderlayBatch) {
        let mut send = UnderlayBatch::with_capacity(1 << 18, 64);
        let mut deliver = DeliveryBatch::with_capacity(1 << 18, 64);
        while !datagrams.is_empty() {
            lane.handle_underlay(now, datagrams, &mut send, &mut deliver);
            self.flush(peer, &mut send, &mut deliver);
        }
    }

    fn flush(&self, peer: &Self, send: &mut UnderlayBatch, deliver: &mut DeliveryBatch) {
        for (datagram, bytes) in send.iter() {
            let port = u16::try_from(datagram.lane).expect("few");
            let source = SocketAddr::new(IpAddr::from([192, 0, 2, self.number]), port);
            let inbox = &peer.inboxes[usize::from(datagram.endpoint.port())];
            inbox.lock().push((source, bytes.to_vec()));
        }
        send.clear();
        for packet in deliver.iter() {
            let bytes = packet.bytes();
            let sequence = bytes[28..32].try_into().expect("four bytes");
            self.delivered.lock().insert(u32::from_be_bytes(sequence));
        }
        deliver.clear();
    }
}

/// The second node has another epoch, and announces other keys or is left with them.
fn change(nodes: &[Node; 2], epoch: usize) {
    let generation = |number: usize| {
        let number = u8::try_from(number).expect("few");
        keys(if number == 0 { 2 } else { 5 + number }, 2)
    };
    let lanes = |keys: &[PrivateKey]| {
        let keys = keys.iter().zip(0..);
        let keys = keys.map(|(key, port)| record::Lane {
            port,
            key: key.public_key(),
        });
        keys.collect::<Vec<_>>()
    };
    let base = generation((epoch - 1) / 2);
    let newer = epoch.is_multiple_of(2).then(|| generation(epoch / 2));
    let mut peers = config(2, 2, u64::try_from(epoch).expect("few"));
    for peer in peers.values_mut() {
        peer.pair.lanes = lanes(&base);
        peer.pair.next = newer.as_deref().map(lanes).unwrap_or_default();
    }
    let own = OwnKeys {
        base,
        newer,
        fading: None,
    };
    let now = Instant::now();
    let changed = nodes[1].device.set_keys(own, Fate::Replaced, now);
    changed.expect("acceptable keys");
    nodes[0].device.set_peers(&peers, now);
}

#[test]
fn threads_of_unequal_numbers_lose_nothing_while_the_table_changes() {
    let nodes = [Node::new(1, 3), Node::new(2, 2)];
    let now = Instant::now();
    let is_done = AtomicBool::new(false);
    for (node, peer) in [(0, config(2, 2, 1)), (1, config(1, 3, 1))] {
        nodes[node].device.set_peers(&peer, now);
    }
    std::thread::scope(|scope| {
        for (node, peer) in [(&nodes[0], &nodes[1]), (&nodes[1], &nodes[0])] {
            for lane in 0..node.inboxes.len() {
                let is_done = &is_done;
                scope.spawn(move || node.run(lane, peer, is_done));
            }
        }
        let is_complete = || {
            nodes
                .iter()
                .all(|n| n.delivered.lock().len() == PACKETS as usize)
        };
        let mut epoch = 1;
        while !is_complete() && now.elapsed() < DEADLINE {
            if nodes[0].delivered.lock().len() > 300 * epoch {
                epoch += 1;
                change(&nodes, epoch);
            }
            std::thread::yield_now();
        }
        is_done.store(true, Ordering::Relaxed);
    });
    for node in &nodes {
        let drops: Vec<_> = node
            .device
            .drops()
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(node.delivered.lock().len(), PACKETS as usize, "{drops:?}");
    }
}

#[test]
fn a_device_refuses_what_it_cannot_be() {
    let make = |lanes, process_generation| {
        let config = DeviceConfig {
            keys: OwnKeys::of(lanes),
            process_generation,
            addresses: Vec::new(),
            handshakes_per_second: HANDSHAKES_PER_SECOND,
            keeps_open: false,
            seed: 0,
        };
        Device::new(config).err()
    };
    assert_eq!(make(Vec::new(), 0), Some(DeviceError::Lanes(0)));
    assert_eq!(make(keys(1, 9), 0), Some(DeviceError::Lanes(9)));
    assert_eq!(
        make(vec![key(1), key(2), key(1)], 0),
        Some(DeviceError::SameKey(0, 2))
    );
    assert_eq!(
        make(keys(1, 1), 16),
        Some(DeviceError::ProcessGeneration(16))
    );
    assert_eq!(make(keys(1, 8), 15), None);
}

#[test]
fn a_device_refuses_keys_that_do_not_fit_and_keeps_those_it_has() {
    let device = device(1, 2);
    let set = |base, newer, fading| {
        let keys = OwnKeys {
            base,
            newer,
            fading,
        };
        device.set_keys(keys, Fate::Replaced, Instant::now()).err()
    };
    let (own, others) = (|| keys(1, 2), |lanes| Some(keys(3, lanes)));
    assert_eq!(set(own(), others(1), None), Some(DeviceError::Keys(1, 2)));
    assert_eq!(set(own(), None, others(3)), Some(DeviceError::Keys(3, 2)));
    assert_eq!(set(keys(1, 1), None, None), Some(DeviceError::Keys(1, 2)));
    let swapped = Some(vec![key(18), key(50)]);
    assert_eq!(
        set(own(), swapped, None),
        Some(DeviceError::SameKey(1, 0)),
        "a key of lane 1 on lane 0"
    );
    let public = |device: &Device| *device.table.load().own().lane(0).base.public_key();
    assert_eq!(public(&device), key(17).public_key());
    assert_eq!(set(own(), Some(vec![key(17), key(50)]), None), None);
    assert_eq!(set(keys(3, 2), Some(own()), Some(keys(4, 2))), None);
    assert_eq!(public(&device), key(49).public_key());
}

#[test]
fn a_peer_waits_once_to_be_asked_and_only_if_it_can_be() {
    let device = Device::new(DeviceConfig {
        keys: OwnKeys::of(keys(1, 2)),
        process_generation: 1,
        addresses: Vec::new(),
        handshakes_per_second: HANDSHAKES_PER_SECOND,
        keeps_open: true,
        seed: 1,
    });
    let (device, now) = (device.expect("a device"), Instant::now());
    let mut peers = config(2, 2, 1);
    let mut hidden = config(3, 2, 1);
    hidden
        .values_mut()
        .for_each(|peer| peer.pair.endpoints.clear());
    peers.extend(hidden);
    let waiting = |device: &Device| {
        let queues = device.lanes.iter().map(|own| own.requested.lock().len());
        queues.collect::<Vec<_>>()
    };
    let change = |peers: &mut BTreeMap<NodeName, PeerConfig>| {
        peers.values_mut().for_each(|peer| peer.path_mtu += 1);
        device.set_peers(peers, now);
    };
    for _ in 0..10 {
        change(&mut peers);
        device.request_handshake(&"node-2".parse().expect("a name"));
    }
    assert_eq!(waiting(&device), [1, 1]);
    // One lane asks, and its set is active from then on; the other one waits on.
    let mut send = UnderlayBatch::with_capacity(1 << 16, 64);
    let mut deliver = DeliveryBatch::with_capacity(1 << 16, 64);
    let mut lane = device.lane(0, now);
    lane.handle_timeout(now, &mut send, &mut deliver);
    change(&mut peers);
    assert_eq!(waiting(&device), [0, 1]);
    device.request_handshake(&"node-2".parse().expect("a name"));
    assert_eq!(waiting(&device), [1, 1], "asked for again");
}
