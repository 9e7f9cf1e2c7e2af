//! Packets of pods that are answered with an ICMP error: too big, or unreachable.
//!
//! Two bytes for the path's MTU, one that says what of the packet is put right, two for its length,
//! then the packet. The answers are checked with another parser than the device's.

use std::net::IpAddr;

use etherparse::{LaxSlicedPacket, NetSlice, SlicedPacket, TransportSlice};

use crate::inner_packet::InnerPacket;
use crate::input::Input;
use crate::world::{self, FIXED, ROAMING, Setup, World};

/// The longest ICMP error for IPv4 (RFC 1812 §4.3.2.3).
const IPV4_ERROR_MAX: usize = 576;
/// The longest ICMPv6 error (RFC 4443 §2.4 c).
const IPV6_ERROR_MAX: usize = 1280;

/// What of an input's packet is put right, so that more of them get far.
mod fix {
    pub(super) const DESTINATION: u8 = 3;
    pub(super) const LENGTH: u8 = 4;
    pub(super) const SOURCE: u8 = 8;
    pub(super) const SIZE: u8 = 16;
}

/// One input.
pub fn one(data: &[u8]) {
    let mut input = Input::new(data);
    let (path_mtu, fixes, size) = (input.word(), input.byte(), input.word());
    let mut packet = input.rest().to_vec();
    put_right(&mut packet, fixes, usize::from(size));
    let mut world = World::new(Setup::Idle);
    let endpoint = world.peers[FIXED].address;
    world.path_mtu(endpoint, u32::from(path_mtu));
    let effects = world.send(0, &[&packet]);
    assert!(effects.drops() <= 1, "{effects:?}");
    check_answers(&[&packet], &effects.delivered, effects.drops() > 0);
}

fn put_right(packet: &mut Vec<u8>, fixes: u8, size: usize) {
    if fixes & fix::SIZE != 0 {
        packet.resize(size, 0);
    }
    let is_ipv4 = match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 20 => true,
        Some(6) if packet.len() >= 40 => false,
        Some(_) | None => return,
    };
    if fixes & fix::LENGTH != 0 {
        let (at, length) = if is_ipv4 {
            (2, packet.len())
        } else {
            (4, packet.len() - 40)
        };
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        packet[at..at + 2].copy_from_slice(&length.to_be_bytes());
    }
    let mut put = |ipv4_at: usize, ipv6_at: usize, pod: u8| {
        if is_ipv4 {
            packet[ipv4_at..ipv4_at + 4].copy_from_slice(&world::pod_ipv4(pod).octets());
        } else {
            packet[ipv6_at..ipv6_at + 16].copy_from_slice(&world::pod_ipv6(pod).octets());
        }
    };
    if fixes & fix::SOURCE != 0 {
        put(12, 8, 8);
    }
    match usize::from(fixes & fix::DESTINATION) {
        0 => {}
        1 => put(16, 24, u8::try_from(FIXED).unwrap_or_default()),
        2 => put(16, 24, u8::try_from(ROAMING).unwrap_or_default()),
        _ => put(16, 24, 99),
    }
}

/// Checks that `answers` are ICMP errors about some of `packets`, in order, and about each of them
/// that calls for one. `is_refused`: the device has said that it sends none of them.
pub(crate) fn check_answers(packets: &[&[u8]], answers: &[Vec<u8>], is_refused: bool) {
    let mut answers = answers.iter().peekable();
    for packet in packets {
        let inner = InnerPacket::new(packet);
        let is_answer = |answer: &&Vec<u8>| {
            let quote = quote(answer);
            inner.is_some_and(|inner| inner.bytes.starts_with(quote))
        };
        match (answers.next_if(is_answer), inner) {
            (Some(answer), Some(inner)) => check_answer(&inner, answer),
            (None, Some(inner)) => assert!(
                !is_refused || !calls_for_an_answer(&inner),
                "a black hole for {inner:?}"
            ),
            (_, None) => {}
        }
    }
    assert_eq!(answers.next(), None, "an answer to nothing in {packets:?}");
}

