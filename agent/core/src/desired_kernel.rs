//! What the kernel should hold for a mesh: device, addresses, routes and guard.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::kernel::{
    Device, Guard, GuardTable, Kernel, Path, RouteAction, RouteKey, Rule, RuleAction, Table,
    Underlay,
};
use crate::mesh::{DesiredMesh, EncryptedPair, OwnNode, Pair, Peer};
use crate::mtu::{self, Family, PATH_MTU_UNKNOWN};
use crate::node::NodeName;
use crate::record::Mode;

/// What the agent decides about its TUN device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceOptions<'a> {
    /// Name of the device.
    pub name: &'a str,
    /// Packets that the device queues while its readers are busy.
    pub transmit_queue_length: u32,
    /// Whether a TUN device can be used here. An encrypted node without one is closed.
    pub usable: bool,
}

/// The desired state, and the peers for which there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredKernel {
    /// What the kernel should hold.
    pub kernel: Kernel,
    /// Peers of which at least one pod CIDR cannot be reached, with the first reason.
    pub unroutable: BTreeMap<NodeName, UnroutableReason>,
}

/// Why packets for a pod CIDR of a peer have no way to go. The guards refuse them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnroutableReason {
    /// Encrypted peer: this node has no pod CIDR, so no address, of that family.
    #[error("this node has no pod CIDR of the address family of {cidr}")]
    NoOwnAddress {
        /// The peer's pod CIDR.
        cidr: IpNet,
    },
    /// Host-network peer: no node address of the family of its pod CIDR.
    #[error("its Node has no address of the address family of its pod CIDR {cidr}")]
    NoNodeAddress {
        /// The peer's pod CIDR.
        cidr: IpNet,
    },
    /// Host-network peer behind a router, which knows no pod CIDR.
    #[error(
        "its address {address} is not on a link of this node: \
             host-network mode needs both nodes on one link"
    )]
    NotOnLink {
        /// The peer's pod CIDR.
        cidr: IpNet,
        /// The peer's preferred address of that family.
        address: IpAddr,
    },
}

/// The kernel state for this mesh on this underlay, by whose links no packet for an own pod may
/// leave. While the own pod CIDRs are unknown it is the guards alone: a caller that finds routes of
/// a predecessor waits for the registry before it plans.
#[must_use]
pub fn desired_kernel(
    mesh: &DesiredMesh,
    underlay: &Underlay,
    underlay_links: &BTreeSet<String>,
    device: DeviceOptions<'_>,
) -> DesiredKernel {
    let mut routes = unreachable_routes(mesh);
    let mut unroutable = BTreeMap::new();
    let mut host_network_cidrs = BTreeSet::new();
    let encrypted = mesh.own.mode == Mode::Encrypted && device.usable;
    let paths = PathMtus::new(mesh, underlay);
    for (name, peer) in &mesh.peers {
        for cidr in &peer.pod_cidrs {
            let action = match &peer.pair {
                _ if mesh.own.pod_cidrs.is_empty() => continue,
                Pair::Encrypted(pair) if encrypted => device_route(cidr, pair, &mesh.own, &paths),
                Pair::HostNetwork => via_route(cidr, peer, &mesh.own, underlay),
                Pair::Encrypted(_) | Pair::Closed(_) => continue,
            };
            match action {
                Ok(action) => {
                    if matches!(action, RouteAction::Via { .. }) {
                        host_network_cidrs.insert(*cidr);
                    }
                    let keys = Table::ALL.map(|table| RouteKey::peer(table, *cidr));
                    routes.extend(keys.map(|key| (key, action.clone())));
                }
                Err(reason) => drop(unroutable.entry(name.clone()).or_insert(reason)),
            }
        }
    }
    let with_device = encrypted && !mesh.own.pod_cidrs.is_empty();
    let kernel = Kernel {
        device: with_device.then(|| Device {
            mtu: mtu::device_mtu(routes.values().filter_map(|action| match action {
                RouteAction::Device { mtu, .. } => Some(*mtu),
                RouteAction::Via { .. } | RouteAction::Unreachable => None,
            })),
            up: true,
            transmit_queue_length: device.transmit_queue_length,
            fixed_settings: true,
        }),
        addresses: if with_device {
            own_addresses(&mesh.own)
        } else {
            BTreeSet::new()
        },
        guard: Guard::Installed(GuardTable {
            device: device.usable.then(|| device.name.to_owned()),
            cluster_cidrs: mesh.policy.cluster_cidrs.iter().map(IpNet::trunc).collect(),
            own_cidrs: mesh.own.pod_cidrs.iter().map(IpNet::trunc).collect(),
            host_network_cidrs,
            underlay_links: underlay_links.clone(),
        }),
        routes,
        rules: rules(mesh),
    };
    DesiredKernel { kernel, unroutable }
}

/// The address of the device for one own pod CIDR: the network address for IPv4, the highest for
/// IPv6 (the lowest is the subnet-router anycast address, RFC 4291 §2.6.1, which a bridge takes).
#[must_use]
pub fn device_address(own_cidr: &IpNet) -> IpAddr {
    match own_cidr {
        IpNet::V4(cidr) => IpAddr::V4(cidr.network()),
        IpNet::V6(cidr) => IpAddr::V6(cidr.broadcast()),
    }
}

/// The path MTU in bytes of each encrypted peer, for the data plane and the routes alike.
#[must_use]
pub fn path_mtus(mesh: &DesiredMesh, underlay: &Underlay) -> BTreeMap<NodeName, u32> {
    let paths = PathMtus::new(mesh, underlay);
    let encrypted = mesh
        .peers
        .iter()
        .filter_map(|(name, peer)| match &peer.pair {
            Pair::Encrypted(pair) => Some((name.clone(), paths.outer(pair).0)),
            Pair::HostNetwork | Pair::Closed(_) => None,
        });
    encrypted.collect()
}

