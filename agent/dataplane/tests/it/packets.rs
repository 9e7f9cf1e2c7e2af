//! The inner packets of the tests: UDP between pods, with a number in the payload.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const MAGIC: [u8; 4] = *b"seq#";

pub(crate) fn pod_ipv4(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, u8::try_from(node).expect("few nodes"), 2)
}

pub(crate) fn pod_ipv6(node: usize) -> Ipv6Addr {
    let subnet = u16::try_from(node).expect("few nodes");
    Ipv6Addr::new(0xfd00, 0x10, 0x244, subnet, 0, 0, 0, 2)
}

/// A test packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    source: IpAddr,
    destination: IpAddr,
    sequence: u32,
    length: usize,
    dont_fragment: bool,
}

impl Packet {
    /// From the pod of one node to that of another, over IPv4, 100 bytes.
    pub(crate) fn new(from: usize, to: usize) -> Self {
        Self::between(pod_ipv4(from).into(), pod_ipv4(to).into())
    }

    /// The same over IPv6.
    pub(crate) fn new_ipv6(from: usize, to: usize) -> Self {
        Self::between(pod_ipv6(from).into(), pod_ipv6(to).into())
    }

    pub(crate) fn between(source: IpAddr, destination: IpAddr) -> Self {
        Self {
            source,
            destination,
            sequence: 0,
            length: 100,
            dont_fragment: true,
        }
    }

    pub(crate) fn sequence(self, sequence: u32) -> Self {
        Self { sequence, ..self }
    }

    /// Bytes of the whole packet.
    pub(crate) fn length(self, length: usize) -> Self {
        Self { length, ..self }
    }

    pub(crate) fn fragmentable(self) -> Self {
        Self {
            dont_fragment: false,
            ..self
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.length];
        let header = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                bytes[0] = 0x45;
                let length = u16::try_from(self.length).expect("fits");
                bytes[2..4].copy_from_slice(&length.to_be_bytes());
                bytes[6] = if self.dont_fragment { 0x40 } else { 0 };
                bytes[8] = 64;
                bytes[9] = 17;
                bytes[12..16].copy_from_slice(&source.octets());
                bytes[16..20].copy_from_slice(&destination.octets());
                20
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                bytes[0] = 0x60;
                let length = u16::try_from(self.length - 40).expect("fits");
                bytes[4..6].copy_from_slice(&length.to_be_bytes());
                bytes[6] = 17;
                bytes[7] = 64;
                bytes[8..24].copy_from_slice(&source.octets());
                bytes[24..40].copy_from_slice(&destination.octets());
                40
            }
            _ => unreachable!("one family"),
        };
        let payload = header + 8;
        if self.length >= payload + 8 {
            bytes[payload..payload + 4].copy_from_slice(&MAGIC);
            bytes[payload + 4..payload + 8].copy_from_slice(&self.sequence.to_be_bytes());
        }
        bytes
    }

    /// The number in a test packet.
    pub(crate) fn sequence_of(bytes: &[u8]) -> Option<u32> {
        let header = if bytes.first()? >> 4 == 4 { 20 } else { 40 };
        let payload = bytes.get(header + 8..header + 16)?;
        let (magic, number) = payload.split_at(4);
        (magic == MAGIC).then(|| u32::from_be_bytes(number.try_into().expect("four bytes")))
    }
}
