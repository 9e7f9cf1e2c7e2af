//! Pairs that are encrypted from now on after they were not.

use podwire_core::mesh::{DesiredMesh, Pair};
use podwire_core::node::NodeName;

/// Peers whose pair was plaintext or closed and is encrypted now. The peer that changed its mode
/// asked for a session before this node knew, and waits for seconds until it asks again: this node
/// asks at once. A peer that is new asks itself, or waits for its first packet.
pub(super) fn reopened(before: Option<&DesiredMesh>, now: &DesiredMesh) -> Vec<NodeName> {
    let is_encrypted = |pair: &Pair| matches!(pair, Pair::Encrypted(_));
    let was_other = |name: &NodeName| {
        before
            .and_then(|mesh| mesh.peers.get(name))
            .is_some_and(|peer| !is_encrypted(&peer.pair))
    };
    let peers = now.peers.iter();
    peers
        .filter(|(name, peer)| is_encrypted(&peer.pair) && was_other(name))
        .map(|(name, _)| name.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use podwire_core::key::PublicKey;
    use podwire_core::mesh::{EncryptedPair, HostNetworkPeers, OwnNode, Peer, Policy};
    use podwire_core::record::{Lane, Mode};

    use super::*;

    fn mesh(pair: Pair) -> DesiredMesh {
        let name: NodeName = "node-2".parse().expect("name");
        let peer = Peer {
            uid: "2".to_owned(),
            pod_cidrs: Vec::new(),
            addresses: Vec::new(),
            pair,
        };
        DesiredMesh {
            own: OwnNode {
                name: "node-1".parse().expect("name"),
                mode: Mode::Encrypted,
                pod_cidrs: Vec::new(),
                addresses: Vec::new(),
                public_keys: Vec::new(),
            },
            policy: Policy {
                cluster_cidrs: Vec::new(),
                host_network_peers: HostNetworkPeers::Allow,
                endpoint_cidrs: Vec::new(),
            },
            peers: BTreeMap::from([(name, peer)]),
            contested: BTreeMap::new(),
            refusals: BTreeMap::new(),
        }
    }

    fn encrypted() -> Pair {
        Pair::Encrypted(EncryptedPair {
            endpoints: Vec::new(),
            lanes: vec![Lane {
                port: 0,
                key: PublicKey::from_bytes([2; 32]).expect("not zero"),
            }],
            next: Vec::new(),
            previous: Vec::new(),
            is_revoked: false,
            key_generation: 1,
            epoch: 0,
        })
    }

    #[test]
    fn a_pair_that_turns_encrypted_is_asked_and_no_other() {
        let (plain, tunnel) = (mesh(Pair::HostNetwork), mesh(encrypted()));
        assert_eq!(reopened(Some(&plain), &tunnel).len(), 1);
        assert!(reopened(Some(&tunnel), &tunnel).is_empty());
        assert!(reopened(Some(&tunnel), &plain).is_empty());
        assert!(reopened(None, &tunnel).is_empty());
    }
}