fn own_addresses(own: &OwnNode) -> BTreeSet<IpNet> {
    own.pod_cidrs
        .iter()
        .map(|cidr| IpNet::from(device_address(cidr)))
        .collect()
}

/// The second line of the guards: what no better route carries is refused at once. A node that is
/// no peer is covered by the cluster's CIDRs.
fn unreachable_routes(mesh: &DesiredMesh) -> BTreeMap<RouteKey, RouteAction> {
    let peers = mesh.peers.values().flat_map(|peer| &peer.pod_cidrs);
    let cidrs = mesh
        .policy
        .cluster_cidrs
        .iter()
        .chain(&mesh.own.pod_cidrs)
        .chain(peers);
    cidrs
        .map(|cidr| RouteKey::cover(cidr.trunc()))
        .map(|key| (key, RouteAction::Unreachable))
        .collect()
}

/// The third line: what goes to the cluster's pods is looked up in a table of our own, and nowhere
/// else. Until the own pods are known there are none: they would be refused with the rest.
fn rules(mesh: &DesiredMesh) -> BTreeSet<Rule> {
    let own = &mesh.own.pod_cidrs;
    if own.is_empty() {
        return BTreeSet::new();
    }
    let cluster = &mesh.policy.cluster_cidrs;
    let of = |action, cidrs: &[IpNet]| -> Vec<Rule> {
        let rule = |cidr: &IpNet| Rule {
            action,
            destination: cidr.trunc(),
        };
        cidrs.iter().map(rule).collect()
    };
    [
        of(RuleAction::LookupMain, own),
        of(RuleAction::LookupPeers, cluster),
        of(RuleAction::Refuse, cluster),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn device_route(
    cidr: &IpNet,
    pair: &EncryptedPair,
    own: &OwnNode,
    paths: &PathMtus<'_>,
) -> Result<RouteAction, UnroutableReason> {
    let inner = Family::from(cidr.addr());
    let own_cidr = own
        .pod_cidrs
        .iter()
        .find(|own| Family::from(own.addr()) == inner);
    let source = own_cidr.map(device_address);
    let (path_mtu, outer) = paths.outer(pair);
    match source {
        Some(source) => Ok(RouteAction::Device {
            source,
            mtu: mtu::inner_mtu(path_mtu, outer, inner),
        }),
        None => Err(UnroutableReason::NoOwnAddress { cidr: *cidr }),
    }
}

fn via_route(
    cidr: &IpNet,
    peer: &Peer,
    own: &OwnNode,
    underlay: &Underlay,
) -> Result<RouteAction, UnroutableReason> {
    let family = Family::from(cidr.addr());
    let candidates = peer
        .addresses
        .iter()
        .filter(|address| Family::from(**address) == family && !own.addresses.contains(address));
    let Some(preferred) = candidates.clone().next() else {
        return Err(UnroutableReason::NoNodeAddress { cidr: *cidr });
    };
    let on_link = |address: &IpAddr| underlay.get(address).filter(|path| path.on_link);
    match candidates
        .clone()
        .find_map(|address| Some((address, on_link(address)?)))
    {
        Some((gateway, path)) => Ok(RouteAction::Via {
            gateway: *gateway,
            link_index: path.link_index,
        }),
        None => Err(UnroutableReason::NotOnLink {
            cidr: *cidr,
            address: *preferred,
        }),
    }
}

/// Path MTUs towards encrypted peers.
struct PathMtus<'a> {
    underlay: &'a Underlay,
    /// For a peer without a path: the smallest that is known, which is safe for any of them.
    fallback: u32,
}

impl<'a> PathMtus<'a> {
    fn new(mesh: &DesiredMesh, underlay: &'a Underlay) -> Self {
        let pairs = mesh.peers.values().filter_map(|peer| match &peer.pair {
            Pair::Encrypted(pair) => Some(pair),
            Pair::HostNetwork | Pair::Closed(_) => None,
        });
        let known = pairs
            .filter_map(|pair| path(pair, underlay))
            .map(|(_, path)| path.mtu)
            .min();
        Self {
            underlay,
            fallback: known.unwrap_or(PATH_MTU_UNKNOWN),
        }
    }

    /// Path MTU and family of the endpoint in use, or else of the first that has a path. A peer
    /// that names no endpoint may turn up on either family: the larger overhead is taken.
    fn outer(&self, pair: &EncryptedPair) -> (u32, Family) {
        let first = pair
            .endpoints
            .first()
            .map_or(Family::Ipv6, |e| Family::from(e.ip()));
        path(pair, self.underlay)
            .map_or((self.fallback, first), |(family, path)| (path.mtu, family))
    }
}

/// Where several are in use, each by other lanes, the one that leaves least room: what is too long
/// for a lane and may be fragmented would be lost there.
fn path<'a>(pair: &EncryptedPair, underlay: &'a Underlay) -> Option<(Family, &'a Path)> {
    let known = || {
        pair.endpoints.iter().filter_map(|endpoint| {
            let path = underlay.get(&endpoint.ip())?;
            Some((Family::from(endpoint.ip()), path))
        })
    };
    let in_use = known().filter(|(_, path)| path.in_use);
    in_use
        .min_by_key(|(family, path)| path.mtu.saturating_sub(mtu::overhead(*family)))
        .or_else(|| known().next())
}

#[cfg(test)]
mod tests;
