//! Packets of one flow that follow each other become one for the kernel: what its own receive
//! offload does, by the same rules.
//!
//! Only a packet that a router may merge is merged: the kernel makes the same packets of it again.
//! Only the last packet of a flow grows, so that the flow's order stays what it is.

use crate::checksum::Sum;
use crate::ip_packet::{IPV4_HEADER, IPV6_HEADER};
use crate::transport_header::{
    CWR, FIN, PSH, RST, SYN, Transport, URG, identification, put, set_length,
};
use crate::vnet_header::{PartialChecksum, Segmentation, Segments, VnetHeader};

/// The longest packet: IPv4's length field has 16 bits, and IPv6's payload, which is shorter by a
/// header, is bounded alike for simplicity.
const LENGTH_MAX: usize = 65_535;

/// Packets of one at most: datagrams as in the kernel (`UDP_GRO_CNT_MAX`). 65,535 bytes are 47 full
/// TCP segments.
pub const PIECES_MAX: usize = 64;

/// Which protocols are merged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coalescing {
    /// TCP segments.
    pub tcp: bool,
    /// UDP datagrams.
    pub udp: bool,
}

/// The two ends of a TCP or UDP packet without options or extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    transport: Transport,
    /// Source and destination, IPv4's in front.
    addresses: [u8; 32],
    ports: [u8; 4],
    is_ipv4: bool,
}

impl Flow {
    /// That of a packet; none when the packet does not show it.
    pub(crate) fn of(packet: &[u8]) -> Option<Self> {
        let (transport, start) = transport(packet)?;
        let own = addresses(packet)?;
        let mut addresses = [0; 32];
        addresses[..own.len()].copy_from_slice(own);
        Some(Self {
            transport,
            addresses,
            ports: *packet.get(start..)?.first_chunk()?,
            is_ipv4: packet[0] >> 4 == 4,
        })
    }

    /// Whether a packet that shows no flow may be of this one: fragments and packets with options
    /// have their addresses where others have them.
    pub(crate) fn may_have(&self, packet: &[u8]) -> bool {
        let is_ipv4 = packet.first().is_some_and(|first| first >> 4 == 4);
        is_ipv4 == self.is_ipv4
            && addresses(packet).is_none_or(|addresses| self.addresses.starts_with(addresses))
    }
}

/// The last packet of a flow, while it may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Growing {
    transport: Transport,
    /// Where the transport header begins.
    start: usize,
    /// Bytes of all headers.
    headers: usize,
    /// Bytes of payload of each segment but the last.
    size: usize,
    /// Bytes of payload of all segments.
    payload: usize,
    /// Segments.
    count: usize,
    /// A segment was shorter, or asked for delivery: nothing may follow it.
    is_complete: bool,
}

impl Growing {
    /// A packet that others may follow; none when nothing may.
    pub(crate) fn new(packet: &[u8], coalescing: Coalescing) -> Option<Self> {
        let (transport, start) = transport(packet)?;
        let is_wanted = match transport {
            Transport::Tcp => coalescing.tcp,
            Transport::Udp => coalescing.udp,
        };
        if !is_wanted {
            return None;
        }
        let header = packet.get(start..)?;
        let headers = start + transport.header_length(header)?;
        let payload = packet.len() - headers;
        let may_be_followed = match transport {
            Transport::Tcp => header[13] & (FIN | SYN | RST | PSH | URG) == 0,
            Transport::Udp => is_whole_datagram(header),
        };
        (payload > 0 && may_be_followed).then_some(Self {
            transport,
            start,
            headers,
            size: payload,
            payload,
            count: 1,
            is_complete: false,
        })
    }

