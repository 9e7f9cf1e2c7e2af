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

fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}
