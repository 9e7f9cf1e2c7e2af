//! Inner IP packets, as far as cryptokey routing and ICMP need to understand them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podwire_core::mtu::Family;

/// Bytes of an IPv4 header without options (RFC 791 §3.1).
pub(crate) const IPV4_HEADER: usize = 20;
/// Bytes of an IPv6 header (RFC 8200 §3).
pub(crate) const IPV6_HEADER: usize = 40;

/// Bytes of an IPv6 fragment header (RFC 8200 §4.5).
const FRAGMENT_HEADER: usize = 8;

/// Protocol numbers (IANA).
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// IPv4 options (IANA). Two of them end or fill the list; the others have a length.
const OPTIONS_END: u8 = 0;
const NO_OPERATION: u8 = 1;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;

/// IPv6 routing header of Mobile IPv6 (RFC 6275 §6.4): its one address is the receiver's own.
const ROUTING_TYPE_2: u8 = 2;

/// IPv6 extension headers that are followed at most; real packets have one or two.
const EXTENSION_HEADERS_MAX: usize = 8;

/// What the header of an inner packet says. Its lengths are consistent with each other and with the
/// bytes that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IpPacket {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Bytes by the header; what lies behind is padding.
    pub(crate) length: usize,
    /// Whether it names further addresses that it wants to go to.
    pub(crate) is_source_routed: bool,
}

impl IpPacket {
    /// Reads the header of an IP packet; none when it is not one.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::parse_ipv4(bytes),
            6 => Self::parse_ipv6(bytes),
            _ => None,
        }
    }

    fn parse_ipv4(bytes: &[u8]) -> Option<Self> {
        let header = bytes.first_chunk::<IPV4_HEADER>()?;
        let header_length = usize::from(header[0] & 0xf) * 4;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header_length < IPV4_HEADER || length < header_length || length > bytes.len() {
            return None;
        }
        let address = |at: usize| -> Option<IpAddr> {
            Some(Ipv4Addr::from(*header.get(at..)?.first_chunk::<4>()?).into())
        };
        Some(Self {
            source: address(12)?,
            destination: address(16)?,
            length,
            is_source_routed: header_length > IPV4_HEADER
                && has_source_route(&bytes[IPV4_HEADER..header_length]),
        })
    }

    fn parse_ipv6(bytes: &[u8]) -> Option<Self> {
        let header = bytes.first_chunk::<IPV6_HEADER>()?;
        let length = IPV6_HEADER + usize::from(u16::from_be_bytes([header[4], header[5]]));
        if length > bytes.len() {
            return None;
        }
        let address = |at: usize| -> Option<IpAddr> {
            Some(Ipv6Addr::from(*header.get(at..)?.first_chunk::<16>()?).into())
        };
        Some(Self {
            source: address(8)?,
            destination: address(24)?,
            length,
            is_source_routed: has_segments_left(header[6], &bytes[IPV6_HEADER..length]),
        })
    }

    pub(crate) fn family(&self) -> Family {
        self.source.into()
    }

    /// Whether an ICMP error may be sent about this packet, whose bytes are `bytes`.
    ///
    //= RFC 1122 §3.2.2
    //= RFC 4443 §2.4
    /// Not about ICMP errors, nor about what has no single sender or receiver, nor about fragments
    /// other than the first.
    pub(crate) fn may_be_answered(&self, bytes: &[u8]) -> bool {
        let is_single = |address: IpAddr| !address.is_multicast() && !address.is_unspecified();
        let is_broadcast = self.destination == IpAddr::V4(Ipv4Addr::BROADCAST);
        if !is_single(self.source)
            || !is_single(self.destination)
            || self.source.is_loopback()
            || is_broadcast
        {
            return false;
        }
        match self.family() {
            Family::Ipv4 => ipv4_may_be_answered(bytes),
            Family::Ipv6 => ipv6_may_be_answered(bytes),
        }
    }
}

//= RFC 7126 §4.3, §4.4
/// Whether IPv4 options hold a source route. What cannot be read is not one: no host reads it
/// either.
fn has_source_route(mut options: &[u8]) -> bool {
    loop {
        options = match options {
            [LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE, ..] => return true,
            [NO_OPERATION, rest @ ..] => rest,
            [OPTIONS_END, ..] | [] | [_] => return false,
            [_, length, ..] => match options.get(usize::from(*length).max(2)..) {
                Some(rest) => rest,
                None => return false,
            },
        };
    }
}

