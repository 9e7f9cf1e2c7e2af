//! What a registry knows about one node.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// The longest name that Kubernetes takes for a Node (RFC 1123 subdomain).
pub const NODE_NAME_LENGTH_MAX: usize = 253;

/// The name of a Kubernetes Node: an RFC 1123 subdomain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(String);

/// Why a text is not a node name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a node name: at most 253 lower-case letters, digits, '-' and '.'")]
pub struct InvalidNodeName(String);

impl NodeName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = InvalidNodeName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let bytes = text.as_bytes();
        if bytes.len() <= NODE_NAME_LENGTH_MAX
            && bytes.iter().copied().all(allowed)
            && edge(bytes.first().copied())
            && edge(bytes.last().copied())
        {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidNodeName(
                text.chars().take(NODE_NAME_LENGTH_MAX).collect(),
            ))
        }
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One Node as its registry reports it: what the operator or the cluster says (uid, pod CIDRs,
/// addresses) beside what the node's agent claims (annotations, not yet parsed or believed).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`.
    pub name: NodeName,
    /// `metadata.uid`: a Node that is deleted and created again has another one.
    pub uid: String,
    /// `metadata.creationTimestamp`, in seconds since the Unix epoch.
    pub created: i64,
    /// `spec.podCIDRs`: what claims are checked against.
    pub pod_cidrs: Vec<IpNet>,
    /// `status.addresses` of type InternalIP, then of type ExternalIP, each in the registry's
    /// order.
    pub addresses: Vec<IpAddr>,
    /// `metadata.annotations` with the prefixes `podwire.dev/` and `request.podwire.dev/` only.
    pub annotations: BTreeMap<String, String>,
    /// Whether its agent's record is there and cannot be read: no annotation of it is above then,
    /// and what a handshake confirmed stays the node's own.
    pub is_record_unread: bool,
}

/// Whether other nodes can tell this address from one of their own, or of a whole link.
#[must_use]
pub fn can_be_a_node(address: IpAddr) -> bool {
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
