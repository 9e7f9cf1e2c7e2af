//! Packets that the kernel leaves uncut, through the tunnel and back: against a simple reference.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use podwire_dataplane::batch::SEGMENTS_MAX;
use podwire_dataplane::vnet_header::{PartialChecksum, Segmentation, Segments};
use podwire_dataplane::{
    Coalescing, Datagram, DeliveryBatch, Ecn, Lane, OverlayBatch, Packet, UnderlayBatch, VnetHeader,
};

use crate::packets::{self, pod_ipv4, pod_ipv6};
use crate::simulation::{Network, seconds};

/// Packets of the long comparison.
const PACKETS: u32 = 1_000_000;

/// The longest segment: what a path of 1,500 bytes leaves.
const INNER_MTU: usize = 1440;

const FIN: u8 = 1;
const PSH: u8 = 8;
const CWR: u8 = 128;

/// What a packet is made of.
#[derive(Clone, Debug)]
struct Parts {
    source: IpAddr,
    destination: IpAddr,
    is_tcp: bool,
    /// Type of service or traffic class.
    class: u8,
    hops: u8,
    identification: u16,
    dont_fragment: bool,
    sequence: u32,
    flags: u8,
    /// Of TCP, a multiple of four bytes.
    options: Vec<u8>,
    payload: Vec<u8>,
}

impl Parts {
    /// Bytes in front of the payload.
    fn headers(&self) -> usize {
        self.transport_start()
            + if self.is_tcp {
                20 + self.options.len()
            } else {
                8
            }
    }

    fn transport_start(&self) -> usize {
        if self.source.is_ipv4() { 20 } else { 40 }
    }

    fn checksum_offset(&self) -> usize {
        if self.is_tcp { 16 } else { 6 }
    }

    /// The packet, with a whole checksum, or with the sum of its pseudo header only.
    fn bytes(&self, has_whole_checksum: bool) -> Vec<u8> {
        let mut transport = Vec::new();
        transport.extend([0x30, 0x39, 0x14, 0x51]);
        if self.is_tcp {
            transport.extend(self.sequence.to_be_bytes());
            transport.extend([0, 0, 7, 9]);
            let words = 5 + self.options.len() / 4;
            transport.extend([u8::try_from(words).expect("few") << 4, self.flags]);
            transport.extend([0x20, 0, 0, 0, 0, 0]);
            transport.extend(&self.options);
        } else {
            let length = u16::try_from(8 + self.payload.len()).expect("a packet");
            transport.extend(length.to_be_bytes());
            transport.extend([0, 0]);
        }
        transport.extend(&self.payload);
        let protocol = if self.is_tcp { 6 } else { 17 };
        let mut pseudo = Vec::new();
        for address in [self.source, self.destination] {
            match address {
                IpAddr::V4(address) => pseudo.extend(address.octets()),
                IpAddr::V6(address) => pseudo.extend(address.octets()),
            }
        }
        let addresses = pseudo.clone();
        pseudo.extend([0, protocol]);
        pseudo.extend(
            u16::try_from(transport.len())
                .expect("a packet")
                .to_be_bytes(),
        );
        let at = self.checksum_offset();
        if has_whole_checksum {
            let mut checksum = !sum(&[pseudo, transport.clone()].concat());
            if checksum == 0 && !self.is_tcp {
                checksum = 0xffff;
            }
            transport[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        } else {
            transport[at..at + 2].copy_from_slice(&sum(&pseudo).to_be_bytes());
        }
        let mut packet = Vec::new();
        if self.source.is_ipv4() {
            let length = u16::try_from(20 + transport.len()).expect("a packet");
            packet.extend([0x45, self.class]);
            packet.extend(length.to_be_bytes());
            packet.extend(self.identification.to_be_bytes());
            packet.extend([if self.dont_fragment { 0x40 } else { 0 }, 0]);
            packet.extend([self.hops, protocol, 0, 0]);
            packet.extend(addresses);
            let checksum = !sum(&packet);
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        } else {
            let class = u32::from(self.class);
            packet.extend((0x6000_0000 | class << 20 | 0xbeef).to_be_bytes());
            packet.extend(
                u16::try_from(transport.len())
                    .expect("a packet")
                    .to_be_bytes(),
            );
            packet.extend([protocol, self.hops]);
            packet.extend(addresses);
        }
        packet.extend(transport);
        packet
    }

    /// The packets that it is cut into, each made from nothing.
    fn segments(&self, size: usize) -> Vec<Vec<u8>> {
        let count = self.payload.len().div_ceil(size);
        let chunks = self.payload.chunks(size).enumerate();
        let segment = |(number, payload): (usize, &[u8])| {
            let mut flags = self.flags;
            if number > 0 {
                flags &= !CWR;
            }
            if number + 1 < count {
                flags &= !(FIN | PSH);
            }
            let offset = u32::try_from(number * size).expect("a packet");
            let number = u16::try_from(number).expect("a packet");
            Self {
                sequence: self.sequence.wrapping_add(offset),
                identification: self.identification.wrapping_add(number),
                flags,
                payload: payload.to_vec(),
                ..self.clone()
            }
            .bytes(true)
        };
        chunks.map(segment).collect()
    }

    fn vnet_header(&self, size: usize) -> VnetHeader {
        let word = |number: usize| u16::try_from(number).expect("a packet");
        VnetHeader {
            checksum: Some(PartialChecksum {
                start: word(self.transport_start()),
                offset: word(self.checksum_offset()),
            }),
            segments: (self.payload.len() > size).then(|| Segments {
                kind: match (self.is_tcp, self.source.is_ipv4()) {
                    (true, true) => Segmentation::TcpOverIpv4,
                    (true, false) => Segmentation::TcpOverIpv6,
                    (false, _) => Segmentation::Udp,
                },
                size: word(size),
                header_length: word(self.headers()),
                has_cwr: self.is_tcp && self.flags & CWR != 0,
            }),
        }
    }
}

/// RFC 1071 §4.1.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from));
    let mut sum: u32 = words.sum();
    while sum >> 16 > 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}

