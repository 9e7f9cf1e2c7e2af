//! The CNI configuration of a node: what a container runtime gives to each pod that it starts.
//!
//! The reference plugins do the work: `bridge` or `ptp` makes the link, `host-local` gives
//! addresses, `portmap` forwards host ports. Nothing here translates an address between pods.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::Serialize;

/// Name of the network, under which `host-local` keeps what it has given away.
pub const NETWORK: &str = "podwire";

/// Name of the bridge that the plugin `bridge` makes. Not the plugin's own `cni0`: that may be
/// another network's, with addresses of its own.
pub const BRIDGE: &str = "podwire-bridge";

/// Version of the format: the oldest that has what is used, and the newest that every runtime in
/// use reads (containerd from 1.6, CRI-O from 1.24).
const CNI_VERSION: &str = "1.0.0";

/// Addresses of a pod CIDR that no pod gets at its two ends: network or subnet-router anycast
/// address, gateway; last address. A CIDR of four addresses has room for one pod.
const HOST_BITS_MIN: u8 = 2;

/// The plugin that makes the links of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// All pods behind one bridge.
    Bridge,
    /// A link and a host route for each pod.
    Ptp,
}

impl Plugin {
    /// Its program's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Ptp => "ptp",
        }
    }

    /// All programs without which no pod starts: those that are named here, and the one that every
    /// runtime starts for a pod's loopback device.
    #[must_use]
    pub const fn programs(self) -> [&'static str; 4] {
        [self.as_str(), "host-local", "portmap", "loopback"]
    }
}

/// A pod CIDR in which no pod has room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the pod CIDR {cidr} has no room for a pod beside the network's address, the gateway and the \
     last address: give nodes pod CIDRs of at most {longest} bits"
)]
pub struct TooSmall {
    /// The pod CIDR.
    pub cidr: IpNet,
    /// The longest prefix that has room.
    pub longest: u8,
}

/// What a node's pods are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniConfiguration {
    plugin: Plugin,
    mtu: u32,
    ranges: Vec<Range>,
}

/// The addresses of one pod CIDR that pods are given. Those of the device
/// ([`crate::desired_kernel::device_address`]) are none of them: the network's address is below,
/// the highest is above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The pod CIDR.
    pub subnet: IpNet,
    /// First address of a pod.
    pub first: IpAddr,
    /// Last address of a pod.
    pub last: IpAddr,
    /// The node's own address towards its pods.
    pub gateway: IpAddr,
}

impl Range {
    /// The addresses of pods in a pod CIDR.
    ///
    /// # Errors
    /// [`TooSmall`].
    pub fn of(cidr: &IpNet) -> Result<Self, TooSmall> {
        let longest = cidr.max_prefix_len() - HOST_BITS_MIN;
        if cidr.prefix_len() > longest {
            let cidr = *cidr;
            return Err(TooSmall { cidr, longest });
        }
        let (network, end) = (cidr.network(), cidr.broadcast());
        Ok(Self {
            subnet: cidr.trunc(),
            first: moved(network, 2),
            last: moved(end, -1),
            gateway: moved(network, 1),
        })
    }
}

/// The address so many further; the caller stays within a prefix.
pub(crate) fn moved(address: IpAddr, by: i8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4).wrapping_add_signed(by.into())).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6).wrapping_add_signed(by.into())).into(),
    }
}

impl CniConfiguration {
    /// The configuration for the pods of these CIDRs, whose links have an MTU of so many bytes.
    ///
    /// # Errors
    /// [`TooSmall`] for the first CIDR in which no pod has room.
    pub fn new(plugin: Plugin, mtu: u32, own_cidrs: &[IpNet]) -> Result<Self, TooSmall> {
        let ranges = own_cidrs.iter().map(Range::of).collect::<Result<_, _>>()?;
        Ok(Self {
            plugin,
            mtu,
            ranges,
        })
    }

    /// The text of a `.conflist` file; the same for the same configuration, byte for byte.
    #[must_use]
    pub fn to_json(&self) -> String {
        let list = List {
            cni_version: CNI_VERSION,
            name: NETWORK,
            plugins: [
                self.interface(),
                Entry::Portmap {
                    capabilities: Capabilities {
                        port_mappings: true,
                    },
                    // What comes to a host port from this node or from the pod itself finds its
                    // way back.
                    snat: true,
                },
            ],
        };
        let text = serde_json::to_string_pretty(&list);
        text.expect("texts, numbers and flags can be written") + "\n"
    }

    fn interface(&self) -> Entry {
        let ranges = self.ranges.iter().map(|range| {
            [RangeEntry {
                subnet: range.subnet.to_string(),
                range_start: range.first,
                range_end: range.last,
                gateway: range.gateway,
            }]
        });
        let ipam = |routes| Ipam {
            kind: "host-local",
            ranges: ranges.collect(),
            routes,
        };
        match self.plugin {
            Plugin::Bridge => Entry::Bridge {
                bridge: BRIDGE,
                mtu: self.mtu,
                is_default_gateway: true,
                // A Node that was made anew may have other pod CIDRs than its bridge.
                force_address: true,
                ip_masq: false,
                // A pod reaches itself by its Service and by its host port.
                hairpin_mode: true,
                promisc_mode: false,
                ipam: ipam(Vec::new()),
            },
            // Unlike `bridge` it adds no default routes of its own.
            Plugin::Ptp => Entry::Ptp {
                mtu: self.mtu,
                ip_masq: false,
                ipam: ipam(self.default_routes()),
            },
        }
    }

    fn default_routes(&self) -> Vec<RouteEntry> {
        let has = |is_ipv6| {
            let mut ranges = self.ranges.iter();
            ranges.any(|range| range.gateway.is_ipv6() == is_ipv6)
        };
        [(false, "0.0.0.0/0"), (true, "::/0")]
            .into_iter()
            .filter(|(is_ipv6, _)| has(*is_ipv6))
            .map(|(_, dst)| RouteEntry { dst })
            .collect()
    }
}

/// The file's shape (CNI specification 1.0.0, section 1).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List {
    cni_version: &'static str,
    name: &'static str,
    plugins: [Entry; 2],
}

#[derive(Serialize)]
#[serde(
    tag = "type",
    rename_all = "lowercase",
    rename_all_fields = "camelCase"
)]
enum Entry {
    Bridge {
        bridge: &'static str,
        mtu: u32,
        is_default_gateway: bool,
        force_address: bool,
        ip_masq: bool,
        hairpin_mode: bool,
        promisc_mode: bool,
        ipam: Ipam,
    },
    Ptp {
        mtu: u32,
        ip_masq: bool,
        ipam: Ipam,
    },
    Portmap {
        capabilities: Capabilities,
        snat: bool,
    },
}

#[derive(Serialize)]
struct Ipam {
    #[serde(rename = "type")]
    kind: &'static str,
    /// Each pod gets one address of each.
    ranges: Vec<[RangeEntry; 1]>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<RouteEntry>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RangeEntry {
    subnet: String,
    range_start: IpAddr,
    range_end: IpAddr,
    gateway: IpAddr,
}

#[derive(Serialize)]
struct RouteEntry {
    dst: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Capabilities {
    port_mappings: bool,
}

#[cfg(test)]
mod tests;
