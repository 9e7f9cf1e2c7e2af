//! Nodes on a simulated underlay, in simulated time: everything that happens is decided by the test
//! and by one seed, and hours pass in milliseconds.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use podwire_core::key::PrivateKey;
use podwire_core::mesh::EncryptedPair;
use podwire_core::node::NodeName;
use podwire_core::record;
use podwire_dataplane::{
    DeliveryBatch, Device, DeviceConfig, DropReason, HANDSHAKES_PER_SECOND, Lane, LaneStatus,
    OverlayBatch, OwnKeys, PeerConfig, PeerStatus, UnderlayBatch, simulated_clock,
};
use zeroize::Zeroizing;

use crate::packets::Packet;

/// One way through the underlay.
const DELAY: Duration = Duration::from_millis(2);
const BATCH_BYTES: usize = 1 << 20;
const BATCH_LENGTH: usize = 256;
pub(crate) const BASE_PORT: u16 = 51880;

pub(crate) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) const fn milliseconds(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A datagram on its way.
#[derive(Clone, Debug)]
pub(crate) struct Transit {
    pub(crate) from: usize,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

impl Transit {
    /// 1 initiation, 2 response, 3 cookie reply, 4 data.
    pub(crate) fn kind(&self) -> u8 {
        self.bytes[0]
    }
}

type Filter = Box<dyn FnMut(Instant, &Transit) -> bool>;
type Delay = Box<dyn FnMut(&Transit) -> Duration>;

/// How a node appears in the records of the others, and where it is.
pub(crate) struct Node {
    pub(crate) name: NodeName,
    pub(crate) device: Arc<Device>,
    lanes: Vec<Lane>,
    /// The current keys.
    pub(crate) keys: Vec<String>,
    /// Announced ones, if any.
    pub(crate) next: Vec<String>,
    /// Those that are not retired yet, if any.
    pub(crate) previous: Vec<String>,
    /// Those that were announced in vain, if any.
    pub(crate) fading: Vec<String>,
    pub(crate) is_revoked: bool,
    pub(crate) addresses: Vec<IpAddr>,
    /// Behind NAT: the record names no endpoint, and datagrams come from this address.
    pub(crate) nat: Option<SocketAddr>,
    pub(crate) epoch: u64,
    pub(crate) key_generation: u64,
    pub(crate) publishes_lanes: usize,
    pub(crate) delivered: Vec<Vec<u8>>,
    pub(crate) clock_behind: Duration,
    generation: u8,
    pub(crate) path_mtu: u32,
    pub(crate) handshakes_per_second: u32,
    /// From its next restart on, nobody can reach it unasked.
    pub(crate) keeps_open: bool,
}

impl Node {
    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        let drops = self.device.drops();
        drops
            .into_iter()
            .find(|(r, _)| *r == reason)
            .map_or(0, |(_, count)| count)
    }

    /// What the device is told.
    pub(crate) fn own_keys(&self) -> OwnKeys {
        let list = |keys: &[String]| {
            let keys = keys.iter();
            let keys = keys.map(|key| PrivateKey::from_base64(key).expect("a key"));
            keys.collect::<Vec<_>>()
        };
        let some = |keys: &[String]| (!keys.is_empty()).then(|| list(keys));
        let (base, newer) = if self.previous.is_empty() {
            (&self.keys, &self.next)
        } else {
            (&self.previous, &self.keys)
        };
        OwnKeys {
            base: list(base),
            newer: some(newer),
            fading: some(&self.fading),
        }
    }

    pub(crate) fn lanes_max(&self) -> usize {
        self.lanes.len()
    }

    pub(crate) fn all_drops(&self) -> Vec<(DropReason, u64)> {
        self.device
            .drops()
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// The sequence numbers of the test packets that were delivered, in order.
    pub(crate) fn sequence(&self) -> Vec<u32> {
        self.delivered
            .iter()
            .filter_map(|bytes| Packet::sequence_of(bytes))
            .collect()
    }
}

/// The underlay and all that is on it.
pub(crate) struct Network {
    pub(crate) now: Instant,
    pub(crate) start: Instant,
    pub(crate) nodes: Vec<Node>,
    transits: BTreeMap<(Instant, u64), Transit>,
    sent: u64,
    /// Datagrams for which one of these is true are lost.
    filters: BTreeMap<u64, Filter>,
    pub(crate) delay: Option<Delay>,
    /// Every datagram that was sent, lost or not.
    pub(crate) log: Vec<(Duration, Transit)>,
    pub(crate) random: u64,
    /// Peers of every node that are nowhere.
    pub(crate) strangers: BTreeMap<NodeName, PeerConfig>,
    datagrams: UnderlayBatch,
    send: UnderlayBatch,
    packets: OverlayBatch,
    deliver: DeliveryBatch,
}

impl Network {
    /// Nodes with so many lanes each, everyone knowing everyone.
    pub(crate) fn new(lanes: &[usize]) -> Self {
        let mut network = Self::unconnected(lanes);
        network.publish();
        network
    }

    pub(crate) fn unconnected(lanes: &[usize]) -> Self {
        watch_for_errors();
        simulated_clock::start();
        let start = Instant::now();
        let mut network = Self {
            now: start,
            start,
            nodes: Vec::new(),
            transits: BTreeMap::new(),
            sent: 0,
            filters: BTreeMap::new(),
            delay: None,
            log: Vec::new(),
            random: 0x5eed,
            strangers: BTreeMap::new(),
            datagrams: UnderlayBatch::with_capacity(BATCH_BYTES, BATCH_LENGTH),
            send: UnderlayBatch::with_capacity(BATCH_BYTES, BATCH_LENGTH),
            packets: OverlayBatch::with_capacity(BATCH_BYTES, BATCH_LENGTH),
            deliver: DeliveryBatch::with_capacity(BATCH_BYTES, BATCH_LENGTH),
        };
        for (number, lanes) in lanes.iter().enumerate() {
            let node = network.make_node(number, *lanes);
            network.nodes.push(node);
        }
        network
    }

    fn make_node(&mut self, number: usize, lanes: usize) -> Node {
        let keys: Vec<_> = (0..lanes).map(|_| self.random_key()).collect();
        let octet = u8::try_from(11 + number).expect("few nodes");
        let own = keys.iter().map(|key| PrivateKey::from_base64(key));
        let own = own.collect::<Result<_, _>>().expect("keys");
        let own = OwnKeys::of(own);
        let device = make_device(own, 1, HANDSHAKES_PER_SECOND, false, self.random());
        Node {
            name: format!("node-{number}").parse().expect("a name"),
            lanes: (0..lanes).map(|lane| device.lane(lane, self.now)).collect(),
            device,
            keys,
            next: Vec::new(),
            previous: Vec::new(),
            fading: Vec::new(),
            is_revoked: false,
            addresses: vec![Ipv4Addr::new(192, 0, 2, octet).into()],
            nat: None,
            epoch: 1,
            key_generation: 1,
            publishes_lanes: lanes,
            delivered: Vec::new(),
            clock_behind: Duration::ZERO,
            generation: 1,
            path_mtu: 1500,
            handshakes_per_second: HANDSHAKES_PER_SECOND,
            keeps_open: false,
        }
    }

    pub(crate) fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    pub(crate) fn random_key(&mut self) -> String {
        let words = [(); 4].map(|()| self.random().to_le_bytes());
        let mut bytes = Zeroizing::new([0; 32]);
        bytes.copy_from_slice(words.as_flattened());
        PrivateKey::from_random(bytes).to_base64().to_string()
    }

    /// Adds an IPv6 underlay address to every node, before the IPv4 one.
    pub(crate) fn prefer_ipv6(&mut self) {
        for (number, node) in self.nodes.iter_mut().enumerate() {
            let last = u16::try_from(11 + number).expect("few nodes");
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
            node.addresses.insert(0, address.into());
        }
        self.publish();
    }

    /// What the others are told about a node.
    pub(crate) fn record(&self, number: usize) -> PeerConfig {
        let node = &self.nodes[number];
        let key = |text: &String| PrivateKey::from_base64(text).expect("a key").public_key();
        let port = |lane: usize| BASE_PORT + u16::try_from(lane).expect("few lanes");
        let lanes = |keys: &[String]| {
            let published = keys.iter().take(node.publishes_lanes).enumerate();
            let published = published.map(|(lane, text)| record::Lane {
                port: port(lane),
                key: key(text),
            });
            published.collect::<Vec<_>>()
        };
        let subnet = format!("10.244.{number}.0/24").parse().expect("a prefix");
        let subnet_ipv6 = format!("fd00:10:244:{number}::/64")
            .parse()
            .expect("a prefix");
        let endpoints = match node.nat {
            Some(_) => Vec::new(),
            None => node
                .addresses
                .iter()
                .map(|ip| SocketAddr::new(*ip, BASE_PORT))
                .collect(),
        };
        PeerConfig {
            uid: format!("uid-{number}"),
            pair: EncryptedPair {
                endpoints,
                lanes: lanes(&node.keys),
                next: lanes(&node.next),
                previous: lanes(&node.previous),
                is_revoked: node.is_revoked,
                key_generation: node.key_generation,
                epoch: node.epoch,
            },
            allowed_ips: vec![subnet, subnet_ipv6],
            path_mtu: node.path_mtu,
        }
    }

    /// Tells every node the present records of all others.
    pub(crate) fn publish(&mut self) {
        for number in 0..self.nodes.len() {
            self.publish_to(number);
        }
    }

    /// Tells one node the present records of all others.
    pub(crate) fn publish_to(&mut self, number: usize) {
        let others = (0..self.nodes.len()).filter(|other| *other != number);
        let peers = others.map(|other| (self.nodes[other].name.clone(), self.record(other)));
        let strangers = self.strangers.clone();
        let peers = strangers.into_iter().chain(peers).collect();
        self.nodes[number].device.set_peers(&peers, self.now);
    }

    /// A node sees that its clock went back; the others are not told yet.
    pub(crate) fn begin_epoch(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.epoch += 1;
        node.device.begin_epoch(self.now);
    }

    /// The process of a node dies and starts again with the same keys, knowing nothing of before.
    pub(crate) fn restart(&mut self, number: usize) {
        let seed = self.random();
        let node = &mut self.nodes[number];
        node.generation = (node.generation + 1) % 16;
        let (limit, keeps_open) = (node.handshakes_per_second, node.keeps_open);
        node.device = make_device(node.own_keys(), node.generation, limit, keeps_open, seed);
        node.lanes = (0..node.keys.len())
            .map(|l| node.device.lane(l, self.now))
            .collect();
        self.publish_to(number);
    }

    /// Restarts a node with new keys; the others are not told yet.
    pub(crate) fn restart_with_new_keys(&mut self, number: usize) {
        let lanes = self.nodes[number].keys.len();
        self.nodes[number].keys = (0..lanes).map(|_| self.random_key()).collect();
        self.nodes[number].key_generation += 1;
        self.restart(number);
    }

    /// Loses every datagram for which `is_lost` is true, until [`Self::heal`].
    pub(crate) fn lose(&mut self, mut is_lost: impl FnMut(&Transit) -> bool + 'static) -> u64 {
        self.watch(move |_, transit| is_lost(transit))
    }

    /// The same, with the time.
    pub(crate) fn watch(
        &mut self,
        is_lost: impl FnMut(Instant, &Transit) -> bool + 'static,
    ) -> u64 {
        self.sent += 1;
        self.filters.insert(self.sent, Box::new(is_lost));
        self.sent
    }

    pub(crate) fn heal(&mut self, filter: u64) {
        assert!(self.filters.remove(&filter).is_some(), "a filter");
    }

    /// A pod of `from` sends a packet, whose flow is on `lane`.
    pub(crate) fn send(&mut self, from: usize, lane: usize, packet: &[u8]) {
        self.send_all(from, lane, &[packet.to_vec()]);
    }

    /// Pods of `from` send packets, whose flows are on `lane`.
    pub(crate) fn send_all(&mut self, from: usize, lane: usize, packets: &[Vec<u8>]) {
        for chunk in packets.chunks(BATCH_LENGTH) {
            self.packets.clear();
            for packet in chunk {
                self.packets.room()[..packet.len()].copy_from_slice(packet);
                self.packets.commit_front(packet.len());
            }
            while !self.packets.is_empty() {
                self.enter(from);
                let node = &mut self.nodes[from];
                let (send, deliver) = (&mut self.send, &mut self.deliver);
                node.lanes[lane].handle_overlay(self.now, &mut self.packets, send, deliver);
                self.collect(from);
            }
        }
    }

    /// Sends the numbered test packet over IPv4.
    pub(crate) fn ping(&mut self, from: usize, to: usize, sequence: u32) {
        self.send(from, 0, &Packet::new(from, to).sequence(sequence).bytes());
    }

    /// The last datagram of a kind that a node has sent.
    #[track_caller]
    pub(crate) fn last_sent(&self, from: usize, kind: u8) -> Transit {
        let mut sent = self.log.iter().rev().map(|(_, transit)| transit);
        let last = sent.find(|t| t.from == from && t.kind() == kind);
        last.expect("sent one").clone()
    }

    /// Hands a datagram to a node as it is.
    pub(crate) fn inject(&mut self, transit: Transit, after: Duration) {
        self.sent += 1;
        self.transits.insert((self.now + after, self.sent), transit);
    }

    /// Hands datagrams to a lane of a node now, in one batch.
    pub(crate) fn inject_now(
        &mut self,
        to: usize,
        lane: usize,
        datagrams: &[(SocketAddr, Vec<u8>)],
    ) {
        for chunk in datagrams.chunks(BATCH_LENGTH) {
            self.datagrams.clear();
            for (source, bytes) in chunk {
                self.datagrams.room()[..bytes.len()].copy_from_slice(bytes);
                self.datagrams.commit_front(lane, *source, bytes.len());
            }
            while !self.datagrams.is_empty() {
                self.enter(to);
                let node = &mut self.nodes[to];
                let (send, deliver) = (&mut self.send, &mut self.deliver);
                node.lanes[lane].handle_underlay(self.now, &mut self.datagrams, send, deliver);
                self.collect(to);
            }
        }
    }

    pub(crate) fn with_lane(
        &mut self,
        node: usize,
        lane: usize,
        work: impl FnOnce(&mut Lane, Instant),
    ) {
        work(&mut self.nodes[node].lanes[lane], self.now);
    }

    pub(crate) fn handle_path_mtu(&mut self, node: usize, endpoint: SocketAddr, path_mtu: u32) {
        self.nodes[node].lanes[0].handle_path_mtu(endpoint, path_mtu);
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let arrival = self.transits.keys().next().map(|(at, _)| *at);
            let lanes = self.nodes.iter().flat_map(|node| &node.lanes);
            let timeout = lanes.map(Lane::poll_timeout).min();
            let next = [arrival, timeout].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.move_to(next);
            self.arrive();
            self.time_out();
        }
        self.move_to(end);
    }

    /// Lets time pass for the clock, but not for the nodes: their processes are stopped.
    pub(crate) fn freeze(&mut self, duration: Duration) {
        self.move_to(self.now + duration);
    }

    fn move_to(&mut self, at: Instant) {
        if let Some(by) = at.checked_duration_since(self.now) {
            simulated_clock::advance(by);
            self.now = at;
        }
    }

    fn arrive(&mut self) {
        while let Some(entry) = self.transits.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let transit = entry.remove();
            if let Some((to, lane)) = self.find(transit.destination) {
                self.inject_now(to, lane, &[(transit.source, transit.bytes)]);
            }
        }
    }

    fn find(&self, destination: SocketAddr) -> Option<(usize, usize)> {
        self.nodes.iter().enumerate().find_map(|(number, node)| {
            let base = match node.nat {
                Some(outside) if outside.ip() == destination.ip() => outside.port(),
                None if node.addresses.contains(&destination.ip()) => BASE_PORT,
                Some(_) | None => return None,
            };
            let lane = usize::from(destination.port().checked_sub(base)?);
            (lane < node.lanes.len()).then_some((number, lane))
        })
    }

    fn time_out(&mut self) {
        for number in 0..self.nodes.len() {
            for lane in 0..self.nodes[number].lanes.len() {
                while self.nodes[number].lanes[lane].poll_timeout() <= self.now {
                    self.enter(number);
                    let (send, deliver) = (&mut self.send, &mut self.deliver);
                    self.nodes[number].lanes[lane].handle_timeout(self.now, send, deliver);
                    self.collect(number);
                }
            }
        }
    }

    /// From here on the wall clock is that of this node.
    fn enter(&self, number: usize) {
        simulated_clock::set_wall_clock_behind(self.nodes[number].clock_behind);
    }

    fn collect(&mut self, from: usize) {
        let sent: Vec<_> = self
            .send
            .iter()
            .map(|(datagram, bytes)| (*datagram, bytes.to_vec()))
            .collect();
        self.send.clear();
        for (datagram, bytes) in sent {
            let node = &self.nodes[from];
            let port = |base: u16| base + u16::try_from(datagram.lane).expect("few lanes");
            let source = match node.nat {
                Some(outside) => SocketAddr::new(outside.ip(), port(outside.port())),
                None => {
                    let is_ipv4 = datagram.endpoint.is_ipv4();
                    let own = node.addresses.iter().find(|ip| ip.is_ipv4() == is_ipv4);
                    let Some(own) = own else { continue };
                    SocketAddr::new(*own, port(BASE_PORT))
                }
            };
            self.transmit(Transit {
                from,
                source,
                destination: datagram.endpoint,
                bytes,
            });
        }
        let delivered = self.deliver.iter().map(|packet| packet.bytes());
        self.nodes[from].delivered.extend(delivered);
        self.deliver.clear();
    }

    fn transmit(&mut self, transit: Transit) {
        self.log.push((self.now - self.start, transit.clone()));
        let now = self.now;
        let is_lost = self.filters.values_mut().any(|lost| lost(now, &transit));
        if !is_lost {
            let delay = self.delay.as_mut().map_or(DELAY, |delay| delay(&transit));
            self.inject(transit, delay);
        }
    }

    /// What `from` says about its peer `to`.
    pub(crate) fn status(&self, from: usize, to: usize) -> PeerStatus {
        let peers = self.nodes[from].device.peers(self.now);
        peers
            .into_iter()
            .find(|peer| peer.name == self.nodes[to].name)
            .expect("a peer")
    }

    pub(crate) fn lane_status(&self, from: usize, to: usize, lane: usize) -> LaneStatus {
        self.status(from, to).lanes.swap_remove(lane)
    }

    /// Datagrams of one kind that `from` has sent, lost or not.
    pub(crate) fn count(&self, from: usize, kind: u8) -> usize {
        self.log
            .iter()
            .filter(|(_, t)| t.from == from && t.kind() == kind)
            .count()
    }

    /// Forgets the datagrams so far.
    pub(crate) fn clear_log(&mut self) {
        self.log.clear();
    }

    /// Asserts that every packet of `0..count` was delivered to `to` exactly once.
    #[track_caller]
    pub(crate) fn assert_all_delivered(&self, to: usize, count: u32) {
        let sequence = self.nodes[to].sequence();
        let distinct: BTreeSet<_> = sequence.iter().copied().collect();
        let missing: Vec<_> = (0..count).filter(|n| !distinct.contains(n)).collect();
        assert!(
            missing.is_empty(),
            "lost {missing:?}; {:?}",
            self.nodes[to].all_drops()
        );
        assert_eq!(sequence.len(), distinct.len(), "delivered twice");
    }
}

fn make_device(
    keys: OwnKeys,
    process_generation: u8,
    handshakes_per_second: u32,
    keeps_open: bool,
    seed: u64,
) -> Arc<Device> {
    let config = DeviceConfig {
        keys,
        process_generation,
        addresses: Vec::new(),
        handshakes_per_second,
        keeps_open,
        seed,
    };
    Device::new(config).expect("a device")
}

thread_local! {
    static ERRORS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

impl Drop for Network {
    fn drop(&mut self) {
        let errors = ERRORS.take();
        if !std::thread::panicking() {
            assert!(errors.is_empty(), "logged as errors: {errors:?}");
        }
    }
}

/// An error in the log fails the test: it would wake somebody for what is normal.
fn watch_for_errors() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::subscriber::set_global_default(ErrorWatch).expect("the only subscriber");
    });
    ERRORS.take();
}

struct ErrorWatch;

impl tracing::Subscriber for ErrorWatch {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let metadata = event.metadata();
        let place = format!("{}:{:?}", metadata.target(), metadata.line());
        ERRORS.with_borrow_mut(|errors| errors.push(place));
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}
