//! Which node may claim what (DESIGN.md section 4).
//!
//! Each claim is first checked by itself. Those that pass are then decided in a fixed order, each
//! against what was accepted before it: this node, then the incumbents, then by age. So a refused
//! claim never displaces another, whatever else it conflicts with, and the result depends on no
//! input order. A Node without a record claims nothing: its `spec.podCIDRs` take nothing from
//! anybody. Node addresses take nothing either, as a node reports its own: one that lies where pods
//! are refuses the node that names it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::annotations::{self, RecordError};
use crate::key::PublicKey;
use crate::mesh::{Incumbent, Incumbents, OwnNode, Policy};
use crate::node::{Node, NodeName};
use crate::record::Record;

/// Why a node is no peer. It stays so until its Node, its record or the policy changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The node has no record yet: no agent has published one.
    #[error("no agent has published a record yet")]
    NoRecord,
    /// Its annotations are no record.
    #[error("its record cannot be read: {0}")]
    Unparsable(#[source] RecordError),
    /// The cluster has given the node no pod CIDR to check the claim against.
    #[error(
        "its Node has no spec.podCIDRs to check its claim against: is node CIDR allocation on?"
    )]
    NoPodCidrs,
    /// A default route would draw all traffic of every node.
    #[error("it claims {cidr}, a default route: a pod CIDR names the pods of one node")]
    DefaultRoute {
        /// The claimed CIDR.
        cidr: IpNet,
    },
    /// The claim is not what the cluster gave the node.
    #[error("it claims {} but its Node's spec.podCIDRs are {}: they must be the same",
            List(.claimed), List(.spec))]
    NotSpecPodCidrs {
        /// What the record claims.
        claimed: Vec<IpNet>,
        /// What the cluster gave.
        spec: Vec<IpNet>,
    },
    /// A route for the claim would draw traffic meant for its own node or for this one, WireGuard's
    /// included.
    #[error(
        "it claims {cidr}, which contains the address {address} of node {node}: \
             pods and nodes need different address ranges"
    )]
    ContainsNodeAddress {
        /// The claimed CIDR.
        cidr: IpNet,
        /// The node address inside it.
        address: IpAddr,
        /// Whose address it is.
        node: NodeName,
    },
    /// The guards would not cover the claim.
    #[error(
        "it claims {cidr}, which lies outside the cluster's pod CIDRs: \
             is --cluster-cidr complete?"
    )]
    OutsideClusterCidrs {
        /// The claimed CIDR.
        cidr: IpNet,
    },
    /// The endpoint is no address at which a node can be.
    #[error(
        "its endpoint {endpoint} is no address of a node: unspecified, multicast, broadcast, \
             loopback, link-local and IPv4-mapped ones are refused"
    )]
    EndpointUnusable {
        /// The endpoint.
        endpoint: SocketAddr,
    },
    /// WireGuard's own packets would go to a pod.
    #[error(
        "its endpoint {endpoint} lies in {cidr}, a pod CIDR of the cluster: \
             pods and nodes need different address ranges"
    )]
    EndpointInClusterCidrs {
        /// The endpoint.
        endpoint: SocketAddr,
        /// The cluster CIDR.
        cidr: IpNet,
    },
    /// The endpoint belongs to somebody else.
    #[error(
        "its endpoint {endpoint} is not among its Node's status.addresses \
             (a range in which it may be is named with --allow-endpoint)"
    )]
    EndpointForeign {
        /// The endpoint.
        endpoint: SocketAddr,
    },
    /// An address of the node is a pod's.
    #[error(
        "its node address {address} lies in {cidr}, a pod CIDR of the cluster: \
             pods and nodes need different address ranges"
    )]
    AddressInPodCidrs {
        /// The node's address.
        address: IpAddr,
        /// The cluster's CIDR, or this node's.
        cidr: IpNet,
    },
    /// Another node has the addresses.
    #[error("it claims {cidr}, which overlaps {other} of node {node}")]
    Overlap {
        /// The claimed CIDR.
        cidr: IpNet,
        /// The CIDR that stays.
        other: IpNet,
        /// Whose CIDR stays.
        node: NodeName,
    },
    /// Another node has the key.
    #[error(
        "it claims the public key {key}, which is that of node {node}: \
             was the state folder copied from there?"
    )]
    KeyTaken {
        /// The key.
        key: PublicKey,
        /// Who keeps it.
        node: NodeName,
    },
}

struct List<'a>(&'a [IpNet]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, cidr) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator}{cidr}")?;
        }
        Ok(())
    }
}

/// The outcome for every node but this one.
#[derive(Debug, Default)]
pub(crate) struct Verdicts<'a> {
    pub(crate) accepted: BTreeMap<&'a NodeName, (&'a Node, Record)>,
    pub(crate) refused: BTreeMap<&'a NodeName, Refusal>,
}

