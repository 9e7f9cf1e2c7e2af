//! Inner IP packets as a target sees them: read apart from the device's own parser.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The parts of a packet whose lengths do not contradict each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InnerPacket<'a> {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Without what lies behind its end.
    pub(crate) bytes: &'a [u8],
}

impl<'a> InnerPacket<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::ipv4(bytes),
            6 => Self::ipv6(bytes),
            _ => None,
        }
    }

    fn ipv4(bytes: &'a [u8]) -> Option<Self> {
        let header: &[u8; 20] = bytes.first_chunk()?;
        let (options, length) = (usize::from(header[0] & 15) * 4, word(header, 2));
        let octets =
            |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
        Some(Self {
            source: octets(12).into(),
            destination: octets(16).into(),
            bytes: bytes
                .get(..length)
                .filter(|_| options >= 20 && options <= length)?,
        })
    }

    fn ipv6(bytes: &'a [u8]) -> Option<Self> {
        let header: &[u8; 40] = bytes.first_chunk()?;
        let octets = |at: usize| -> Option<IpAddr> {
            let octets: [u8; 16] = header[at..at + 16].try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        };
        Some(Self {
            source: octets(8)?,
            destination: octets(24)?,
            bytes: bytes.get(..40 + word(header, 4))?,
        })
    }
}

impl InnerPacket<'_> {
    /// Whether it names further addresses that it is yet to go to.
    pub(crate) fn is_source_routed(&self) -> bool {
        match self.destination {
            IpAddr::V4(_) => self.has_source_route(),
            IpAddr::V6(_) => self.has_segments_left().unwrap_or(false),
        }
    }

    /// RFC 791 §3.1: an option is its kind alone, or its kind, its length with these two, and more.
    fn has_source_route(&self) -> bool {
        let end = usize::from(self.bytes[0] & 15) * 4;
        let mut at = 20;
        while at < end {
            match self.bytes[at] {
                0 => return false,
                1 => at += 1,
                131 | 137 => return true,
                _ if at + 1 == end => return false,
                _ => at += usize::from(self.bytes[at + 1]).max(2),
            }
        }
        false
    }

    /// RFC 8200 §4: headers of units of eight bytes, of which a routing header other than
    /// mobility's says how many segments are left. One of a fragment (§4.5) has eight bytes, and
    /// none follows it unless it is the first, at offset 0; that of authentication (RFC 4302 §2.2)
    /// counts in units of four bytes, less two.
    fn has_segments_left(&self) -> Option<bool> {
        let (mut kind, mut at) = (*self.bytes.get(6)?, 40);
        // The device looks no further.
        for _ in 0..8 {
            let left = *self.bytes.get(at + 3)?;
            let units = usize::from(self.bytes[at + 1]);
            let size = match kind {
                43 if self.bytes[at + 2] != 2 && left > 0 => return Some(true),
                0 | 43 | 60 => 8 + 8 * units,
                44 if self.bytes[at + 2] == 0 && left < 8 => 8,
                51 => 8 + 4 * units,
                _ => return Some(false),
            };
            kind = self.bytes[at];
            at += size;
        }
        Some(false)
    }
}

fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}
