//! Why a node is no peer.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::annotations::RecordError;
use crate::key::PublicKey;
use crate::node::NodeName;

/// Why a node is no peer. It stays so until its Node, its record or the policy changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The node has no record yet: no agent has published one.
    #[error("no agent has published a record yet")]
    NoRecord,
    /// The registry holds a record that cannot be read.
    #[error("its record is there and cannot be read")]
    RecordUnread,
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

/// Keys beside those in force that do not count, because another node names one of them too. The
/// node is what it is without them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "its {slot} keys do not count, as node {node} names {key} among them too: \
         was the state folder copied from there?"
)]
pub struct Contested {
    /// Which of its keys.
    pub slot: KeySlot,
    /// The key that both name.
    pub key: PublicKey,
    /// The other node.
    pub node: NodeName,
}

/// Keys of a record beside those in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeySlot {
    /// Those that a rotation announces.
    Next,
    /// Those that a rotation has yet to retire.
    Previous,
}

impl fmt::Display for KeySlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Next => "next",
            Self::Previous => "previous",
        })
    }
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