fn quote(answer: &[u8]) -> &[u8] {
    let headers = if answer.first() == Some(&0x45) {
        28
    } else {
        48
    };
    answer.get(headers..).unwrap_or_default()
}

fn check_answer(packet: &InnerPacket<'_>, answer: &[u8]) {
    assert!(!forbids_an_answer(packet), "an answer to {packet:?}");
    let sliced = SlicedPacket::from_ip(answer).expect("an answer is an IP packet");
    let parsed = InnerPacket::new(answer).expect("an answer is an IP packet");
    assert_eq!(parsed.bytes.len(), answer.len(), "it has no padding");
    assert_eq!(parsed.source, packet.destination);
    assert_eq!(parsed.destination, packet.source);
    match (&sliced.net, &sliced.transport) {
        (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Icmpv4(icmp))) => {
            let header = ip.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum);
            let checksum = icmp.icmp_type().calc_checksum(icmp.payload());
            assert_eq!(checksum, icmp.checksum());
            assert!(matches!((icmp.type_u8(), icmp.code_u8()), (3, 1 | 4)));
            assert!(answer.len() <= IPV4_ERROR_MAX);
        }
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(icmp))) => {
            let header = ip.header();
            assert!(icmp.is_checksum_valid(header.source(), header.destination()));
            assert!(matches!((icmp.type_u8(), icmp.code_u8()), (1, 3) | (2, 0)));
            assert!(answer.len() <= IPV6_ERROR_MAX);
        }
        other => panic!("no ICMP error: {other:?}"),
    }
    // Enough for the sender to tell whose it is: the header and eight bytes (RFC 792).
    let quoted = quote(answer).len();
    assert!(
        quoted >= packet.bytes.len().min(68),
        "{quoted} bytes quoted"
    );
}

/// What no ICMP error may be about (RFC 1122 §3.2.2, RFC 4443 §2.4).
fn forbids_an_answer(packet: &InnerPacket<'_>) -> bool {
    let is_single = |address: IpAddr| !address.is_multicast() && !address.is_unspecified();
    if !is_single(packet.source) || !is_single(packet.destination) {
        return true;
    }
    // Extension headers that are cut off or out of order end what can be said about a packet.
    let Ok(sliced) = LaxSlicedPacket::from_ip(packet.bytes) else {
        return false;
    };
    let Some(payload) = sliced.ip_payload() else {
        return false;
    };
    let is_later_fragment = match &sliced.net {
        Some(etherparse::LaxNetSlice::Ipv4(ip)) => ip.header().fragments_offset().value() != 0,
        Some(etherparse::LaxNetSlice::Ipv6(_)) => payload.fragmented && is_later_ipv6(packet.bytes),
        Some(_) | None => false,
    };
    let is_error = match (packet.source, payload.ip_number.0, payload.payload.first()) {
        (IpAddr::V4(_), 1, Some(kind)) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        (IpAddr::V6(_), 58, Some(kind)) => *kind < 128,
        _ => false,
    };
    is_later_fragment || is_error
}

/// Whether the fragment header behind the fixed one, if it is there, is not the first one's.
fn is_later_ipv6(bytes: &[u8]) -> bool {
    bytes[6] == 44
        && bytes
            .get(42..44)
            .is_some_and(|offset| u16::from_be_bytes([offset[0], offset[1]]) >> 3 != 0)
}

/// A plain TCP or UDP packet between two hosts that may not be fragmented: its sender must be told.
fn calls_for_an_answer(packet: &InnerPacket<'_>) -> bool {
    let is_host = |address: IpAddr| {
        !address.is_multicast() && !address.is_unspecified() && !address.is_loopback()
    };
    let is_plain = match packet.source {
        IpAddr::V4(_) => {
            packet.bytes[0] == 0x45
                && packet.bytes[6..8] == [0x40, 0]
                && packet.destination != IpAddr::V4(std::net::Ipv4Addr::BROADCAST)
                && matches!(packet.bytes[9], 6 | 17)
        }
        IpAddr::V6(_) => matches!(packet.bytes[6], 6 | 17),
    };
    is_plain && is_host(packet.source) && is_host(packet.destination)
}
