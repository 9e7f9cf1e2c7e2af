//! The Node record: what an agent says about its own node (DESIGN.md section 4). Its text form is
//! in [`crate::annotations`].

use std::net::SocketAddr;

use ipnet::IpNet;

use crate::key::PublicKey;
use crate::rotation::Phase;

/// What every annotation of an agent begins with.
pub const ANNOTATION_PREFIX: &str = "podwire.dev/";

/// What every request of an operator begins with.
pub const REQUEST_PREFIX: &str = "request.podwire.dev/";

/// How a node says it takes part. Never inferred from a missing key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Traffic with every other encrypted node goes through WireGuard.
    Encrypted,
    /// Plain host routes: declared plaintext.
    HostNetwork,
}

/// One lane of a node as the record tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// UDP port on which the lane receives; 0 for lane 0 of a node that names no endpoint.
    pub port: u16,
    /// The lane's own static key.
    pub key: PublicKey,
}

/// The keys of all lanes of one key generation. Lane 0 is `public_key`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LaneKeys {
    /// Lane 0's key (`public-key`). Its port is that of the endpoints.
    pub public_key: PublicKey,
    /// The other lanes (`lanes`), in lane order; empty on a plain WireGuard peer.
    pub lanes: Vec<Lane>,
}

impl LaneKeys {
    /// The keys in lane order, lane 0 first.
    pub fn keys(&self) -> impl Iterator<Item = PublicKey> + '_ {
        std::iter::once(self.public_key).chain(self.lanes.iter().map(|lane| lane.key))
    }

    /// All lanes, lane 0 first, whose port is `port`.
    #[must_use]
    pub fn all_lanes(&self, port: u16) -> Vec<Lane> {
        let first = Lane {
            port,
            key: self.public_key,
        };
        std::iter::once(first)
            .chain(self.lanes.iter().copied())
            .collect()
    }
}

/// A parsed Node record. Parsing believes nothing: claims are checked in [`crate::mesh`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `mode`.
    pub mode: Mode,
    /// `pod-cidrs`, without host bits; one or more.
    pub pod_cidrs: Vec<IpNet>,
    /// `endpoints`, in order of preference, at most one per family, all with one port; empty behind
    /// NAT.
    pub endpoints: Vec<SocketAddr>,
    /// `public-key` and `lanes`; always there when `mode` is encrypted.
    pub current: Option<LaneKeys>,
    /// `next-public-key` and `next-lanes`, announced by a key rotation.
    pub next: Option<LaneKeys>,
    /// `previous-public-key` and `previous-lanes`, until a rotated key is retired.
    pub previous: Option<LaneKeys>,
    /// `key-generation`; 1 for the first key, and if absent.
    pub key_generation: u64,
    /// `key-created`, RFC 3339 text for people; never compared.
    pub key_created: Option<String>,
    /// `rotation-phase`: text for people, of which [`Record::is_revoked`] alone counts.
    pub rotation_phase: Option<String>,
    /// `epoch`: changes when the node's clock went back behind its highest TAI64N stamp; 0 if
    /// absent.
    pub epoch: u64,
}

impl Record {
    /// Whether the keys of before were known to others, so that nothing under them counts.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        let phase = self.rotation_phase.as_deref();
        phase.and_then(|phase| phase.parse().ok()) == Some(Phase::Revoked)
    }

    /// Every key that the record claims: all lanes, current, next and previous. One that a lane
    /// keeps over generations comes more than once.
    pub fn public_keys(&self) -> impl Iterator<Item = PublicKey> + '_ {
        [&self.current, &self.next, &self.previous]
            .into_iter()
            .flatten()
            .flat_map(LaneKeys::keys)
    }
}