    /// Whether `next`, a whole packet, follows `packet`, the first of what has grown so far, as a
    /// router would have it: then its payload is to be appended, which begins at the returned
    /// offset.
    pub(crate) fn take(&mut self, packet: &mut [u8], next: &[u8]) -> Option<usize> {
        let payload = next.len().checked_sub(self.headers)?;
        let fits = !self.is_complete
            && self.count < PIECES_MAX
            && payload > 0
            && payload <= self.size
            && self.headers + self.payload + payload <= LENGTH_MAX;
        if !fits || !self.is_same_path(packet, next) {
            return None;
        }
        let flags = match self.transport {
            Transport::Tcp => self.follows_tcp(packet, next)?,
            Transport::Udp => self.follows_udp(packet, next).then_some(0)?,
        };
        // A wrong checksum is the receiver's to see: the kernel would make a right one of it.
        if !self.is_valid(next) || (self.count == 1 && !self.is_valid(packet)) {
            return None;
        }
        if self.transport == Transport::Tcp {
            packet[self.start + 13] |= flags & (FIN | PSH);
        }
        self.is_complete = payload < self.size || flags & (FIN | PSH) != 0;
        self.payload += payload;
        self.count += 1;
        Some(self.headers)
    }

    /// Whether IP headers are equal in all that a router looks at.
    fn is_same_path(&self, packet: &[u8], next: &[u8]) -> bool {
        if transport(next) != Some((self.transport, self.start)) {
            return false;
        }
        if packet[0] >> 4 != 4 {
            // All but the payload's length.
            return packet[..4] == next[..4] && packet[6..IPV6_HEADER] == next[6..IPV6_HEADER];
        }
        //= RFC 6864 §4.1
        // Where fragmentation is ruled out the identification has no meaning.
        let is_next = packet[6] & DONT_FRAGMENT != 0 || {
            #[expect(clippy::cast_possible_truncation, reason = "fewer than 2^16 segments")]
            let expected = identification(packet).wrapping_add(self.count as u16);
            identification(next) == expected
        };
        packet[..2] == next[..2]
            && packet[6..10] == next[6..10]
            && packet[12..IPV4_HEADER] == next[12..IPV4_HEADER]
            && is_next
    }

    /// The flags of the next TCP segment, if it is the next.
    fn follows_tcp(&self, packet: &[u8], next: &[u8]) -> Option<u8> {
        let (tcp, next) = (&packet[self.start..self.headers], &next[self.start..]);
        let sequence = |tcp: &[u8]| u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let expected = sequence(tcp).wrapping_add(u32::try_from(self.payload).ok()?);
        let flags = next[13];
        // FIN and PSH end a run; CWR may begin one; nothing else differs.
        let differing = (tcp[13] ^ flags) & !(FIN | PSH | CWR);
        let follows = self.transport.header_length(next)? == tcp.len()
            && sequence(next) == expected
            && flags & (SYN | RST | URG | CWR) == 0
            && differing == 0
            // Ports; acknowledged; length of the header and reserved bits; window; urgent pointer
            // and options.
            && tcp[..4] == next[..4]
            && tcp[8..13] == next[8..13]
            && tcp[14..16] == next[14..16]
            && tcp[18..] == next[18..tcp.len()];
        follows.then_some(flags)
    }

    fn follows_udp(&self, packet: &[u8], next: &[u8]) -> bool {
        let (udp, next) = (&packet[self.start..], &next[self.start..]);
        udp[..4] == next[..4] && is_whole_datagram(next)
    }

    fn is_valid(&self, packet: &[u8]) -> bool {
        let (header, transport) = packet.split_at(self.start);
        let has_valid_header = packet[0] >> 4 != 4 || Sum::default().add(header).is_valid();
        let sum = self.transport.pseudo_header(packet, transport.len());
        has_valid_header && sum.add(transport).is_valid()
    }

