//! One peer: what the control plane wants of it, and what lives on between configurations.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ipnet::IpNet;
use parking_lot::Mutex;
use podwire_core::mesh::EncryptedPair;
use podwire_core::mtu::{Family, inner_mtu};
use podwire_core::node::NodeName;

use crate::own_keys::KeyRing;
use crate::session_set::SessionSet;

/// One peer as the control plane wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// `metadata.uid` of its Node: a Node that was created again is another peer.
    pub uid: String,
    /// Endpoints, lanes, key generation and epoch.
    pub pair: EncryptedPair,
    /// The prefixes that the peer owns.
    pub allowed_ips: Vec<IpNet>,
    /// Path MTU of the underlay to the endpoint, in bytes.
    pub path_mtu: u32,
}

/// A peer in the table: immutable, shared by all lane threads.
pub(crate) struct Peer {
    pub(crate) name: NodeName,
    pub(crate) config: PeerConfig,
    /// Grows with each change of the table: a session set follows the newest that it has seen.
    pub(crate) version: u64,
    /// Lanes that both nodes have.
    pub(crate) lanes: usize,
    /// The own keys.
    pub(crate) own: Arc<KeyRing>,
    pub(crate) state: Arc<PeerState>,
    /// Path MTU in bytes that the kernel has reported under this configuration.
    path_mtu: AtomicU32,
}

impl Peer {
    pub(crate) fn new(
        name: NodeName,
        config: PeerConfig,
        version: u64,
        own: Arc<KeyRing>,
        state: Arc<PeerState>,
    ) -> Self {
        let lanes = state.lanes.len().min(config.pair.lanes.len());
        let path_mtu = AtomicU32::new(config.path_mtu);
        Self {
            name,
            config,
            version,
            lanes,
            own,
            state,
            path_mtu,
        }
    }

    /// The same peer under other own keys.
    pub(crate) fn with_own_keys(&self, own: &Arc<KeyRing>, version: u64) -> Self {
        let (name, config) = (self.name.clone(), self.config.clone());
        let state = Arc::clone(&self.state);
        let after = Self::new(name, config, version, Arc::clone(own), state);
        after.keep_path_mtu(self);
        after
    }

    /// Takes over what the kernel has reported to `before`, if nothing but keys is different.
    pub(crate) fn keep_path_mtu(&self, before: &Self) {
        let (ours, theirs) = (&self.config, &before.config);
        if ours.path_mtu == theirs.path_mtu && ours.pair.endpoints == theirs.pair.endpoints {
            self.lower_path_mtu(before.path_mtu.load(Ordering::Relaxed));
        }
    }

    /// Takes note of a lower path MTU, until the configuration changes.
    pub(crate) fn lower_path_mtu(&self, path_mtu: u32) {
        self.path_mtu.fetch_min(path_mtu, Ordering::Relaxed);
    }

    /// The longest packet of a family that fits, in bytes, when sent to `endpoint`.
    pub(crate) fn inner_mtu(&self, endpoint: SocketAddr, inner: Family) -> u32 {
        let outer = Family::from(endpoint.ip());
        inner_mtu(self.path_mtu.load(Ordering::Relaxed), outer, inner)
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What outlives a change of configuration: sessions and counters.
pub(crate) struct PeerState {
    /// Place in the peer table; in the receiver indices too.
    pub(crate) ordinal: u32,
    /// One for each own lane.
    pub(crate) lanes: Box<[Mutex<PeerLane>]>,
}

impl PeerState {
    pub(crate) fn new(ordinal: u32, lanes: usize) -> Self {
        let lanes = (0..lanes)
            .map(|_| Mutex::new(PeerLane::default()))
            .collect();
        Self { ordinal, lanes }
    }
}

/// One lane of a peer. Empty until the first packet or handshake.
#[derive(Default)]
pub(crate) struct PeerLane {
    /// The peer was removed: a thread that still holds the old table makes no sessions any more.
    pub(crate) is_closed: bool,
    /// Waits in its own lane's queue to be asked for a handshake: it need wait there only once.
    pub(crate) is_requested: bool,
    pub(crate) set: Option<Box<SessionSet>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_peer_costs_a_few_hundred_bytes() {
        // Beside what the control plane has said: name, endpoints, lanes and prefixes.
        let idle = |lanes: usize| {
            size_of::<Peer>() + size_of::<PeerState>() + lanes * size_of::<Mutex<PeerLane>>()
        };
        assert!(idle(2) <= 320, "{} bytes with two lanes", idle(2));
        assert!(idle(8) <= 460, "{} bytes with eight lanes", idle(8));
        // In use, before the protocol engine's 11 KB for each member.
        assert!(
            size_of::<SessionSet>() <= 640,
            "{} bytes",
            size_of::<SessionSet>()
        );
    }
}
