//! The desired mesh: which nodes this node takes for peers, and how it reaches each of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::claim;
use crate::key::PublicKey;
use crate::node::{Node, NodeName, can_be_a_node};
use crate::record::{Lane, LaneKeys, Mode, Record};
use crate::refusal::{Contested, Refusal};

/// What the operator of this node decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `--cluster-cidr`: the pod CIDRs of the whole cluster. A claim outside them is refused,
    /// because the guards would not cover it.
    pub cluster_cidrs: Vec<IpNet>,
    /// `--host-network-peers`: whether a pair may be plaintext when the other node declares it.
    pub host_network_peers: HostNetworkPeers,
    /// `--allow-endpoint`: prefixes in which endpoints may lie beside their Node's own addresses.
    pub endpoint_cidrs: Vec<IpNet>,
}

/// Whether declared plaintext pairs are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostNetworkPeers {
    /// A pair is plaintext where one of its nodes declares host-network mode.
    Allow,
    /// Strict mode: such a pair is closed.
    Refuse,
}

/// What a completed handshake has confirmed about a node; persisted, so that a later claimant
/// cannot take what an incumbent holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incumbent {
    /// The uid of the Node that held the claim.
    pub uid: String,
    /// The public key of lane 0 that completed the handshake.
    pub public_key: PublicKey,
    /// The keys of the other lanes in the record that was in force then: no other node gets one
    /// either.
    pub other_lanes: Vec<PublicKey>,
    /// The pod CIDRs that were in force then: a node that comes to claim others takes none of
    /// these, however old it is.
    pub pod_cidrs: Vec<IpNet>,
}

/// Incumbents by node.
pub type Incumbents = BTreeMap<NodeName, Incumbent>;

/// What this node knows of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnNode {
    /// Own name.
    pub name: NodeName,
    /// Own declared mode.
    pub mode: Mode,
    /// Own `spec.podCIDRs`; empty until the registry has told them.
    pub pod_cidrs: Vec<IpNet>,
    /// Own node addresses.
    pub addresses: Vec<IpAddr>,
    /// Every own public key, of all lanes and generations: nobody else may claim one.
    pub public_keys: Vec<PublicKey>,
}

/// The mesh as this node wants it: an immutable snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredMesh {
    /// This node.
    pub own: OwnNode,
    /// The policy under which the mesh was derived.
    pub policy: Policy,
    /// Every node whose claim is accepted, without this node.
    pub peers: BTreeMap<NodeName, Peer>,
    /// Every other node, with the reason why it is no peer.
    pub refusals: BTreeMap<NodeName, Refusal>,
    /// Keys that do not count, of nodes that are accepted without them.
    pub contested: BTreeMap<NodeName, Vec<Contested>>,
}

/// One accepted node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// `metadata.uid` of its Node.
    pub uid: String,
    /// Its pod CIDRs: the peer's allowed IPs.
    pub pod_cidrs: Vec<IpNet>,
    /// Its node addresses, in order of preference: those at which another node can be. A link-local
    /// one among them would make any link of this node an underlay link.
    pub addresses: Vec<IpAddr>,
    /// How this node and the peer exchange packets.
    pub pair: Pair,
}

/// How two nodes exchange pod packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pair {
    /// Both declare encryption.
    Encrypted(EncryptedPair),
    /// At least one declares host-network mode and the policy allows it.
    HostNetwork,
    /// No packet may pass.
    Closed(ClosedReason),
}

/// What WireGuard needs to reach a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncryptedPair {
    /// Endpoints of lane 0, in order of preference; empty for a peer behind NAT, which is followed
    /// by roaming. Lane i has the same address and its own port.
    pub endpoints: Vec<SocketAddr>,
    /// All lanes, lane 0 first: key and port. Never empty.
    pub lanes: Vec<Lane>,
    /// The lanes under the keys that a rotation announces; empty if it announces none. Only their
    /// keys count: ports are those of `lanes`.
    pub next: Vec<Lane>,
    /// The lanes under the keys that a rotation has yet to retire; empty if there are none. Only
    /// their keys count.
    pub previous: Vec<Lane>,
    /// Whether every key that the record does not name is known to others.
    pub is_revoked: bool,
    /// The key generation of `lanes`.
    pub key_generation: u64,
    /// The epoch of the record: another one means that the peer's replay history is to be
    /// forgotten.
    pub epoch: u64,
}

/// Why a pair is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum ClosedReason {
    /// One of the two declares host-network mode and `--host-network-peers refuse` is in force.
    #[error(
        "one of the two declares host-network mode, and --host-network-peers refuse is in force"
    )]
    HostNetworkRefused,
    /// The peer declares encryption and names no key.
    #[error("it declares encryption and names no key")]
    NoKey,
}

/// Derives the mesh from what the registry says. `nodes` may hold this node, which is never its own
/// peer: what it has is in `own`, and wins over every claim.
#[must_use]
pub fn desired_mesh(
    nodes: &BTreeMap<NodeName, Arc<Node>>,
    own: &OwnNode,
    incumbents: &Incumbents,
    policy: &Policy,
) -> DesiredMesh {
    let verdicts = claim::decide(nodes.values().map(Arc::as_ref), own, incumbents, policy);
    let refused = verdicts.refused.into_iter();
    let accepted = verdicts.accepted.into_iter();
    let contested = verdicts.contested.into_iter();
    DesiredMesh {
        own: own.clone(),
        policy: policy.clone(),
        refusals: refused
            .map(|(name, refusal)| (name.clone(), refusal))
            .collect(),
        peers: accepted
            .map(|(name, (node, record))| (name.clone(), peer(node, record, own, policy)))
            .collect(),
        contested: contested
            .map(|(name, found)| (name.clone(), found))
            .collect(),
    }
}

fn peer(node: &Node, record: Record, own: &OwnNode, policy: &Policy) -> Peer {
    let addresses = node.addresses.iter().copied();
    Peer {
        uid: node.uid.clone(),
        pair: pair(&record, own, policy),
        pod_cidrs: record.pod_cidrs,
        addresses: addresses.filter(|a| can_be_a_node(*a)).collect(),
    }
}

fn pair(record: &Record, own: &OwnNode, policy: &Policy) -> Pair {
    let port = record.endpoints.first().map_or(0, SocketAddr::port);
    let beside = |keys: &Option<LaneKeys>| {
        let keys = keys.as_ref();
        keys.map_or_else(Vec::new, |keys| keys.all_lanes(port))
    };
    match (own.mode, record.mode, &record.current) {
        (Mode::Encrypted, Mode::Encrypted, Some(keys)) => Pair::Encrypted(EncryptedPair {
            endpoints: record.endpoints.clone(),
            lanes: keys.all_lanes(port),
            next: beside(&record.next),
            previous: beside(&record.previous),
            is_revoked: record.is_revoked(),
            key_generation: record.key_generation,
            epoch: record.epoch,
        }),
        // Parsing refuses such a record; should that ever change, the pair must not become
        // plaintext.
        (Mode::Encrypted, Mode::Encrypted, None) => Pair::Closed(ClosedReason::NoKey),
        (Mode::HostNetwork, _, _) | (_, Mode::HostNetwork, _) => match policy.host_network_peers {
            HostNetworkPeers::Allow => Pair::HostNetwork,
            HostNetworkPeers::Refuse => Pair::Closed(ClosedReason::HostNetworkRefused),
        },
    }
}

#[cfg(test)]
mod tests;
