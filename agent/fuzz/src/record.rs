//! Annotations of another node's agent.
//!
//! Lines of `NAME=VALUE`; a name without a slash gets the agents' prefix.

use std::collections::BTreeMap;
use std::sync::Arc;

use podwire_core::annotations;
use podwire_core::key::PublicKey;
use podwire_core::mesh::{
    self, DesiredMesh, HostNetworkPeers, Incumbent, Incumbents, OwnNode, Pair, Policy,
};
use podwire_core::node::{Node, NodeName};
use podwire_core::record::{ANNOTATION_PREFIX, LaneKeys, Mode, Record};

use crate::shown_text;

/// The own node, an honest one and the one that the input is of.
const OWN: u8 = 1;
const HONEST: u8 = 2;
const OTHER: u8 = 3;

/// One input.
pub fn one(data: &[u8]) {
    let annotations = annotations(&String::from_utf8_lossy(data));
    match annotations::parse(&annotations) {
        Ok(None) => {}
        Ok(Some(record)) => check_record(&record),
        Err(error) => shown_text::check(&error),
    }
    for created in [0, 1_000] {
        check_mesh(&annotations, created);
    }
}

fn annotations(text: &str) -> BTreeMap<String, String> {
    let named = |name: &str| {
        let prefix = if name.contains('/') {
            ""
        } else {
            ANNOTATION_PREFIX
        };
        format!("{prefix}{name}")
    };
    text.split('\n')
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (named(name), value.to_owned()))
        .collect()
}

fn check_record(record: &Record) {
    let written = record.to_annotations();
    assert_eq!(
        annotations::parse(&written).as_ref(),
        Ok(&Some(record.clone()))
    );
    assert!(!record.pod_cidrs.is_empty());
    assert!(record.pod_cidrs.iter().all(|cidr| *cidr == cidr.trunc()));
    assert!(record.endpoints.len() <= 2);
    for keys in [&record.current, &record.next, &record.previous]
        .into_iter()
        .flatten()
    {
        assert!(keys.lanes.len() < annotations::LANES_MAX);
    }
}

fn key(number: u8) -> PublicKey {
    PublicKey::from_bytes([number; 32]).expect("not zero")
}

fn name(number: u8) -> NodeName {
    format!("node-{number}").parse().expect("a name")
}

fn record(number: u8) -> Record {
    Record {
        mode: Mode::Encrypted,
        pod_cidrs: vec![
            format!("10.244.{number}.0/24").parse().expect("a prefix"),
            format!("fd00:10:244:{number}::/64")
                .parse()
                .expect("a prefix"),
        ],
        endpoints: vec![
            format!("192.0.2.{number}:51880")
                .parse()
                .expect("an endpoint"),
        ],
        current: Some(LaneKeys {
            public_key: key(number),
            lanes: Vec::new(),
        }),
        next: None,
        previous: None,
        key_generation: 1,
        key_created: None,
        rotation_phase: None,
        epoch: 0,
    }
}

fn node(number: u8, created: i64, annotations: BTreeMap<String, String>) -> Node {
    Node {
        name: name(number),
        uid: format!("uid-{number}"),
        created,
        pod_cidrs: record(number).pod_cidrs,
        addresses: vec![format!("192.0.2.{number}").parse().expect("an address")],
        annotations,
        is_record_unread: false,
    }
}

fn desired(other: Option<Node>) -> DesiredMesh {
    let honest = node(HONEST, 500, record(HONEST).to_annotations());
    let nodes = [Some(honest), other].into_iter().flatten();
    let nodes = nodes
        .map(|node| (node.name.clone(), Arc::new(node)))
        .collect();
    let own = OwnNode {
        name: name(OWN),
        mode: Mode::Encrypted,
        pod_cidrs: record(OWN).pod_cidrs,
        addresses: node(OWN, 0, BTreeMap::new()).addresses,
        public_keys: vec![key(OWN)],
    };
    let incumbent = Incumbent {
        uid: format!("uid-{HONEST}"),
        public_key: key(HONEST),
        other_lanes: Vec::new(),
        pod_cidrs: record(HONEST).pod_cidrs,
    };
    let incumbents: Incumbents = [(name(HONEST), incumbent)].into();
    let policy = Policy {
        cluster_cidrs: vec![
            "10.244.0.0/16".parse().expect("a prefix"),
            "fd00:10:244::/48".parse().expect("a prefix"),
        ],
        host_network_peers: HostNetworkPeers::Refuse,
        endpoint_cidrs: Vec::new(),
    };
    mesh::desired_mesh(&nodes, &own, &incumbents, &policy)
}

/// Whatever a node says, it is one peer of its own addresses or none, and the pair with another
/// node is as it was.
fn check_mesh(annotations: &BTreeMap<String, String>, created: i64) {
    let other = node(OTHER, created, annotations.clone());
    let with = desired(Some(other.clone()));
    let without = desired(None);
    assert_eq!(
        with.peers.get(&name(HONEST)),
        without.peers.get(&name(HONEST))
    );
    with.contested
        .values()
        .flatten()
        .for_each(|found| shown_text::check(found));
    match (
        with.peers.get(&name(OTHER)),
        with.refusals.get(&name(OTHER)),
    ) {
        (Some(peer), None) => {
            let mut claimed = peer.pod_cidrs.clone();
            claimed.sort_unstable();
            assert_eq!(claimed, other.pod_cidrs);
            if let Pair::Encrypted(pair) = &peer.pair {
                let own = |ip| other.addresses.contains(&ip);
                assert!(pair.endpoints.iter().all(|endpoint| own(endpoint.ip())));
                let taken = [key(OWN), key(HONEST)];
                assert!(pair.lanes.iter().all(|lane| !taken.contains(&lane.key)));
            }
            assert_ne!(peer.pair, Pair::HostNetwork, "refused by the policy");
        }
        (None, Some(refusal)) => shown_text::check(refusal),
        other => panic!("neither a peer nor refused: {other:?}"),
    }
}
