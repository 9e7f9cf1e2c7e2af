//! TCP and UDP headers, as far as cutting packets and joining them needs.

use crate::checksum::Sum;
use crate::ip_packet::{IPV4_HEADER, IPV6_HEADER};

/// Bytes of a UDP header (RFC 768).
pub(crate) const UDP_HEADER: usize = 8;
/// Bytes of a TCP header without options (RFC 9293 §3.1).
pub(crate) const TCP_HEADER: usize = 20;

/// Flags of a TCP header's byte 13 (RFC 9293 §3.1, RFC 3168 §6.1).
pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const PSH: u8 = 8;
pub(crate) const URG: u8 = 32;
pub(crate) const CWR: u8 = 128;

/// A transport protocol that is cut and joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// By IANA's number.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }

    fn number(self) -> u16 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// Where in the header its checksum is.
    pub(crate) fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }

    /// Bytes of the transport header at the front of `bytes`; none when it is not all there.
    pub(crate) fn header_length(self, bytes: &[u8]) -> Option<usize> {
        let length = match self {
            Self::Tcp => usize::from(bytes.get(12)? >> 4) * 4,
            Self::Udp => UDP_HEADER,
        };
        let least = match self {
            Self::Tcp => TCP_HEADER,
            Self::Udp => UDP_HEADER,
        };
        (length >= least && length <= bytes.len()).then_some(length)
    }

    /// The checksum of this sum, which stands for a header and its payload.
    pub(crate) fn checksum(self, sum: Sum) -> [u8; 2] {
        match self {
            Self::Tcp => sum.checksum(),
            Self::Udp => sum.nonzero_checksum(),
        }
    }

    /// The sum of the pseudo header of an IP packet whose transport header and payload have so many
    /// bytes.
    //= RFC 9293 §3.1
    //= RFC 8200 §8.1
    pub(crate) fn pseudo_header(self, packet: &[u8], length: usize) -> Sum {
        let addresses = match packet[0] >> 4 {
            4 => &packet[12..IPV4_HEADER],
            _ => &packet[8..IPV6_HEADER],
        };
        let length = u16::try_from(length).unwrap_or(u16::MAX);
        Sum::default()
            .add(addresses)
            .add_number(self.number())
            .add_number(length)
    }
}

/// Sets the length of an IP packet in its header, and for IPv4 its identification and checksum.
pub(crate) fn set_length(packet: &mut [u8], length: usize, identification: u16) {
    if packet[0] >> 4 == 4 {
        let header = usize::from(packet[0] & 0xf) * 4;
        put(packet, 2, length);
        packet[4..6].copy_from_slice(&identification.to_be_bytes());
        packet[10..12].fill(0);
        let checksum = Sum::default().add(&packet[..header]).checksum();
        packet[10..12].copy_from_slice(&checksum);
    } else {
        put(packet, 4, length - IPV6_HEADER);
    }
}

/// The identification of an IPv4 packet; 0 for IPv6.
pub(crate) fn identification(packet: &[u8]) -> u16 {
    match packet[0] >> 4 {
        4 => u16::from_be_bytes([packet[4], packet[5]]),
        _ => 0,
    }
}

/// Writes a number of two bytes.
pub(crate) fn put(bytes: &mut [u8], at: usize, number: usize) {
    let number = u16::try_from(number).unwrap_or(u16::MAX);
    bytes[at..at + 2].copy_from_slice(&number.to_be_bytes());
}