/// A node whose record passed the checks that need no other claim.
struct Claimant<'a> {
    node: &'a Node,
    record: Record,
    incumbent: Option<&'a Incumbent>,
}

/// Decides about every claim. Takes O(n log n) for n nodes.
pub(crate) fn decide<'a>(
    nodes: impl Iterator<Item = &'a Node>,
    own: &'a OwnNode,
    incumbents: &'a Incumbents,
    policy: &Policy,
) -> Verdicts<'a> {
    let mut verdicts = Verdicts::default();
    let mut claimants = Vec::new();
    for node in nodes.filter(|node| node.name != own.name) {
        let claimant = read(node)
            .map(|record| Claimant {
                node,
                incumbent: incumbent(node, &record, incumbents),
                record,
            })
            .and_then(|claimant| {
                check_pod_cidrs(&claimant, own, policy)?;
                check_endpoints(&claimant, policy)?;
                check_addresses(node, own, policy)?;
                Ok(claimant)
            });
        match claimant {
            Ok(claimant) => claimants.push(claimant),
            Err(refusal) => drop(verdicts.refused.insert(&node.name, refusal)),
        }
    }
    claimants.sort_by_key(|claimant| {
        let Claimant {
            node, incumbent, ..
        } = claimant;
        (incumbent.is_none(), node.created, &node.uid, &node.name)
    });
    let mut holdings = Holdings::new(own, &claimants);
    for Claimant { node, record, .. } in claimants {
        match holdings.check(node, &record) {
            Ok(()) => {
                holdings.hold(&node.name, &record.pod_cidrs, record.public_keys());
                verdicts.accepted.insert(&node.name, (node, record));
            }
            Err(refusal) => drop(verdicts.refused.insert(&node.name, refusal)),
        }
    }
    verdicts
}

fn read(node: &Node) -> Result<Record, Refusal> {
    annotations::parse(&node.annotations)
        .map_err(Refusal::Unparsable)?
        .ok_or(Refusal::NoRecord)
}

/// What a handshake confirmed about the node that this record still says: the same Node, with the
/// confirmed key. A node that just promoted a new key names the confirmed one as its previous one.
///
/// An incumbent's other keys come before a newcomer's although nobody confirmed them: else whoever
/// copied a key that an incumbent announces would have the incumbent refused. What an incumbent
/// can do with that, keep out a node that nobody ever reached by claiming its key, its `next` slot
/// gives it anyway.
fn incumbent<'a>(
    node: &Node,
    record: &Record,
    incumbents: &'a Incumbents,
) -> Option<&'a Incumbent> {
    let incumbent = incumbents.get(&node.name)?;
    let confirmed = |key| Some(incumbent.public_key) == key;
    let current = record.current.as_ref().map(|keys| keys.public_key);
    let previous = record.previous.as_ref().map(|keys| keys.public_key);
    (incumbent.uid == node.uid && (confirmed(current) || confirmed(previous))).then_some(incumbent)
}

fn check_pod_cidrs(claimant: &Claimant<'_>, own: &OwnNode, policy: &Policy) -> Result<(), Refusal> {
    let Claimant { node, record, .. } = claimant;
    let claimed = &record.pod_cidrs;
    if let Some(cidr) = claimed.iter().find(|cidr| cidr.prefix_len() == 0) {
        return Err(Refusal::DefaultRoute { cidr: *cidr });
    }
    if node.pod_cidrs.is_empty() {
        return Err(Refusal::NoPodCidrs);
    }
    if !same(claimed, &node.pod_cidrs) {
        let (claimed, spec) = (claimed.clone(), node.pod_cidrs.clone());
        return Err(Refusal::NotSpecPodCidrs { claimed, spec });
    }
    for cidr in claimed {
        for (name, addresses) in [(&node.name, &node.addresses), (&own.name, &own.addresses)] {
            if let Some(address) = addresses.iter().find(|address| cidr.contains(*address)) {
                return Err(Refusal::ContainsNodeAddress {
                    cidr: *cidr,
                    address: *address,
                    node: name.clone(),
                });
            }
        }
        if !policy
            .cluster_cidrs
            .iter()
            .any(|cluster| cluster.contains(cidr))
        {
            return Err(Refusal::OutsideClusterCidrs { cidr: *cidr });
        }
    }
    Ok(())
}

/// The same CIDRs in any order.
fn same(one: &[IpNet], other: &[IpNet]) -> bool {
    one.len() == other.len() && one.iter().all(|cidr| other.contains(cidr))
}