/// Two lanes with a session, and the batches between them.
struct Pair {
    sender: Lane,
    receiver: Lane,
    now: Instant,
    source: SocketAddr,
    packets: OverlayBatch,
    send: UnderlayBatch,
    datagrams: UnderlayBatch,
    deliver: DeliveryBatch,
}

impl Pair {
    fn new(coalescing: Coalescing, segments_max: usize) -> Self {
        let mut network = Network::new(&[1, 1]);
        network.send(0, 0, &packets::Packet::new(0, 1).bytes());
        network.run(seconds(1));
        let now = network.now;
        let lane = |node: usize| network.nodes[node].device.lane(0, now);
        let mut pair = Self {
            sender: lane(0),
            receiver: lane(1),
            now,
            source: "192.0.2.11:51880".parse().expect("an address"),
            packets: OverlayBatch::with_capacity(1 << 17, 8),
            send: UnderlayBatch::with_capacity(1 << 18, 200),
            datagrams: UnderlayBatch::with_capacity(1 << 18, 200),
            deliver: DeliveryBatch::with_capacity(1 << 18, 200),
        };
        pair.send.set_segments_max(segments_max);
        pair.deliver.set_coalescing(coalescing);
        pair
    }

    fn put(&mut self, bytes: &[u8], vnet_header: VnetHeader) {
        self.packets.room()[..bytes.len()].copy_from_slice(bytes);
        self.packets.commit(Packet {
            start: self.packets.room_start(),
            length: bytes.len(),
            vnet_header,
        });
    }

    /// Sends what was put, with this congestion notification on the way; what is delivered, and in
    /// how many datagrams it came.
    fn carry(&mut self, ecn: Option<Ecn>) -> (Vec<(Vec<u8>, VnetHeader)>, usize) {
        self.send.clear();
        self.deliver.clear();
        self.sender.handle_overlay(
            self.now,
            &mut self.packets,
            &mut self.send,
            &mut self.deliver,
        );
        assert!(self.packets.is_empty() && self.deliver.is_empty());
        self.packets.clear();
        let trains = self.send.len();
        (self.receive(ecn), trains)
    }

    /// Receives what was sent.
    fn receive(&mut self, ecn: Option<Ecn>) -> Vec<(Vec<u8>, VnetHeader)> {
        self.deliver.clear();
        self.datagrams.clear();
        for (datagram, bytes) in self.send.iter() {
            self.datagrams.room()[..bytes.len()].copy_from_slice(bytes);
            self.datagrams.commit(Datagram {
                endpoint: self.source,
                start: self.datagrams.room_start(),
                ecn: ecn.unwrap_or(datagram.ecn),
                ..*datagram
            });
        }
        self.send.clear();
        let (datagrams, send, deliver) = (&mut self.datagrams, &mut self.send, &mut self.deliver);
        self.receiver
            .handle_underlay(self.now, datagrams, send, deliver);
        assert!(self.datagrams.is_empty());
        let delivered = self.deliver.iter();
        let delivered = delivered.map(|packet| (packet.bytes(), packet.vnet_header));
        delivered.collect()
    }
}

