//! Packets that follow each other, from a peer, and what they are joined to.
//!
//! Each packet is a byte, of which the lowest bit says that its checksums are made right, two bytes
//! for its length, and its bytes.

use std::collections::BTreeSet;

use podwire_dataplane::batch::ROOM_MIN;
use podwire_dataplane::coalesce::PIECES_MAX;
use podwire_dataplane::{Coalescing, DeliveryBatch};

use crate::inner_packet::InnerPacket;
use crate::input::Input;

/// Packets of one input.
const PACKETS_MAX: usize = 128;

/// One input.
pub fn one(data: &[u8]) {
    let mut input = Input::new(data);
    let mut batch = DeliveryBatch::with_capacity(8 * ROOM_MIN, PACKETS_MAX);
    batch.set_coalescing(Coalescing {
        tcp: true,
        udp: true,
    });
    let mut packets = Vec::new();
    while packets.len() < PACKETS_MAX && !input.is_empty() {
        let is_repaired = input.byte() & 1 > 0;
        // As the device does, which delivers nothing else.
        let Some(packet) = InnerPacket::new(input.sized()) else {
            continue;
        };
        let mut bytes = packet.bytes.to_vec();
        if is_repaired {
            // No mutation would ever find a right checksum.
            repair(&mut bytes);
        }
        batch.room()[..bytes.len()].copy_from_slice(&bytes);
        batch.append(bytes.len());
        packets.push(bytes);
    }
    let mut found = Vec::new();
    for packet in batch.iter() {
        let (header, bytes) = (packet.vnet_header, packet.bytes());
        assert!(packet.pieces().count() <= PIECES_MAX);
        if header.segments.is_none() {
            assert!(header.checksum.is_none(), "untouched");
            found.push(bytes);
            continue;
        }
        let before = found.len();
        header.each_segment(&bytes, |segment| found.push(segment.to_vec()));
        let joined = found.len() - before;
        assert!(joined > 1, "joined of several");
        assert!(joined <= PIECES_MAX, "{joined} of one");
    }
    assert_eq!(found.len(), packets.len(), "none is lost or added");
    // Packets of one flow stay in their order, and so do those that do not show theirs, among
    // those of their addresses.
    let flows: BTreeSet<_> = packets.iter().map(|packet| flow(packet)).collect();
    for wanted in flows {
        let of_flow = |packet: &&mut Vec<u8>| match (flow(packet), &wanted) {
            (None, Some(wanted)) => addresses(packet).is_some_and(|ends| {
                // Behind the protocol, and in front of the ports.
                wanted.len() == 1 + ends.len() + 4 && wanted[1..].starts_with(ends)
            }),
            (flow, wanted) => flow == *wanted,
        };
        let found: Vec<_> = found.iter_mut().filter(of_flow).collect();
        let packets: Vec<_> = packets.iter_mut().filter(of_flow).collect();
        assert_eq!(found.len(), packets.len(), "of {wanted:?}");
        for (found, packet) in found.into_iter().zip(packets) {
            normalise(found, packet);
            assert_eq!(found, packet, "the kernel makes the same of it again");
        }
    }
}

/// Source and destination.
fn addresses(packet: &[u8]) -> Option<&[u8]> {
    packet.get(if packet[0] >> 4 == 4 { 12..20 } else { 8..40 })
}

/// Protocol, addresses and ports, if a packet shows them at once.
fn flow(packet: &[u8]) -> Option<Vec<u8>> {
    let (protocol, ends) = match packet[0] {
        0x45 if packet[6] & 0xbf == 0 && packet[7] == 0 => (packet[9], packet.get(12..24)?),
        first if first >> 4 == 6 => (packet[6], packet.get(8..44)?),
        _ => return None,
    };
    matches!(protocol, 6 | 17).then(|| [&[protocol], ends].concat())
}

/// Makes the checksums of a packet without options or extension headers right.
fn repair(packet: &mut [u8]) {
    let (start, protocol, addresses) = match packet[0] {
        0x45 => (20, packet[9], 12..20),
        first if first >> 4 == 6 => (40, packet[6], 8..40),
        _ => return,
    };
    let at = match protocol {
        6 => start + 16,
        17 => start + 6,
        _ => return,
    };
    if packet.len() < at + 2 {
        return;
    }
    if start == 20 {
        packet[10..12].fill(0);
        let checksum = !sum(&packet[..20]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    packet[at..at + 2].fill(0);
    let length = u16::try_from(packet.len() - start).unwrap_or(u16::MAX);
    let mut summed = packet[addresses].to_vec();
    summed.extend([0, protocol]);
    summed.extend(length.to_be_bytes());
    summed.extend_from_slice(&packet[start..]);
    let checksum = match !sum(&summed) {
        0 if protocol == 17 => 0xffff,
        checksum => checksum,
    };
    packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// RFC 1071 section 4.1.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from));
    let mut sum: u32 = words.sum();
    while sum >> 16 > 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// What has no meaning may differ: the identification of a packet that may not be fragmented (RFC
/// 6864 section 4.1), with the header's checksum over it; and zero as a sum has two forms.
fn normalise(found: &mut [u8], packet: &mut [u8]) {
    if found == packet || found.len() != packet.len() {
        return;
    }
    for bytes in [found, packet] {
        let start = match bytes[0] >> 4 {
            4 if bytes[6] & 0x40 != 0 => {
                bytes[4..6].fill(0);
                bytes[10..12].fill(0);
                20
            }
            4 => 20,
            _ => 40,
        };
        let at = start + 16;
        let is_tcp = bytes[if start == 20 { 9 } else { 6 }] == 6;
        if is_tcp && bytes[at..at + 2] == [0xff, 0xff] {
            bytes[at..at + 2].fill(0);
        }
        if bytes[0] >> 4 == 4 && bytes[10..12] == [0xff, 0xff] {
            bytes[10..12].fill(0);
        }
    }
}