//= RFC 9288 §3.5.2
/// Whether an IPv6 packet, after its fixed header, holds a routing header that is not used up. In a
/// fragment other than the first there are no headers.
fn has_segments_left(mut next: u8, mut headers: &[u8]) -> bool {
    for _ in 0..EXTENSION_HEADERS_MAX {
        let Some(header) = headers.first_chunk::<4>() else {
            return false;
        };
        let length = match next {
            ROUTING if header[2] != ROUTING_TYPE_2 && header[3] > 0 => return true,
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => (usize::from(header[1]) + 1) * 8,
            FRAGMENT if is_first_fragment(header) => FRAGMENT_HEADER,
            AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
            _ => return false,
        };
        next = header[0];
        headers = headers.get(length..).unwrap_or_default();
    }
    false
}

/// Whether an IPv6 fragment header, of which this is the beginning, says that its is the first one.
fn is_first_fragment(header: &[u8; 4]) -> bool {
    u16::from_be_bytes([header[2], header[3]]) >> 3 == 0
}

/// Whether an IPv4 packet may not be fragmented on its way.
pub(crate) fn has_dont_fragment(packet: &[u8]) -> bool {
    packet.get(6).is_some_and(|flags| flags & 0x40 != 0)
}

fn ipv4_may_be_answered(bytes: &[u8]) -> bool {
    let Some(header) = bytes.first_chunk::<IPV4_HEADER>() else {
        return false;
    };
    let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    if offset != 0 {
        return false;
    }
    if header[9] != ICMP {
        return true;
    }
    // Destination unreachable, source quench, redirect, time exceeded, parameter problem.
    let kind = bytes.get(usize::from(header[0] & 0xf) * 4);
    kind.is_some_and(|kind| !matches!(kind, 3 | 4 | 5 | 11 | 12))
}