    /// Ends the growth of `packet`, the first of what has grown, and says what the kernel is told.
    pub(crate) fn finish(&self, packet: &mut [u8]) -> VnetHeader {
        if self.count == 1 {
            return VnetHeader::default();
        }
        let length = self.headers + self.payload;
        let identification = identification(packet);
        set_length(packet, length, identification);
        let kind = match (self.transport, packet[0] >> 4) {
            (Transport::Tcp, 4) => Segmentation::TcpOverIpv4,
            (Transport::Tcp, _) => Segmentation::TcpOverIpv6,
            (Transport::Udp, _) => Segmentation::Udp,
        };
        if self.transport == Transport::Udp {
            put(packet, self.start + 4, length - self.start);
        }
        let offset = self.transport.checksum_offset();
        let field = self.start + offset;
        let sum = self.transport.pseudo_header(packet, length - self.start);
        packet[field..field + 2].copy_from_slice(&sum.folded());
        let word = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
        VnetHeader {
            checksum: Some(PartialChecksum {
                start: word(self.start),
                offset: word(offset),
            }),
            segments: Some(Segments {
                kind,
                size: word(self.size),
                header_length: word(self.headers),
                has_cwr: self.transport == Transport::Tcp && packet[self.start + 13] & CWR != 0,
            }),
        }
    }
}

/// IPv4's flag that rules out fragmentation, and the bits that make a packet a fragment or are
/// reserved.
const DONT_FRAGMENT: u8 = 0x40;
const FRAGMENT: u8 = 0xbf;

/// Source and destination.
fn addresses(packet: &[u8]) -> Option<&[u8]> {
    match packet.first()? >> 4 {
        4 => packet.get(12..IPV4_HEADER),
        _ => packet.get(8..IPV6_HEADER),
    }
}

/// Transport protocol of a packet and where its header begins; none behind options, extension
/// headers or in a fragment.
fn transport(packet: &[u8]) -> Option<(Transport, usize)> {
    match packet.first()? {
        0x45 => {
            let header = packet.first_chunk::<IPV4_HEADER>()?;
            let is_fragment = header[6] & FRAGMENT != 0 || header[7] != 0;
            let transport = Transport::from_number(header[9])?;
            (!is_fragment).then_some((transport, IPV4_HEADER))
        }
        first if first >> 4 == 6 => {
            let header = packet.first_chunk::<IPV6_HEADER>()?;
            Some((Transport::from_number(header[6])?, IPV6_HEADER))
        }
        _ => None,
    }
}

