//! The addressing plan: every address follows from a node's and a pod's number.
//!
//! | what | IPv4 | IPv6 |
//! |---|---|---|
//! | LAN 0, its router, node n | 192.0.2.0/24, .1, .(10+n) | 2001:db8::/64, ::1, ::(10+n) |
//! | LAN 1, its router, node n | 198.51.100.0/24, .1, .(10+n) | 2001:db8:1::/64, ::1, ::(10+n) |
//! | outside, its router, its host | 203.0.113.0/24, .254, .1 | 2001:db8:ffff::/64, ::fe, ::1 |
//! | attacker k, behind the host outside | 198.18.(k/256).(k%256) | 2001:db8:a:k::1 |
//! | pods of node n | 10.244.n.0/24 | fd00:10:244:n::/64, n written in decimal |
//! | the bridge of node n, its pod p | .1, .(1+p) | ::1, ::(1+p) |
//! | Services, the API's, the DNS server's | 10.96.0.0/16, .1, .10 | fd00:10:96::/112, ::1, ::a |
//!
//! IPv6 host numbers above are values: node 1 is 2001:db8::b. The group of a pod CIDR is spelled
//! with the decimal digits of n, so that both families read alike.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Nodes end at x.x.x.250: the addresses above are left for tests that move a node.
pub const NODES_MAX: u8 = 240;

/// Pods of a node end at x.x.x.201.
pub const PODS_MAX: u8 = 200;

/// One version of the Internet Protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum IpVersion {
    /// IPv4.
    #[serde(rename = "4")]
    V4,
    /// IPv6.
    #[serde(rename = "6")]
    V6,
}

impl IpVersion {
    /// The version of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

impl fmt::Display for IpVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Which versions a network has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Family {
    /// IPv4 alone; IPv6 is switched off.
    #[serde(rename = "4")]
    V4,
    /// IPv6 alone; no IPv4 address but the loopback's.
    #[serde(rename = "6")]
    V6,
    /// Both.
    #[serde(rename = "dual")]
    Dual,
}

impl Family {
    /// The versions, IPv4 first.
    #[must_use]
    pub fn versions(self) -> &'static [IpVersion] {
        match self {
            Self::V4 => &[IpVersion::V4],
            Self::V6 => &[IpVersion::V6],
            Self::Dual => &[IpVersion::V4, IpVersion::V6],
        }
    }

    /// Whether `version` is one of them.
    #[must_use]
    pub fn has(self, version: IpVersion) -> bool {
        self.versions().contains(&version)
    }
}

/// The pod CIDRs of the whole cluster: 10.244.0.0/16 and fd00:10:244::/48.
#[must_use]
pub fn cluster_cidr(version: IpVersion) -> IpNet {
    match version {
        IpVersion::V4 => net4(Ipv4Addr::new(10, 244, 0, 0), 16),
        IpVersion::V6 => net6(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0), 48),
    }
}

/// The pod CIDR with a number: 10.244.n.0/24 or fd00:10:244:n::/64.
#[must_use]
pub fn pod_cidr(number: u8, version: IpVersion) -> IpNet {
    match version {
        IpVersion::V4 => net4(Ipv4Addr::new(10, 244, number, 0), 24),
        IpVersion::V6 => {
            let group = decimal_as_hex(number);
            net6(Ipv6Addr::new(0xfd00, 0x10, 0x244, group, 0, 0, 0, 0), 64)
        }
    }
}

/// A LAN of the underlay: 0 or 1.
#[must_use]
pub fn lan(number: u8, version: IpVersion) -> IpNet {
    debug_assert!(number < 2);
    match (number, version) {
        (0, IpVersion::V4) => net4(Ipv4Addr::new(192, 0, 2, 0), 24),
        (_, IpVersion::V4) => net4(Ipv4Addr::new(198, 51, 100, 0), 24),
        (_, IpVersion::V6) => net6(
            Ipv6Addr::new(0x2001, 0xdb8, u16::from(number), 0, 0, 0, 0, 0),
            64,
        ),
    }
}

/// The network behind the router where no node is.
#[must_use]
pub fn outside(version: IpVersion) -> IpNet {
    match version {
        IpVersion::V4 => net4(Ipv4Addr::new(203, 0, 113, 0), 24),
        IpVersion::V6 => net6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0), 64),
    }
}