fn check_endpoints(claimant: &Claimant<'_>, policy: &Policy) -> Result<(), Refusal> {
    for endpoint in &claimant.record.endpoints {
        let (endpoint, address) = (*endpoint, endpoint.ip());
        if !can_be_a_node(address) {
            return Err(Refusal::EndpointUnusable { endpoint });
        }
        if let Some(cidr) = policy
            .cluster_cidrs
            .iter()
            .find(|cidr| cidr.contains(&address))
        {
            return Err(Refusal::EndpointInClusterCidrs {
                endpoint,
                cidr: *cidr,
            });
        }
        let allowed = claimant.node.addresses.contains(&address)
            || policy
                .endpoint_cidrs
                .iter()
                .any(|cidr| cidr.contains(&address));
        if !allowed {
            return Err(Refusal::EndpointForeign { endpoint });
        }
    }
    Ok(())
}

/// No node is where pods are. As every claim lies in the cluster's CIDRs, no accepted one contains
/// an accepted node's address, and nobody else's claim has to be asked.
fn check_addresses(node: &Node, own: &OwnNode, policy: &Policy) -> Result<(), Refusal> {
    for address in &node.addresses {
        let mut cidrs = policy.cluster_cidrs.iter().chain(&own.pod_cidrs);
        if let Some(cidr) = cidrs.find(|cidr| cidr.contains(address)) {
            let (address, cidr) = (*address, *cidr);
            return Err(Refusal::AddressInPodCidrs { address, cidr });
        }
    }
    Ok(())
}

/// Whether other nodes can tell this address from one of their own, or of a whole link.
pub(crate) fn can_be_a_node(address: IpAddr) -> bool {
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return false;
    }
    match address {
        IpAddr::V4(address) => !address.is_broadcast() && !address.is_link_local(),
        IpAddr::V6(address) => {
            !address.is_unicast_link_local() && address.to_ipv4_mapped().is_none()
        }
    }
}

/// What is taken already.
struct Holdings<'a> {
    own: &'a OwnNode,
    /// Accepted pod CIDRs by their first address. No two overlap.
    cidrs: BTreeMap<IpAddr, (IpNet, &'a NodeName)>,
    keys: BTreeMap<PublicKey, &'a NodeName>,
    /// Keys that a handshake confirmed, which nobody else gets, not even an older incumbent.
    confirmed: BTreeMap<PublicKey, &'a NodeName>,
}

impl<'a> Holdings<'a> {
    fn new(own: &'a OwnNode, claimants: &[Claimant<'a>]) -> Self {
        let mut holdings = Self {
            own,
            cidrs: BTreeMap::new(),
            keys: own
                .public_keys
                .iter()
                .map(|key| (*key, &own.name))
                .collect(),
            confirmed: BTreeMap::new(),
        };
        // In reverse, so that the first of two has the last word.
        for Claimant {
            node,
            record,
            incumbent,
        } in claimants.iter().rev()
        {
            let Some(incumbent) = incumbent else { continue };
            let claimed: Vec<PublicKey> = record.public_keys().collect();
            for key in std::iter::once(&incumbent.public_key).chain(&incumbent.other_lanes) {
                if claimed.contains(key) {
                    holdings.confirmed.insert(*key, &node.name);
                }
            }
        }
        holdings
    }

    fn hold(&mut self, name: &'a NodeName, cidrs: &[IpNet], keys: impl Iterator<Item = PublicKey>) {
        self.cidrs
            .extend(cidrs.iter().map(|cidr| (cidr.network(), (*cidr, name))));
        self.keys.extend(keys.map(|key| (key, name)));
    }

    fn check(&self, node: &Node, record: &Record) -> Result<(), Refusal> {
        for cidr in &record.pod_cidrs {
            if let Some((other, name)) = self.overlapping(cidr) {
                let (cidr, node) = (*cidr, name.clone());
                return Err(Refusal::Overlap { cidr, other, node });
            }
        }
        for key in record.public_keys() {
            let confirmed = self.confirmed.get(&key).filter(|name| ***name != node.name);
            if let Some(name) = self.keys.get(&key).or(confirmed) {
                return Err(Refusal::KeyTaken {
                    key,
                    node: (*name).clone(),
                });
            }
        }
        Ok(())
    }

    /// A taken CIDR that shares an address with this one.
    fn overlapping(&self, cidr: &IpNet) -> Option<(IpNet, &'a NodeName)> {
        let overlaps = |other: &IpNet| other.contains(cidr) || cidr.contains(other);
        if let Some(other) = self.own.pod_cidrs.iter().find(|other| overlaps(other)) {
            return Some((*other, &self.own.name));
        }
        // As accepted ones are disjoint, only the last that begins at or before its end can.
        let (_, (other, name)) = self.cidrs.range(..=cidr.broadcast()).next_back()?;
        overlaps(other).then_some((*other, *name))
    }
}
