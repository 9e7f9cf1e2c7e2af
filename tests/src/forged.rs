//! Packets as no honest host sends them: with any source, with options, with a route of their own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const IPV4_HEADER_BYTES: usize = 20;
const IPV6_HEADER_BYTES: usize = 40;
const UDP_HEADER_BYTES: usize = 8;
const UDP: u8 = 17;
/// What most systems start with.
const HOPS: u8 = 64;

/// What is between the IP header and the datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extra {
    /// Nothing.
    Nothing,
    /// IPv4: wants to know its way (RFC 791, option 7).
    RecordRoute,
    /// IPv4: goes on to this address, on any way (RFC 791, option 131).
    LooseSourceRoute(Ipv4Addr),
    /// IPv4: goes on to this address, and by nobody else (RFC 791, option 137).
    StrictSourceRoute(Ipv4Addr),
    /// IPv6: padding that every router reads (RFC 8200 section 4.3).
    HopByHop,
    /// IPv6: goes on to this address, by a routing header of this type (RFC 8200 section 4.4).
    RoutingHeader(u8, Ipv6Addr),
}

/// A UDP packet. Its addresses have one version, which is that of `extra` too.
///
/// # Panics
/// When they have not.
#[must_use]
pub fn udp(source: SocketAddr, destination: SocketAddr, extra: Extra, payload: &[u8]) -> Vec<u8> {
    let mut datagram = [source.port(), destination.port()]
        .map(u16::to_be_bytes)
        .concat();
    datagram.extend(length(UDP_HEADER_BYTES + payload.len()));
    datagram.extend([0, 0]);
    datagram.extend(payload);
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ipv4(source, destination, &options(extra), &datagram)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            // The last address is what the checksum is made for (RFC 8200 section 8.1).
            let last = if let Extra::RoutingHeader(_, last) = extra {
                last
            } else {
                destination
            };
            let sum = checksum(&[&pseudo_header(source, last, datagram.len()), &datagram]);
            // Zero would mean that there is none.
            let sum = if sum == 0 { u16::MAX } else { sum };
            datagram[6..8].copy_from_slice(&sum.to_be_bytes());
            ipv6(source, destination, extra, &datagram)
        }
        _ => panic!("{source} and {destination} are of two versions"),
    }
}

fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, options: &[u8], datagram: &[u8]) -> Vec<u8> {
    let header_bytes = IPV4_HEADER_BYTES + options.len();
    let words = u8::try_from(header_bytes / 4).expect("an option has room");
    let mut header = vec![0x40 | words, 0];
    header.extend(length(header_bytes + datagram.len()));
    // Identification, no fragments; no checksum yet, which is optional in UDP.
    header.extend([0x66, 0x66, 0, 0, HOPS, UDP, 0, 0]);
    header.extend(source.octets());
    header.extend(destination.octets());
    header.extend(options);
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [&header, datagram].concat()
}

/// Padded to whole words, with room for one address: a pointer of 4 says that none is used yet.
fn options(extra: Extra) -> Vec<u8> {
    let (kind, address) = match extra {
        Extra::Nothing => return Vec::new(),
        Extra::RecordRoute => (7, Ipv4Addr::UNSPECIFIED),
        Extra::LooseSourceRoute(next) => (131, next),
        Extra::StrictSourceRoute(next) => (137, next),
        Extra::HopByHop | Extra::RoutingHeader(..) => panic!("{extra:?} is IPv6's"),
    };
    let mut option = vec![kind, 7, 4];
    option.extend(address.octets());
    option.push(0);
    option
}

fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, extra: Extra, datagram: &[u8]) -> Vec<u8> {
    let (next, extension) = match extra {
        Extra::Nothing => (UDP, Vec::new()),
        // Six bytes of padding.
        Extra::HopByHop => (0, vec![UDP, 0, 1, 4, 0, 0, 0, 0]),
        // One segment left.
        Extra::RoutingHeader(kind, address) => {
            let head = [UDP, 2, kind, 1, 0, 0, 0, 0];
            (43, [&head[..], &address.octets()].concat())
        }
        Extra::RecordRoute | Extra::LooseSourceRoute(_) | Extra::StrictSourceRoute(_) => {
            panic!("{extra:?} is IPv4's")
        }
    };
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length(extension.len() + datagram.len()));
    packet.extend([next, HOPS]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    debug_assert_eq!(packet.len(), IPV6_HEADER_BYTES);
    packet.extend(extension);
    packet.extend(datagram);
    packet
}

fn pseudo_header(source: Ipv6Addr, destination: Ipv6Addr, bytes: usize) -> Vec<u8> {
    let mut header = [source.octets(), destination.octets()].concat();
    header.extend([0, 0]);
    header.extend(length(bytes));
    header.extend([0, 0, 0, UDP]);
    header
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes)
        .expect("a packet is short")
        .to_be_bytes()
}

/// The Internet checksum (RFC 1071) over parts of which only the last may be odd.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_its_checksum_sums_up_to_nothing() {
        let ends: [SocketAddr; 2] =
            ["192.0.2.1:1", "192.0.2.2:2"].map(|text| text.parse().expect("an address"));
        let next = Ipv4Addr::new(192, 0, 2, 3);
        for extra in [
            Extra::Nothing,
            Extra::RecordRoute,
            Extra::LooseSourceRoute(next),
        ] {
            let packet = udp(ends[0], ends[1], extra, b"odd");
            let header = usize::from(packet[0] & 0xf) * 4;
            assert_eq!(checksum(&[&packet[..header]]), 0, "{extra:?}");
            assert_eq!(&packet[header + 8..], b"odd");
        }
    }

    #[test]
    fn an_extension_header_is_before_the_datagram() {
        let ends: [SocketAddr; 2] =
            ["[2001:db8::1]:1", "[2001:db8::2]:2"].map(|text| text.parse().expect("an address"));
        let packet = udp(ends[0], ends[1], Extra::HopByHop, b"odd");
        assert_eq!((packet[6], packet[40]), (0, UDP));
        assert_eq!(&packet[56..], b"odd");
    }
}