/// Numbers that are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).expect("64 bits") % bound
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).expect("a byte")
    }

    /// A packet and the size of its segments.
    fn parts(&mut self) -> (Parts, usize) {
        let is_ipv4 = self.below(2) == 0;
        let is_tcp = self.below(3) > 0;
        let (source, destination) = if is_ipv4 {
            (pod_ipv4(0).into(), pod_ipv4(1).into())
        } else {
            (pod_ipv6(0).into(), pod_ipv6(1).into())
        };
        let options = [0, 12, 20, 40][self.below(4)];
        let mut parts = Parts {
            source,
            destination,
            is_tcp,
            class: self.byte(),
            hops: self.byte().max(1),
            identification: u16::from_be_bytes([self.byte(), self.byte()]),
            dont_fragment: self.below(2) == 0,
            sequence: u32::from_be_bytes([self.byte(), self.byte(), self.byte(), 0xf0]),
            flags: 0x10
                | [0, FIN, PSH, FIN | PSH][self.below(4)]
                | [0, 0, CWR, 0x40][self.below(4)],
            options: (0..options).map(|_| self.byte()).collect(),
            payload: Vec::new(),
        };
        let largest = INNER_MTU - parts.headers();
        // Most are small, so that there can be many.
        let size = 1 + if self.below(8) == 0 {
            self.below(largest)
        } else {
            self.below(200)
        };
        // A UDP packet is at most so many datagrams.
        let most = if self.below(50) == 0 {
            60_000
        } else {
            size * 12
        };
        let length = 1 + self.below(most.min(size * 63).min(60_000));
        parts.payload = (0..length).map(|at| at.to_le_bytes()[0] ^ 0x5a).collect();
        (parts, size)
    }
}

const ALL: Coalescing = Coalescing {
    tcp: true,
    udp: true,
};

#[test]
fn a_million_packets_are_cut_and_joined_to_what_they_were() {
    let mut pair = Pair::new(ALL, SEGMENTS_MAX);
    let mut random = Random(0x5eed);
    for number in 0..PACKETS {
        let (parts, size) = random.parts();
        pair.put(&parts.bytes(false), parts.vnet_header(size));
        let (delivered, trains) = pair.carry(None);
        let expected = if parts.payload.len() > size {
            (parts.bytes(false), parts.vnet_header(size))
        } else {
            (parts.bytes(true), VnetHeader::default())
        };
        assert_eq!(
            delivered,
            [expected],
            "packet {number}: {parts:?} by {size}"
        );
        let segments = parts.payload.len().div_ceil(size);
        let bytes = parts.payload.len() + segments * (parts.headers() + 32 + 15);
        let least = segments.div_ceil(SEGMENTS_MAX).max(1);
        assert!(
            trains <= least + bytes / 65_507,
            "{trains} trains of {segments} segments"
        );
    }
}

/// Several packets in one batch, into outputs that are soon full: nothing is lost, doubled or
/// changed where the work is taken up again.
#[test]
fn outputs_that_fill_in_the_midst_of_a_packet_lose_nothing() {
    let mut pair = Pair::new(Coalescing::default(), 1);
    let mut random = Random(0xabcd);
    for number in 0..5_000 {
        let all: Vec<_> = (0..3).map(|_| random.parts()).collect();
        for (parts, size) in &all {
            pair.put(&parts.bytes(false), parts.vnet_header(*size));
        }
        let mut send = UnderlayBatch::with_capacity(1 << 17, 1 + random.below(5));
        send.set_segments_max(1 + random.below(3));
        let mut delivered = Vec::new();
        while !pair.packets.is_empty() {
            let (now, deliver) = (pair.now, &mut pair.deliver);
            pair.sender
                .handle_overlay(now, &mut pair.packets, &mut send, deliver);
            assert!(!send.is_empty(), "it goes on");
            std::mem::swap(&mut pair.send, &mut send);
            delivered.extend(pair.receive(None).into_iter().map(|(bytes, _)| bytes));
            std::mem::swap(&mut pair.send, &mut send);
        }
        pair.packets.clear();
        let expected = all.iter().flat_map(|(parts, size)| parts.segments(*size));
        assert!(
            delivered.iter().cloned().eq(expected),
            "batch {number}: {all:?}"
        );
    }
}

#[test]
fn a_mark_on_the_way_reaches_every_segment_and_spoils_no_checksum() {
    let mut pair = Pair::new(ALL, SEGMENTS_MAX);
    let mut random = Random(0xcafe);
    for number in 0..5_000 {
        let (parts, size) = random.parts();
        pair.put(&parts.bytes(false), parts.vnet_header(size));
        let (delivered, _) = pair.carry(Some(Ecn::Congested));
        if parts.class & 3 == 0 {
            assert!(delivered.is_empty(), "it does not understand the mark");
            continue;
        }
        let class = parts.class | 3;
        let marked = Parts { class, ..parts };
        let expected = if marked.payload.len() > size {
            (marked.bytes(false), marked.vnet_header(size))
        } else {
            (marked.bytes(true), VnetHeader::default())
        };
        assert_eq!(
            delivered,
            [expected],
            "packet {number}: {marked:?} by {size}"
        );
    }
}

#[test]
fn what_is_not_joined_is_what_the_reference_makes_of_it() {
    let mut pair = Pair::new(Coalescing::default(), 1);
    let mut random = Random(0xfeed);
    for number in 0..20_000 {
        let (parts, size) = random.parts();
        pair.put(&parts.bytes(false), parts.vnet_header(size));
        let (delivered, _) = pair.carry(None);
        let expected = parts.segments(size).into_iter();
        let expected: Vec<_> = expected
            .map(|bytes| (bytes, VnetHeader::default()))
            .collect();
        assert_eq!(delivered, expected, "packet {number}: {parts:?} by {size}");
    }
}