/// The router's address in a LAN.
#[must_use]
pub fn router(lan: IpNet) -> IpAddr {
    host(lan, 1)
}

/// The router's address in the outside network.
#[must_use]
pub fn outside_router(version: IpVersion) -> IpAddr {
    host(outside(version), 254)
}

/// The address of the one host outside.
#[must_use]
pub fn outside_host(version: IpVersion) -> IpAddr {
    host(outside(version), 1)
}

/// The networks of attackers: 198.18.0.0/16 (for measurements, RFC 2544) and 2001:db8:a::/48.
pub(crate) fn attackers(version: IpVersion) -> IpNet {
    match version {
        IpVersion::V4 => net4(Ipv4Addr::new(198, 18, 0, 0), 16),
        IpVersion::V6 => net6(Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0), 48),
    }
}

/// An attacker's address, each in a /64 of its own.
pub(crate) fn attacker(version: IpVersion, number: u16) -> IpAddr {
    match version {
        IpVersion::V4 => host(attackers(version), number),
        IpVersion::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xa, number, 0, 0, 0, 1).into(),
    }
}

/// The network of Services.
#[must_use]
pub fn services(version: IpVersion) -> IpNet {
    match version {
        IpVersion::V4 => net4(Ipv4Addr::new(10, 96, 0, 0), 16),
        IpVersion::V6 => net6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0), 112),
    }
}

/// The address of the API's Service: the first, as the API server takes it.
pub(crate) fn api_service(version: IpVersion) -> IpAddr {
    host(services(version), 1)
}

/// The address of the Service that resolves names.
pub(crate) fn dns_service(version: IpVersion) -> IpAddr {
    host(services(version), 10)
}

/// The address that stands for any of a version.
pub(crate) fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// A node's own address in its LAN.
#[must_use]
pub fn node(lan: IpNet, number: u8) -> IpAddr {
    host(lan, 10 + u16::from(number))
}

/// The address of a node's bridge, which is its pods' gateway.
#[must_use]
pub fn bridge(pod_cidr: IpNet) -> IpAddr {
    host(pod_cidr, 1)
}

/// A pod's address; pods are numbered from 1.
#[must_use]
pub fn pod(pod_cidr: IpNet, number: u8) -> IpAddr {
    host(pod_cidr, 1 + u16::from(number))
}

/// An address with the prefix length of its network, as ip(8) takes it.
#[must_use]
pub fn with_prefix(address: IpAddr, network: IpNet) -> String {
    format!("{address}/{}", network.prefix_len())
}

fn host(network: IpNet, number: u16) -> IpAddr {
    match network.network() {
        IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from_bits(base.to_bits() + u32::from(number))),
        IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from_bits(base.to_bits() + u128::from(number))),
    }
}

fn net4(base: Ipv4Addr, prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new(base, prefix).expect("the prefix length is a constant of this file"))
}

fn net6(base: Ipv6Addr, prefix: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new(base, prefix).expect("the prefix length is a constant of this file"))
}

/// 12 becomes 0x12.
fn decimal_as_hex(number: u8) -> u16 {
    let number = u16::from(number);
    ((number / 100) << 8) | ((number / 10 % 10) << 4) | (number % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_read_alike() {
        assert_eq!(pod_cidr(201, IpVersion::V4).to_string(), "10.244.201.0/24");
        assert_eq!(
            pod_cidr(201, IpVersion::V6).to_string(),
            "fd00:10:244:201::/64"
        );
        assert!(cluster_cidr(IpVersion::V6).contains(&pod_cidr(NODES_MAX, IpVersion::V6)));
    }

    #[test]
    fn the_last_node_and_pod_are_inside_their_networks() {
        for version in [IpVersion::V4, IpVersion::V6] {
            let lan = lan(1, version);
            assert!(lan.contains(&node(lan, NODES_MAX)));
            let cidr = pod_cidr(1, version);
            assert!(cidr.contains(&pod(cidr, PODS_MAX)));
            assert_ne!(bridge(cidr), pod(cidr, 1));
        }
    }
}
