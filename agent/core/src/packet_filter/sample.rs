//! A packet to send through rules.

use std::net::IpAddr;

use super::Hook;

/// A packet that begins a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The hooks that it passes, in order.
    pub hooks: Vec<Hook>,
    /// Name of the link that it comes in by; none for what this node sends itself.
    pub incoming: Option<String>,
    /// Name of the link that it leaves by, once it is routed.
    pub outgoing: Option<String>,
    /// Where it is from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// What is in it.
    pub protocol: Protocol,
    /// From which port.
    pub source_port: u16,
    /// To which port.
    pub destination_port: u16,
}

/// What has ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// As in an IP header.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl Sample {
    /// Enough of it for rules on addresses, protocol and the like.
    pub(super) fn network_header(&self) -> Vec<u8> {
        const HOPS: u8 = 64;
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, HOPS];
                header.extend([self.protocol.number(), 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut header = vec![0x60, 0, 0, 0, 0, 20, self.protocol.number(), HOPS];
                header.extend(source.octets());
                header.extend(destination.octets());
                header
            }
            _ => Vec::new(),
        }
    }

    /// The ports.
    pub(super) fn transport_header(&self) -> Vec<u8> {
        let ports = [self.source_port, self.destination_port];
        ports.into_iter().flat_map(u16::to_be_bytes).collect()
    }
}