fn ipv6_may_be_answered(bytes: &[u8]) -> bool {
    /// Redirect (RFC 4861), the one error-like message above 127.
    const REDIRECT: u8 = 137;
    let Some(mut next) = bytes.get(6).copied() else {
        return false;
    };
    let mut at = IPV6_HEADER;
    for _ in 0..EXTENSION_HEADERS_MAX {
        let extension = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>());
        let length = match (next, extension) {
            (ICMPV6, Some(message)) => return message[0] >= 128 && message[0] != REDIRECT,
            (FRAGMENT, Some(header)) if is_first_fragment(header) => FRAGMENT_HEADER,
            (FRAGMENT, Some(_)) => return false,
            (HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS, Some(header)) => {
                (usize::from(header[1]) + 1) * 8
            }
            (AUTHENTICATION, Some(header)) => (usize::from(header[1]) + 2) * 4,
            (
                ICMPV6 | FRAGMENT | HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | AUTHENTICATION,
                None,
            ) => {
                return false;
            }
            _ => return true,
        };
        next = bytes[at];
        at += length;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::icmp::tests::{ipv4, ipv6};

    #[test]
    fn lengths_that_contradict_each_other_are_no_packet() {
        let good = ipv4(17, 100);
        assert_eq!(IpPacket::parse(&good).map(|p| p.length), Some(120));
        let cut = IpPacket::parse(&good[..119]);
        assert_eq!(cut, None);
        let mut short_header = good.clone();
        short_header[0] = 0x44;
        assert_eq!(IpPacket::parse(&short_header), None);
        let mut long_header = ipv4(17, 4);
        long_header[0] = 0x47;
        assert_eq!(
            IpPacket::parse(&long_header),
            None,
            "header beyond the packet"
        );
        let mut other_version = good;
        other_version[0] = 0x55;
        assert_eq!(IpPacket::parse(&other_version), None);
        assert_eq!(IpPacket::parse(&[]), None);
        assert_eq!(IpPacket::parse(&[0x45; 19]), None);
        assert_eq!(IpPacket::parse(&ipv6(17, 100)[..139]), None);
        assert_eq!(IpPacket::parse(&[0x60; 39]), None);
    }

    #[test]
    fn a_packet_with_a_route_of_its_own_is_known() {
        let is_routed = |bytes: &[u8]| IpPacket::parse(bytes).map(|p| p.is_source_routed);
        let with_options = |options: &[u8]| {
            let mut bytes = ipv4(17, 40);
            bytes[0] = 0x40 | u8::try_from(5 + options.len() / 4).expect("few options");
            bytes[20..20 + options.len()].copy_from_slice(options);
            is_routed(&bytes)
        };
        assert_eq!(is_routed(&ipv4(17, 20)), Some(false));
        assert_eq!(with_options(&[131, 7, 4, 10, 0, 0, 1, 0]), Some(true));
        assert_eq!(with_options(&[1, 137, 7, 4, 10, 0, 0, 1]), Some(true));
        assert_eq!(with_options(&[7, 4, 4, 0, 131, 3, 4, 0]), Some(true));
        assert_eq!(with_options(&[7, 7, 4, 0, 0, 0, 0, 0]), Some(false));
        assert_eq!(with_options(&[0, 131, 7, 4]), Some(false), "after the end");
        assert_eq!(with_options(&[7, 131, 7, 4]), Some(false), "cut short");
        assert_eq!(
            with_options(&[7, 0, 131, 3]),
            Some(true),
            "no length at all"
        );
        let mut routed = ipv6(43, 40);
        routed[40..48].copy_from_slice(&[17, 2, 0, 1, 0, 0, 0, 0]);
        assert_eq!(is_routed(&routed), Some(true));
        routed[42] = 4;
        assert_eq!(is_routed(&routed), Some(true), "segment routing");
        routed[42] = 2;
        assert_eq!(is_routed(&routed), Some(false), "Mobile IPv6");
        routed[42..44].copy_from_slice(&[0, 0]);
        assert_eq!(is_routed(&routed), Some(false), "used up");
        let mut behind = ipv6(0, 40);
        behind[40..48].copy_from_slice(&[43, 0, 1, 4, 0, 0, 0, 0]);
        behind[48..52].copy_from_slice(&[17, 2, 0, 1]);
        assert_eq!(is_routed(&behind), Some(true));
        assert_eq!(is_routed(&ipv6(43, 0)), Some(false), "cut short");
        let mut fragment = ipv6(44, 40);
        fragment[40..48].copy_from_slice(&[43, 0, 0, 1, 0, 0, 0, 1]);
        fragment[48..52].copy_from_slice(&[17, 2, 4, 1]);
        assert_eq!(is_routed(&fragment), Some(true), "in the first fragment");
        fragment[43] = 8 | 1;
        assert_eq!(is_routed(&fragment), Some(false), "data of the second");
        let mut signed = ipv6(51, 40);
        signed[40..52].copy_from_slice(&[43, 1, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1]);
        signed[52..56].copy_from_slice(&[17, 2, 4, 1]);
        assert_eq!(is_routed(&signed), Some(true), "behind authentication");
    }

    #[test]
    fn padding_behind_the_packet_is_not_part_of_it() {
        let padded = [ipv6(17, 5), vec![0; 11]].concat();
        let packet = IpPacket::parse(&padded).expect("a packet");
        assert_eq!(packet.length, 45);
        assert_eq!(packet.destination.to_string(), "fd00:10:244:2::2");
    }

    #[test]
    fn errors_and_later_fragments_are_not_answered() {
        let answered = |bytes: &[u8]| {
            IpPacket::parse(bytes)
                .expect("a packet")
                .may_be_answered(bytes)
        };
        assert!(answered(&ipv4(17, 20)));
        assert!(answered(&ipv6(17, 20)));
        let mut echo = ipv4(1, 20);
        echo[20] = 8;
        assert!(answered(&echo));
        echo[20] = 3;
        assert!(!answered(&echo));
        let mut fragment = ipv4(17, 20);
        fragment[7] = 1;
        assert!(!answered(&fragment));
        fragment[6..8].copy_from_slice(&[0x20, 0]);
        assert!(answered(&fragment), "the first fragment");
        let mut echo = ipv6(58, 20);
        echo[40] = 128;
        assert!(answered(&echo));
        echo[40] = 2;
        assert!(!answered(&echo));
        let mut behind_options = ipv6(60, 20);
        behind_options[40..42].copy_from_slice(&[58, 0]);
        behind_options[48] = 1;
        assert!(!answered(&behind_options));
        let mut fragment = ipv6(44, 20);
        fragment[40..44].copy_from_slice(&[17, 0, 0, 8]);
        assert!(!answered(&fragment));
        let mut multicast = ipv4(17, 20);
        multicast[16] = 224;
        assert!(!answered(&multicast));
    }
}
