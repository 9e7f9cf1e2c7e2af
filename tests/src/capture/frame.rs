//! Reading Ethernet frames as far as the plaintext check needs: addresses at every depth.
//!
//! Anything that is cut short or unknown ends the reading quietly: a frame that cannot be read
//! has no addresses, and still is searched for cookies as a whole.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPES_VLAN: [u16; 2] = [0x8100, 0x88a8];
/// Set aside by IEEE 802 for local experiments: the capture's own markers.
pub(crate) const ETHERTYPE_MARKER: u16 = 0x88b5;

pub(crate) const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_IPV4: u8 = 4;
pub(crate) const PROTOCOL_TCP: u8 = 6;
pub(crate) const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_IPV6: u8 = 41;
pub(crate) const PROTOCOL_ICMPV6: u8 = 58;

/// IP headers read in one frame: a tunnel in a tunnel, quoted by an ICMP error.
const DEPTH_MAX: usize = 4;

/// One IP header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// The protocol after all extension headers.
    pub(crate) protocol: u8,
    /// A fragment other than the first: no transport header follows.
    pub(crate) later_fragment: bool,
}

/// What a frame says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) ethertype: u16,
    /// Outermost first: tunnelled and quoted packets follow.
    pub(crate) layers: Vec<Layer>,
    /// Of the outermost packet.
    pub(crate) udp: Option<Datagram<'a>>,
    /// What follows the Ethernet header.
    pub(crate) body: &'a [u8],
}

/// A UDP datagram, or the part of it that its first fragment has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Datagram<'a> {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) payload: &'a [u8],
}

/// Reads one frame.
pub(crate) fn parse(frame: &[u8]) -> Frame<'_> {
    let mut parsed = Frame::default();
    let Some(mut ethertype) = read_u16(frame, 12) else {
        return parsed;
    };
    let mut rest = &frame[14..];
    while ETHERTYPES_VLAN.contains(&ethertype) {
        let Some(inner) = read_u16(rest, 2) else {
            return parsed;
        };
        ethertype = inner;
        rest = &rest[4..];
    }
    parsed.ethertype = ethertype;
    parsed.body = rest;
    if ethertype == ETHERTYPE_IPV4 || ethertype == ETHERTYPE_IPV6 {
        parse_packet(rest, &mut parsed);
    }
    parsed
}

fn parse_packet<'a>(packet: &'a [u8], parsed: &mut Frame<'a>) {
    if parsed.layers.len() == DEPTH_MAX {
        return;
    }
    let read = match packet.first().map(|byte| byte >> 4) {
        Some(4) => parse_ipv4(packet),
        Some(6) => parse_ipv6(packet),
        _ => None,
    };
    let Some((layer, payload)) = read else { return };
    let outermost = parsed.layers.is_empty();
    parsed.layers.push(layer);
    if layer.later_fragment {
        return;
    }
    match layer.protocol {
        PROTOCOL_UDP if outermost => parsed.udp = parse_udp(payload),
        PROTOCOL_IPV4 | PROTOCOL_IPV6 => parse_packet(payload, parsed),
        PROTOCOL_ICMP if is_icmp_error(payload) => {
            parse_packet(payload.get(8..).unwrap_or_default(), parsed);
        }
        PROTOCOL_ICMPV6 if payload.first().is_some_and(|kind| *kind < 128) => {
            parse_packet(payload.get(8..).unwrap_or_default(), parsed);
        }
        _ => {}
    }
}

/// Unreachable, source quench, redirect, time exceeded, parameter problem: they quote a packet.
fn is_icmp_error(message: &[u8]) -> bool {
    message
        .first()
        .is_some_and(|kind| matches!(kind, 3 | 4 | 5 | 11 | 12))
}

fn parse_ipv4(packet: &[u8]) -> Option<(Layer, &[u8])> {
    let header_bytes = usize::from(packet.first()? & 0x0f) * 4;
    if header_bytes < 20 {
        return None;
    }
    let layer = Layer {
        source: ipv4(packet, 12)?,
        destination: ipv4(packet, 16)?,
        protocol: *packet.get(9)?,
        later_fragment: read_u16(packet, 6)? & 0x1fff != 0,
    };
    Some((layer, packet.get(header_bytes..)?))
}

fn parse_ipv6(packet: &[u8]) -> Option<(Layer, &[u8])> {
    let mut layer = Layer {
        source: ipv6(packet, 8)?,
        destination: ipv6(packet, 24)?,
        protocol: *packet.get(6)?,
        later_fragment: false,
    };
    let mut rest = packet.get(40..)?;
    //= RFC 8200 §4.1: hop-by-hop, routing and destination options may come in any number.
    while let Some(length) = extension_bytes(layer.protocol, rest) {
        if layer.protocol == 44 {
            layer.later_fragment = read_u16(rest, 2)? & 0xfff8 != 0;
        }
        layer.protocol = *rest.first()?;
        rest = rest.get(length..)?;
        if layer.later_fragment {
            break;
        }
    }
    Some((layer, rest))
}

/// The length of an extension header; `None` when `protocol` is not one.
fn extension_bytes(protocol: u8, header: &[u8]) -> Option<usize> {
    let length = usize::from(*header.get(1)?);
    match protocol {
        0 | 43 | 60 | 135 => Some((length + 1) * 8),
        44 => Some(8),
        51 => Some((length + 2) * 4),
        _ => None,
    }
}

fn parse_udp(segment: &[u8]) -> Option<Datagram<'_>> {
    Some(Datagram {
        source_port: read_u16(segment, 0)?,
        destination_port: read_u16(segment, 2)?,
        payload: segment.get(8..)?,
    })
}

fn read_u16(bytes: &[u8], offset: usize) -> Option<u16> {
    let pair = bytes.get(offset..offset + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}

fn ipv4(bytes: &[u8], offset: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = bytes.get(offset..offset + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(octets).into())
}

fn ipv6(bytes: &[u8], offset: usize) -> Option<IpAddr> {
    let octets: [u8; 16] = bytes.get(offset..offset + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(octets).into())
}

#[cfg(test)]
mod tests;
