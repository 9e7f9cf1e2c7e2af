//! By which links no packet for an own pod may leave: those that lead to other machines.
//!
//! A link is of the underlay if peers are reached by it, if a default route leaves by it, or if
//! this node has an address there. It stays one as long as it exists: a route or an address that
//! is not there for a moment opens nothing. Links of pods are none, else local pods would be cut.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::kernel::Underlay;
use crate::mesh::DesiredMesh;
use crate::node::can_be_a_node;

/// A link of this node, as observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// What may be behind it.
    pub kind: LinkKind,
    /// MTU in bytes.
    pub mtu: u32,
    /// Name of the bridge or the like whose port it is.
    pub master: Option<String>,
    /// Whether a packet of IPv4 is dropped there to whose source another way leads.
    pub strict_reverse_path: bool,
    /// Addresses that this node has on it.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether a default route leaves by it.
    pub has_default_route: bool,
    /// Own pods, one or many, to which a route of somebody else leads by it and by no router.
    pub own_pods: BTreeSet<IpNet>,
}

/// What may be behind a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// Other machines only: a network card, or several as one, or a VLAN.
    Wire,
    /// Any number of pods, and other machines as well: a bridge, or what does a bridge's work.
    Switch,
    /// One pod, or other machines: the end of a pair, a tunnel.
    Virtual,
}

/// What this node knows of its links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnderlayLinks {
    /// Those by which peers or strangers are or were reached.
    pub uplinks: BTreeSet<String>,
    /// Those by which no packet for an own pod may leave.
    pub guarded: BTreeSet<String>,
    /// Those that lead to other machines for all that is known, and are not guarded, because own
    /// pods are behind them too.
    pub shared: BTreeSet<String>,
}

/// The links of the underlay among `links`, given the `paths` to peers and what was `known` before.
/// The `device` is none.
#[must_use]
pub fn underlay_links(
    links: &[Link],
    paths: &Underlay,
    mesh: &DesiredMesh,
    device: &str,
    known: &UnderlayLinks,
) -> UnderlayLinks {
    let mut uplinks: BTreeSet<String> = paths.values().map(|path| path.link.clone()).collect();
    let of_strangers = links
        .iter()
        .filter(|link| link.has_default_route || known.uplinks.contains(&link.name));
    uplinks.extend(of_strangers.map(|link| link.name.clone()));
    uplinks.remove(device);
    let mut found = UnderlayLinks {
        // Also one that came after the links were looked at.
        guarded: uplinks.clone(),
        shared: BTreeSet::new(),
        uplinks,
    };
    for link in links.iter().filter(|link| link.name != device) {
        let is_uplink = found.uplinks.contains(&link.name);
        let was_guarded = known.guarded.contains(&link.name);
        if !is_uplink && !was_guarded && !has_own_address(link, &mesh.policy.cluster_cidrs) {
            continue;
        }
        if !carries_own_pods(link, is_uplink, &mesh.own.pod_cidrs) {
            found.guarded.insert(link.name.clone());
            continue;
        }
        found.guarded.remove(&link.name);
        let node_addresses = &mesh.own.addresses;
        let is_nodes = is_uplink || node_addresses.iter().any(|a| link.addresses.contains(a));
        if link.kind == LinkKind::Switch && is_nodes {
            found.shared.insert(link.name.clone());
        }
    }
    found
}

/// Whether this node can be reached there by others.
fn has_own_address(link: &Link, cluster: &[IpNet]) -> bool {
    let is_pods = |address: &IpAddr| cluster.iter().any(|cidr| cidr.contains(address));
    let mut addresses = link.addresses.iter();
    addresses.any(|address| can_be_a_node(*address) && !is_pods(address))
}

/// A route alone makes no uplink a link of pods: anybody may add one. It takes an address among the
/// pods, or all of them as neighbours, on what can have pods behind it at all.
fn carries_own_pods(link: &Link, is_uplink: bool, own: &[IpNet]) -> bool {
    let is_gateway = link
        .addresses
        .iter()
        .any(|address| own.iter().any(|cidr| cidr.contains(address)));
    let mut routes = link.own_pods.iter();
    match link.kind {
        LinkKind::Wire => false,
        LinkKind::Switch if is_uplink => {
            is_gateway || routes.any(|pods| own.iter().any(|cidr| cidr.trunc() == *pods))
        }
        LinkKind::Switch => is_gateway || !link.own_pods.is_empty(),
        LinkKind::Virtual if is_uplink => false,
        LinkKind::Virtual => {
            is_gateway || routes.any(|pods| pods.prefix_len() == pods.max_prefix_len())
        }
    }
}

#[cfg(test)]
mod tests;