/// Whether a UDP header is that of all bytes that are there, and has a checksum.
fn is_whole_datagram(udp: &[u8]) -> bool {
    let word = |at: usize| usize::from(u16::from_be_bytes([udp[at], udp[at + 1]]));
    udp.len() >= 8 && word(4) == udp.len() && word(6) != 0
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::icmp::tests::{ipv4, ipv6};

    pub(crate) const ALL: Coalescing = Coalescing {
        tcp: true,
        udp: true,
    };

    /// A TCP segment of 100 bytes of payload, this one of its flow, after a change to it.
    pub(crate) fn segment(is_ipv4: bool, number: u8, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut packet = if is_ipv4 { ipv4(6, 120) } else { ipv6(6, 120) };
        let start = packet.len() - 120;
        let sequence = 1_000 + 100 * u32::from(number);
        packet[start + 4..start + 8].copy_from_slice(&sequence.to_be_bytes());
        packet[start + 12] = 0x50;
        packet[start + 13] = 0x10;
        change(&mut packet);
        packet[start + 16..start + 18].fill(0);
        let sum = Transport::Tcp.pseudo_header(&packet, 120);
        let checksum = sum.add(&packet[start..]).checksum();
        packet[start + 16..start + 18].copy_from_slice(&checksum);
        let identification = u16::from(number);
        let length = packet.len();
        set_length(&mut packet, length, identification);
        packet
    }

    fn is_joined(first: &mut [u8], next: &[u8]) -> bool {
        let mut growing = Growing::new(first, ALL).expect("others may follow");
        growing.take(first, next).is_some()
    }

    #[test]
    fn only_what_a_router_may_join_is_joined() {
        for is_ipv4 in [true, false] {
            let start = if is_ipv4 { 20 } else { 40 };
            let first = || segment(is_ipv4, 0, |_| ());
            assert!(is_joined(&mut first(), &segment(is_ipv4, 1, |_| ())));
            assert!(
                !is_joined(&mut first(), &segment(is_ipv4, 2, |_| ())),
                "gap"
            );
            // Place in the transport header and what is there instead.
            for (at, value, what) in [
                (1, 9, "another port"),
                (11, 9, "another acknowledgement"),
                (13, 0x14, "a reset"),
                (13, 0x90, "CWR"),
                (13, 0x50, "ECE"),
                (15, 9, "another window"),
            ] {
                let next = segment(is_ipv4, 1, |packet| packet[start + at] = value);
                assert!(!is_joined(&mut first(), &next), "{what}");
            }
            let other_class = segment(is_ipv4, 1, |packet| packet[1] |= 0x10);
            assert!(!is_joined(&mut first(), &other_class));
            let other_hops = if is_ipv4 { 8 } else { 7 };
            let other_hops = segment(is_ipv4, 1, |packet| packet[other_hops] = 9);
            assert!(!is_joined(&mut first(), &other_hops));
        }
        for (at, bits) in [(6, 0x20), (6, 0x80), (6, 1), (7, 1)] {
            let fragment = segment(true, 1, |packet| packet[at] = bits);
            assert_eq!(Growing::new(&fragment, ALL), None);
        }
    }

    #[test]
    fn nothing_is_joined_across_a_wrong_checksum() {
        for is_ipv4 in [true, false] {
            let good = |number| segment(is_ipv4, number, |_| ());
            let bad = |number| {
                let mut packet = good(number);
                *packet.last_mut().expect("payload") ^= 1;
                packet
            };
            assert!(!is_joined(&mut good(0), &bad(1)));
            assert!(!is_joined(&mut bad(0), &good(1)));
        }
        let mut bad_header = segment(true, 1, |_| ());
        bad_header[10] ^= 1;
        assert!(!is_joined(&mut segment(true, 0, |_| ()), &bad_header));
    }

    /// So many datagrams of so many bytes behind each other.
    fn join_datagrams(count: usize, bytes: usize, checksum: bool) -> (usize, usize) {
        let mut datagram = ipv6(17, 8 + bytes);
        put(&mut datagram, 44, 8 + bytes);
        let sum = Transport::Udp.pseudo_header(&datagram, 8 + bytes);
        if checksum {
            let checksum = sum.add(&datagram[40..]).nonzero_checksum();
            datagram[46..48].copy_from_slice(&checksum);
        }
        let mut first = datagram.clone();
        let Some(mut growing) = Growing::new(&first, ALL) else {
            return (0, 0);
        };
        for _ in 1..count {
            let Some(payload) = growing.take(&mut first, &datagram) else {
                break;
            };
            first.extend_from_slice(&datagram[payload..]);
        }
        (growing.count, first.len())
    }

    #[test]
    fn a_joined_packet_has_at_most_64_datagrams_and_65535_bytes() {
        assert_eq!(join_datagrams(100, 10, true), (64, 48 + 640));
        // 45 of them are 65,340 bytes.
        assert_eq!(join_datagrams(100, 1452, true).0, 45);
        let (_, length) = join_datagrams(100, 1100, true);
        assert!(
            length <= LENGTH_MAX && length + 1100 > LENGTH_MAX,
            "{length}"
        );
        assert_eq!(join_datagrams(3, 10, false), (0, 0), "no checksum");
        let mut short = ipv6(17, 20);
        put(&mut short, 44, 19);
        short[46] = 1;
        assert_eq!(Growing::new(&short, ALL), None, "its lengths differ");
    }

    #[test]
    fn a_push_ends_a_run_and_is_kept() {
        let (mut first, pushed) = (
            segment(true, 0, |_| ()),
            segment(true, 1, |packet| packet[33] |= PSH),
        );
        let mut growing = Growing::new(&first, ALL).expect("others may follow");
        let payload = growing.take(&mut first, &pushed).expect("it follows");
        first.extend_from_slice(&pushed[payload..]);
        let after = segment(true, 2, |_| ());
        assert_eq!(growing.take(&mut first, &after), None);
        assert!(growing.finish(&mut first).segments.is_some());
        assert_eq!(first[33] & PSH, PSH);
        assert_eq!(Growing::new(&pushed, ALL), None);
    }
}
