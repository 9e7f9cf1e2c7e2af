//! MTU arithmetic: what fits inside a WireGuard message on a given path.

use std::net::IpAddr;

/// Bytes that WireGuard adds to a packet: transport header (16) and authentication tag (16).
///
//= WireGuard §5.4.6
pub const TRANSPORT_OVERHEAD: u32 = 32;

/// Bytes of a UDP header (RFC 768).
const UDP_HEADER: u32 = 8;

/// Bytes of an IPv4 header without options (RFC 791 §3.1).
const IPV4_HEADER: u32 = 20;

/// Bytes of an IPv6 header without extensions (RFC 8200 §3).
const IPV6_HEADER: u32 = 40;

/// Bytes around an inner packet when the underlay is IPv4.
pub const OVERHEAD_IPV4: u32 = IPV4_HEADER + UDP_HEADER + TRANSPORT_OVERHEAD;

/// Bytes around an inner packet when the underlay is IPv6.
pub const OVERHEAD_IPV6: u32 = IPV6_HEADER + UDP_HEADER + TRANSPORT_OVERHEAD;

/// The smallest MTU of a link that carries IPv6 (RFC 8200 §5). Linux turns IPv6 off on a device
/// with less, and refuses such a route MTU. On a path that leaves less than this, inner packets up
/// to 1280 bytes are still sent, and their WireGuard messages are fragmented by the underlay.
pub const IPV6_MTU_MIN: u32 = 1280;

/// The smallest inner MTU for IPv4: the datagram that every host must take (RFC 791 §3.1). A path
/// that leaves less is fragmented, as above.
pub const IPV4_MTU_MIN: u32 = 576;

/// Largest value of the 16-bit length field of IPv4, UDP and IPv6.
const LENGTH_FIELD_MAX: u32 = 65_535;

/// The largest inner packet that fits into one UDP datagram over either family: IPv4's length field
/// counts its own header.
pub const INNER_MTU_MAX: u32 = LENGTH_FIELD_MAX - OVERHEAD_IPV4;

/// Path MTU of a peer to which the underlay knows no path yet, and nothing better is known:
/// Ethernet's.
pub const PATH_MTU_UNKNOWN: u32 = 1500;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl From<IpAddr> for Family {
    fn from(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::Ipv4
        } else {
            Self::Ipv6
        }
    }
}

/// Bytes that are around an inner packet when the endpoint has this family.
#[must_use]
pub const fn overhead(outer: Family) -> u32 {
    match outer {
        Family::Ipv4 => OVERHEAD_IPV4,
        Family::Ipv6 => OVERHEAD_IPV6,
    }
}

/// The MTU in bytes for inner packets of family `inner`, on a path of `path_mtu` bytes to an
/// endpoint of family `outer`: never below the inner family's minimum, never more than one datagram
/// holds.
#[must_use]
pub fn inner_mtu(path_mtu: u32, outer: Family, inner: Family) -> u32 {
    let minimum = match inner {
        Family::Ipv4 => IPV4_MTU_MIN,
        Family::Ipv6 => IPV6_MTU_MIN,
    };
    path_mtu
        .saturating_sub(overhead(outer))
        .clamp(minimum, INNER_MTU_MAX)
}

/// The MTU in bytes of the device: the largest of its routes' MTUs, which hold each path to its
/// own, and never so small that the kernel would turn IPv6 off. Without a route it is that of
/// Ethernet under IPv6.
#[must_use]
pub fn device_mtu(route_mtus: impl IntoIterator<Item = u32>) -> u32 {
    let fallback = PATH_MTU_UNKNOWN - OVERHEAD_IPV6;
    route_mtus
        .into_iter()
        .max()
        .unwrap_or(fallback)
        .max(IPV6_MTU_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ethernet_leaves_1440_bytes_over_ipv4_and_1420_over_ipv6() {
        for inner in [Family::Ipv4, Family::Ipv6] {
            assert_eq!(inner_mtu(1500, Family::Ipv4, inner), 1440);
            assert_eq!(inner_mtu(1500, Family::Ipv6, inner), 1420);
            assert_eq!(inner_mtu(9000, Family::Ipv4, inner), 8940);
            assert_eq!(inner_mtu(1400, Family::Ipv6, inner), 1320);
        }
    }

    #[test]
    fn inner_ipv6_never_gets_less_than_1280_bytes() {
        assert_eq!(inner_mtu(1340, Family::Ipv4, Family::Ipv6), 1280);
        assert_eq!(inner_mtu(1300, Family::Ipv4, Family::Ipv6), 1280);
        assert_eq!(inner_mtu(1280, Family::Ipv6, Family::Ipv6), 1280);
        assert_eq!(inner_mtu(1300, Family::Ipv4, Family::Ipv4), 1240);
        assert_eq!(inner_mtu(0, Family::Ipv4, Family::Ipv4), 576);
    }

    #[test]
    fn a_loopback_path_is_held_to_one_datagram() {
        assert_eq!(inner_mtu(65_536, Family::Ipv4, Family::Ipv4), 65_475);
        assert_eq!(inner_mtu(u32::MAX, Family::Ipv6, Family::Ipv6), 65_475);
    }

    #[test]
    fn the_device_takes_the_largest_route_and_keeps_ipv6_on() {
        assert_eq!(device_mtu([1440, 8940, 1320]), 8940);
        assert_eq!(device_mtu([576]), 1280);
        assert_eq!(device_mtu([]), 1420);
    }
}
