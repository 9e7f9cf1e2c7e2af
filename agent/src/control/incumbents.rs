//! Which claims a completed handshake has confirmed: later claimants cannot take what they hold.

use podwire_core::key::PublicKey;
use podwire_core::mesh::{DesiredMesh, Incumbent, Incumbents, Pair};
use podwire_core::node::NodeName;
use podwire_core::record::Lane;
use podwire_registry::nodes::Nodes;

/// The incumbents that still are what they were: one whose Node is gone, or was created again, is
/// forgotten. A manifest that cannot be read does not free what its Node holds.
pub(crate) fn remaining(before: &Incumbents, nodes: &Nodes) -> Incumbents {
    let remains = |name: &NodeName, incumbent: &Incumbent| {
        let node = nodes.nodes.get(name);
        node.map_or_else(
            || nodes.rejected.contains_key(name),
            |node| node.uid == incumbent.uid,
        )
    };
    before
        .iter()
        .filter(|(name, incumbent)| remains(name, incumbent))
        .map(|(name, incumbent)| (name.clone(), incumbent.clone()))
        .collect()
}

/// Takes in these handshakes: a node whose peer in force has completed one becomes an incumbent.
/// `confirmed` has the keys under which the data plane has a session with a peer. Returns whether
/// an incumbent is new or another one.
pub(crate) fn confirm<'a>(
    incumbents: &mut Incumbents,
    mesh: &DesiredMesh,
    confirmed: impl Iterator<Item = (&'a NodeName, PublicKey)>,
) -> bool {
    let mut is_changed = false;
    for (name, key) in confirmed {
        let Some(peer) = mesh.peers.get(name) else {
            continue;
        };
        let Pair::Encrypted(pair) = &peer.pair else {
            continue;
        };
        // A session under a key that was replaced proves nothing about the one that is claimed now.
        let mut claimed = [&pair.lanes, &pair.next].into_iter();
        let proved = claimed.find(|lanes| lanes.first().is_some_and(|lane| lane.key == key));
        let Some(mut lanes) = proved else {
            continue;
        };
        // What is announced may be withdrawn: whoever proved its present key is known by that.
        let is_known = |lane: &Lane| {
            let known = incumbents.get(name);
            known.is_some_and(|it| it.uid == peer.uid && it.public_key == lane.key)
        };
        if pair.lanes.first().is_some_and(is_known) {
            lanes = &pair.lanes;
        }
        let is_of_next = proved == Some(&pair.next);
        // What was proved before it is promoted is nobody else's meanwhile.
        let beside = pair
            .next
            .iter()
            .filter(|_| is_of_next && lanes != &pair.next);
        let mut keys = lanes.iter().chain(beside).map(|lane| lane.key);
        let Some(public_key) = keys.next() else {
            continue;
        };
        let next = Incumbent {
            uid: peer.uid.clone(),
            public_key,
            other_lanes: keys.collect(),
            pod_cidrs: peer.pod_cidrs.clone(),
        };
        if incumbents.get(name) != Some(&next) {
            incumbents.insert(name.clone(), next);
            is_changed = true;
        }
    }
    is_changed
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use podwire_core::mesh::{HostNetworkPeers, OwnNode, Policy, desired_mesh};
    use podwire_core::node::Node;
    use podwire_core::record::{LaneKeys, Mode, Record};

    use super::*;

    fn key(byte: u8) -> PublicKey {
        PublicKey::from_bytes([byte; 32]).expect("not zero")
    }

    fn lane_0(number: u8) -> Option<LaneKeys> {
        Some(LaneKeys {
            public_key: key(number),
            lanes: Vec::new(),
        })
    }

    fn peer(uid: &str) -> Arc<Node> {
        peer_with(uid, None)
    }

    fn peer_with(uid: &str, next: Option<LaneKeys>) -> Arc<Node> {
        let record = Record {
            mode: Mode::Encrypted,
            pod_cidrs: vec!["10.244.2.0/24".parse().expect("cidr")],
            endpoints: Vec::new(),
            current: lane_0(2),
            next,
            previous: None,
            key_generation: 1,
            key_created: None,
            rotation_phase: None,
            epoch: 0,
        };
        Arc::new(Node {
            name: "node-2".parse().expect("name"),
            uid: uid.to_owned(),
            created: 0,
            pod_cidrs: record.pod_cidrs.clone(),
            addresses: Vec::new(),
            annotations: record.to_annotations(),
            is_record_unread: false,
        })
    }

    fn nodes(peers: &[Arc<Node>]) -> Nodes {
        let named = peers
            .iter()
            .map(|node| (node.name.clone(), Arc::clone(node)));
        Nodes {
            nodes: named.collect(),
            ..Nodes::default()
        }
    }

    fn mesh(nodes: &Nodes) -> DesiredMesh {
        let own = OwnNode {
            name: "node-1".parse().expect("name"),
            mode: Mode::Encrypted,
            pod_cidrs: vec!["10.244.1.0/24".parse().expect("cidr")],
            addresses: Vec::new(),
            public_keys: Vec::new(),
        };
        let policy = Policy {
            cluster_cidrs: vec!["10.244.0.0/16".parse().expect("cidr")],
            host_network_peers: HostNetworkPeers::Allow,
            endpoint_cidrs: Vec::new(),
        };
        desired_mesh(&nodes.nodes, &own, &Incumbents::new(), &policy)
    }

    fn confirmed(mut before: Incumbents, nodes: &Nodes, key: Option<PublicKey>) -> Incumbents {
        let name = "node-2".parse().expect("name");
        let keys = key.iter().map(|key| (&name, *key));
        confirm(&mut before, &mesh(nodes), keys);
        before
    }

    #[test]
    fn only_a_completed_handshake_makes_an_incumbent() {
        let nodes = nodes(&[peer("a")]);
        assert!(confirmed(Incumbents::new(), &nodes, None).is_empty());
        assert_eq!(confirmed(Incumbents::new(), &nodes, Some(key(2))).len(), 1);
    }

    #[test]
    fn a_session_that_goes_on_is_no_news() {
        let nodes = nodes(&[peer("a")]);
        let (mesh, name) = (mesh(&nodes), "node-2".parse().expect("name"));
        let mut incumbents = Incumbents::new();
        let mut confirm = || confirm(&mut incumbents, &mesh, [(&name, key(2))].into_iter());
        assert!(confirm());
        assert!(!confirm());
    }

    #[test]
    fn a_session_under_another_key_makes_no_incumbent() {
        let nodes = nodes(&[peer("a")]);
        assert!(confirmed(Incumbents::new(), &nodes, Some(key(3))).is_empty());
    }

    #[test]
    fn a_session_under_an_announced_key_proves_it_and_takes_nothing_from_the_present_one() {
        let nodes = nodes(&[peer_with("a", lane_0(4))]);
        let name: NodeName = "node-2".parse().expect("name");
        let by_next = confirmed(Incumbents::new(), &nodes, Some(key(4)));
        assert_eq!(by_next[&name].public_key, key(4));
        let by_current = confirmed(Incumbents::new(), &nodes, Some(key(2)));
        assert_eq!(by_current[&name].public_key, key(2));
        let both = confirmed(by_current.clone(), &nodes, Some(key(4)));
        assert_eq!(both[&name].public_key, key(2));
        // Which it is about to be known by.
        assert_eq!(both[&name].other_lanes, [key(4)]);
        let again = confirmed(by_next, &nodes, Some(key(2)));
        assert_eq!(again, by_current);
    }

    #[test]
    fn an_incumbent_is_forgotten_with_its_node_and_not_with_its_session() {
        let before = nodes(&[peer("a")]);
        let known = confirmed(Incumbents::new(), &before, Some(key(2)));
        let idle = confirmed(remaining(&known, &before), &before, None);
        assert_eq!(idle, known);
        let again = nodes(&[peer("b")]);
        assert!(remaining(&known, &again).is_empty());
        let gone = nodes(&[]);
        assert!(remaining(&known, &gone).is_empty());
    }
}
