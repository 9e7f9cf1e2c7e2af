use std::time::Instant;

use super::*;
use crate::annotations::{self, RecordError};
use crate::record::LaneKeys;
use crate::refusal::KeySlot;

fn name(text: &str) -> NodeName {
    text.parse().expect("name")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("cidr")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn key(number: u32) -> PublicKey {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    PublicKey::from_bytes(bytes).expect("not zero")
}

fn keys(first: u32, others: &[u32]) -> Option<LaneKeys> {
    let lanes = (51881..).zip(others).map(|(port, number)| Lane {
        port,
        key: key(*number),
    });
    Some(LaneKeys {
        public_key: key(first),
        lanes: lanes.collect(),
    })
}

/// A record of an encrypted node with pods in 10.244.NUMBER.0/24 at 192.0.2.NUMBER.
fn record(number: u8) -> Record {
    let lane = u32::from(number) * 10;
    Record {
        mode: Mode::Encrypted,
        pod_cidrs: vec![net(&format!("10.244.{number}.0/24"))],
        endpoints: vec![SocketAddr::new(
            address(&format!("192.0.2.{number}")),
            51880,
        )],
        current: keys(lane, &[lane + 1]),
        next: None,
        previous: None,
        key_generation: 1,
        key_created: None,
        rotation_phase: None,
        epoch: 0,
    }
}

/// The Node with that record, created NUMBER seconds after the epoch.
fn node(number: u8, record: &Record) -> Node {
    Node {
        name: name(&format!("node-{number}")),
        uid: format!("uid-{number}"),
        created: i64::from(number),
        pod_cidrs: record.pod_cidrs.clone(),
        addresses: vec![address(&format!("192.0.2.{number}"))],
        annotations: record.to_annotations(),
        is_record_unread: false,
    }
}

fn plain(number: u8) -> Node {
    node(number, &record(number))
}

fn own() -> OwnNode {
    OwnNode {
        name: name("own"),
        mode: Mode::Encrypted,
        pod_cidrs: vec![net("10.244.200.0/24")],
        addresses: vec![address("192.0.2.200")],
        public_keys: vec![key(2000), key(2001)],
    }
}

fn policy() -> Policy {
    Policy {
        cluster_cidrs: vec![net("10.244.0.0/16"), net("fd00:10:244::/48")],
        host_network_peers: HostNetworkPeers::Allow,
        endpoint_cidrs: Vec::new(),
    }
}

fn registry(nodes: impl IntoIterator<Item = Node>) -> BTreeMap<NodeName, Arc<Node>> {
    nodes
        .into_iter()
        .map(|node| (node.name.clone(), Arc::new(node)))
        .collect()
}

fn mesh(nodes: impl IntoIterator<Item = Node>) -> DesiredMesh {
    desired_mesh(&registry(nodes), &own(), &Incumbents::new(), &policy())
}

/// A handshake with that node under its plain record's keys.
fn confirmed(numbers: &[u8]) -> Incumbents {
    let incumbent = |number: &u8| {
        let current = record(*number).current.expect("encrypted");
        let incumbent = Incumbent {
            uid: format!("uid-{number}"),
            public_key: current.public_key,
            other_lanes: current.lanes.iter().map(|lane| lane.key).collect(),
            pod_cidrs: record(*number).pod_cidrs,
        };
        (name(&format!("node-{number}")), incumbent)
    };
    numbers.iter().map(incumbent).collect()
}

fn peers(mesh: &DesiredMesh) -> Vec<&str> {
    mesh.peers.keys().map(NodeName::as_str).collect()
}

/// The reason why node 1 is refused beside node 2, which must stay a peer.
fn refusal(claimant: Node) -> Refusal {
    let mesh = mesh([claimant, plain(2)]);
    assert_eq!(peers(&mesh), ["node-2"]);
    mesh.refusals[&name("node-1")].clone()
}

fn claiming(cidrs: &[&str]) -> Node {
    let record = Record {
        pod_cidrs: cidrs.iter().map(|c| net(c)).collect(),
        ..record(1)
    };
    node(1, &record)
}

fn at(endpoint: &str) -> Node {
    let endpoints = vec![endpoint.parse().expect("endpoint")];
    node(
        1,
        &Record {
            endpoints,
            ..record(1)
        },
    )
}

#[test]
fn two_encrypted_nodes_are_an_encrypted_pair() {
    let mesh = mesh([plain(1)]);
    let Pair::Encrypted(pair) = &mesh.peers[&name("node-1")].pair else {
        panic!("{mesh:?}")
    };
    assert_eq!(
        pair.endpoints,
        ["192.0.2.1:51880".parse().expect("endpoint")]
    );
    let lanes = [
        Lane {
            port: 51880,
            key: key(10),
        },
        Lane {
            port: 51881,
            key: key(11),
        },
    ];
    assert_eq!(pair.lanes, lanes);
    assert_eq!((pair.key_generation, pair.epoch), (1, 0));
    assert!(mesh.refusals.is_empty());
}

#[test]
fn a_pair_is_plaintext_only_where_one_declares_it_and_the_policy_allows_it() {
    let host_network = Record {
        mode: Mode::HostNetwork,
        ..record(1)
    };
    for (own_mode, peer, expected) in [
        (Mode::Encrypted, &host_network, Pair::HostNetwork),
        (Mode::HostNetwork, &host_network, Pair::HostNetwork),
        (Mode::HostNetwork, &record(1), Pair::HostNetwork),
    ] {
        let own = OwnNode {
            mode: own_mode,
            ..own()
        };
        let nodes = registry([node(1, peer)]);
        let allowed = desired_mesh(&nodes, &own, &Incumbents::new(), &policy());
        assert_eq!(allowed.peers[&name("node-1")].pair, expected);
        let strict = Policy {
            host_network_peers: HostNetworkPeers::Refuse,
            ..policy()
        };
        let refused = desired_mesh(&nodes, &own, &Incumbents::new(), &strict);
        let closed = Pair::Closed(ClosedReason::HostNetworkRefused);
        assert_eq!(refused.peers[&name("node-1")].pair, closed);
    }
}

#[test]
fn a_node_behind_nat_has_no_endpoint_and_no_port() {
    let mesh = mesh([node(
        1,
        &Record {
            endpoints: Vec::new(),
            ..record(1)
        },
    )]);
    let Pair::Encrypted(pair) = &mesh.peers[&name("node-1")].pair else {
        panic!("{mesh:?}")
    };
    assert!(pair.endpoints.is_empty());
    assert_eq!(pair.lanes[0].port, 0);
}

#[test]
fn this_node_is_not_its_own_peer() {
    let mut own_node = plain(1);
    own_node.name = name("own");
    let mesh = mesh([own_node, plain(2)]);
    assert_eq!(peers(&mesh), ["node-2"]);
    assert!(mesh.refusals.is_empty());
}

#[test]
fn a_node_without_a_record_is_no_peer_and_takes_nothing() {
    let mut silent = plain(1);
    silent.annotations.clear();
    silent.pod_cidrs = vec![net("10.244.2.0/24")];
    assert_eq!(refusal(silent), Refusal::NoRecord);
}

#[test]
fn an_unreadable_record_rejects_that_node_alone() {
    let mut broken = plain(1);
    broken
        .annotations
        .insert(annotations::MODE.to_owned(), "off".to_owned());
    let reason = RecordError::NotAMode("off".to_owned());
    assert_eq!(refusal(broken), Refusal::Unparsable(reason));
}

#[test]
fn a_record_that_is_there_and_cannot_be_read_is_not_a_missing_one() {
    let mut unread = plain(1);
    unread.annotations.clear();
    unread.is_record_unread = true;
    assert_eq!(refusal(unread), Refusal::RecordUnread);
}

#[test]
fn a_claim_is_exactly_what_the_cluster_gave_the_node() {
    let mut unassigned = plain(1);
    unassigned.pod_cidrs.clear();
    assert_eq!(refusal(unassigned), Refusal::NoPodCidrs);
    for claimed in [
        &["10.244.3.0/24"][..],
        &["10.244.1.0/25"],
        &["10.244.1.0/24", "10.244.3.0/24"],
    ] {
        let mut other = claiming(claimed);
        other.pod_cidrs = vec![net("10.244.1.0/24")];
        let claimed = claimed.iter().map(|cidr| net(cidr)).collect();
        let spec = other.pod_cidrs.clone();
        assert_eq!(refusal(other), Refusal::NotSpecPodCidrs { claimed, spec });
    }
}

#[test]
fn the_order_of_pod_cidrs_does_not_matter() {
    let mut dual = claiming(&["10.244.1.0/24", "fd00:10:244:1::/64"]);
    dual.pod_cidrs.reverse();
    assert_eq!(peers(&mesh([dual])), ["node-1"]);
}

#[test]
fn a_default_route_is_refused() {
    for cidr in ["0.0.0.0/0", "::/0"] {
        assert_eq!(
            refusal(claiming(&[cidr])),
            Refusal::DefaultRoute { cidr: net(cidr) }
        );
    }
}

#[test]
fn a_claim_that_contains_its_own_or_this_nodes_address_is_refused() {
    for (cidr, inside, whose) in [
        ("192.0.2.1/32", "192.0.2.1", "node-1"),
        ("192.0.2.128/25", "192.0.2.200", "own"),
    ] {
        let expected = Refusal::ContainsNodeAddress {
            cidr: net(cidr),
            address: address(inside),
            node: name(whose),
        };
        assert_eq!(refusal(claiming(&[cidr])), expected);
    }
}

#[test]
fn a_claim_outside_the_clusters_cidrs_is_refused() {
    let cidr = net("10.245.1.0/24");
    assert_eq!(
        refusal(claiming(&["10.245.1.0/24"])),
        Refusal::OutsideClusterCidrs { cidr }
    );
    // Larger than the cluster: only a part of it would be guarded.
    let cidr = net("10.0.0.0/8");
    assert_eq!(
        refusal(claiming(&["10.0.0.0/8"])),
        Refusal::OutsideClusterCidrs { cidr }
    );
}

#[test]
fn an_endpoint_is_one_of_its_nodes_addresses_or_allowed() {
    let foreign = "192.0.2.2:51880";
    let endpoint = foreign.parse().expect("endpoint");
    assert_eq!(refusal(at(foreign)), Refusal::EndpointForeign { endpoint });
    let policy = Policy {
        endpoint_cidrs: vec![net("198.51.100.0/24")],
        ..policy()
    };
    let nodes = registry([at("198.51.100.9:51880"), plain(2)]);
    let mesh = desired_mesh(&nodes, &own(), &Incumbents::new(), &policy);
    assert_eq!(peers(&mesh), ["node-1", "node-2"]);
}

const NO_NODES: [&str; 10] = [
    "0.0.0.0",
    "127.0.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "169.254.1.1",
    "::",
    "::1",
    "ff02::1",
    "fe80::1",
    "::ffff:192.0.2.1",
];

#[test]
fn a_peer_is_reached_at_none_but_an_address_of_a_node() {
    let mut host_network = node(
        1,
        &Record {
            mode: Mode::HostNetwork,
            ..record(1)
        },
    );
    let unusable = NO_NODES.map(address);
    host_network.addresses.splice(0..0, unusable);
    let mesh = mesh([host_network]);
    let expected = [address("192.0.2.1")];
    assert_eq!(mesh.peers[&name("node-1")].addresses, expected);
}

#[test]
fn an_endpoint_at_which_no_node_can_be_is_refused_even_as_a_node_address() {
    for ip in NO_NODES {
        let endpoint = SocketAddr::new(address(ip), 51880);
        let mut claimant = node(
            1,
            &Record {
                endpoints: vec![endpoint],
                ..record(1)
            },
        );
        claimant.addresses.push(address(ip));
        assert_eq!(refusal(claimant), Refusal::EndpointUnusable { endpoint });
    }
    let endpoint = "10.244.9.1:51880".parse().expect("endpoint");
    let mut claimant = at("10.244.9.1:51880");
    claimant.addresses.push(address("10.244.9.1"));
    let cidr = net("10.244.0.0/16");
    assert_eq!(
        refusal(claimant),
        Refusal::EndpointInClusterCidrs { endpoint, cidr }
    );
}

#[test]
fn this_node_wins_over_an_older_claim_to_its_pods_or_keys() {
    for cidr in ["10.244.200.0/24", "10.244.200.128/25", "10.244.192.0/19"] {
        let other = net("10.244.200.0/24");
        let expected = Refusal::Overlap {
            cidr: net(cidr),
            other,
            node: name("own"),
        };
        assert_eq!(refusal(claiming(&[cidr])), expected);
    }
    for taken in [
        Record {
            current: keys(2000, &[]),
            ..record(1)
        },
        Record {
            current: keys(10, &[2001]),
            ..record(1)
        },
        Record {
            next: keys(2001, &[]),
            ..record(1)
        },
        Record {
            previous: keys(14, &[2000]),
            ..record(1)
        },
    ] {
        let reason = refusal(node(1, &taken));
        assert!(matches!(&reason, Refusal::KeyTaken { node, .. } if *node == own().name));
    }
}

#[test]
fn of_two_claims_without_a_handshake_the_older_nodes_stays() {
    let same_cidr = Record {
        pod_cidrs: vec![net("10.244.1.0/24")],
        ..record(2)
    };
    let wider = Record {
        pod_cidrs: vec![net("10.244.0.0/23")],
        ..record(2)
    };
    let narrower = Record {
        pod_cidrs: vec![net("10.244.1.64/26")],
        ..record(2)
    };
    for claim in [same_cidr, wider, narrower] {
        let mesh = mesh([plain(1), node(2, &claim)]);
        assert_eq!(peers(&mesh), ["node-1"]);
        let (cidr, other) = (claim.pod_cidrs[0], net("10.244.1.0/24"));
        let expected = Refusal::Overlap {
            cidr,
            other,
            node: name("node-1"),
        };
        assert_eq!(mesh.refusals[&name("node-2")], expected);
    }
    let same_key = Record {
        current: keys(10, &[]),
        ..record(2)
    };
    let mesh = mesh([plain(1), node(2, &same_key)]);
    assert_eq!(peers(&mesh), ["node-1"]);
    assert!(matches!(
        mesh.refusals[&name("node-2")],
        Refusal::KeyTaken { .. }
    ));
}

#[test]
fn nodes_of_one_second_are_told_apart_by_uid() {
    let mut first = plain(1);
    let mut second = node(
        2,
        &Record {
            pod_cidrs: first.pod_cidrs.clone(),
            ..record(2)
        },
    );
    second.created = first.created;
    assert_eq!(peers(&mesh([first.clone(), second.clone()])), ["node-1"]);
    first.uid = "uid-9".to_owned();
    assert_eq!(peers(&mesh([first, second])), ["node-2"]);
}

#[test]
fn the_incumbent_stays_also_when_the_claimant_is_the_older_node() {
    let overlapping = Record {
        pod_cidrs: vec![net("10.244.2.0/25")],
        ..record(1)
    };
    let same_key = Record {
        current: keys(20, &[]),
        ..record(1)
    };
    let same_lane = Record {
        current: keys(10, &[21]),
        ..record(1)
    };
    let announced = Record {
        next: keys(19, &[21]),
        ..record(1)
    };
    for claim in [overlapping, same_key, same_lane, announced] {
        let nodes = registry([node(1, &claim), plain(2)]);
        let undecided = desired_mesh(&nodes, &own(), &Incumbents::new(), &policy());
        assert!(peers(&undecided).contains(&"node-1"));
        let mesh = desired_mesh(&nodes, &own(), &confirmed(&[2]), &policy());
        assert_eq!(peers(&mesh), ["node-2"]);
        // An older incumbent that changes what it says about itself takes nothing from a younger
        // one.
        let mesh = desired_mesh(&nodes, &own(), &confirmed(&[1, 2]), &policy());
        assert_eq!(peers(&mesh), ["node-2"]);
    }
}

/// Node 1 is the older one and claims what a handshake has confirmed for node 2.
#[test]
fn an_incumbent_that_cannot_be_read_or_is_refused_keeps_what_it_holds() {
    let taking = [
        Record {
            pod_cidrs: vec![net("10.244.2.128/25")],
            ..record(1)
        },
        Record {
            current: keys(10, &[21]),
            ..record(1)
        },
    ];
    let mut unreadable = plain(2);
    unreadable
        .annotations
        .insert(annotations::POD_CIDRS.to_owned(), "garbage".to_owned());
    let mut refused = plain(2);
    refused.addresses.clear();
    let mut unread = plain(2);
    unread.annotations.clear();
    unread.is_record_unread = true;
    let seconds = [None, Some(unreadable), Some(refused), Some(unread)];
    for claim in taking {
        for second in seconds.clone() {
            let nodes = registry([node(1, &claim)].into_iter().chain(second));
            let mesh = desired_mesh(&nodes, &own(), &confirmed(&[2]), &policy());
            assert!(peers(&mesh).is_empty(), "{claim:?}");
            let taken = &mesh.refusals[&name("node-1")];
            assert!(taken.to_string().contains("node-2"), "{taken}");
        }
    }
}

#[test]
fn what_an_incumbent_gave_up_is_free() {
    let newcomer = Record {
        pod_cidrs: vec![net("10.244.2.0/24")],
        current: keys(70, &[21]),
        ..record(7)
    };
    let mut silent = plain(2);
    silent.annotations.clear();
    let moved = node(
        2,
        &Record {
            pod_cidrs: vec![net("10.244.9.0/24")],
            current: keys(20, &[29]),
            ..record(2)
        },
    );
    let mut taken_away = plain(2);
    taken_away.pod_cidrs = vec![net("10.244.9.0/24")];
    let only_cidr = Record {
        current: keys(70, &[]),
        ..newcomer.clone()
    };
    for (second, claim) in [
        (silent, &newcomer),
        (moved, &newcomer),
        (taken_away, &only_cidr),
    ] {
        let nodes = registry([node(7, claim), second]);
        let mesh = desired_mesh(&nodes, &own(), &confirmed(&[2]), &policy());
        assert!(
            mesh.peers.contains_key(&name("node-7")),
            "{:?}",
            mesh.refusals
        );
    }
}

/// What does not count of a node's keys, and who names it too.
fn contested<'a>(mesh: &'a DesiredMesh, node: &str) -> Vec<(KeySlot, &'a str)> {
    let found = mesh.contested.get(&name(node)).into_iter().flatten();
    found.map(|it| (it.slot, it.node.as_str())).collect()
}

#[test]
fn a_key_in_force_counts_before_one_that_is_announced_or_retired() {
    for (claim, slot) in [
        (
            Record {
                next: keys(29, &[11]),
                ..record(2)
            },
            KeySlot::Next,
        ),
        (
            Record {
                previous: keys(11, &[]),
                ..record(2)
            },
            KeySlot::Previous,
        ),
    ] {
        for created in [2, 0] {
            let mut second = node(2, &claim);
            second.created = created;
            let mesh = mesh([plain(1), second]);
            assert_eq!(peers(&mesh), ["node-1", "node-2"]);
            assert_eq!(contested(&mesh, "node-2"), [(slot, "node-1")]);
            assert_eq!(mesh.contested.len(), 1);
        }
    }
}

/// Node 1 is the older one and copies a key that node 2 announces or retires.
#[test]
fn whoever_copies_a_key_that_is_announced_or_retired_harms_no_pair_and_does_not_get_it() {
    let beside = |number, next, previous| Record {
        next,
        previous,
        ..record(number)
    };
    let announcing = beside(2, keys(90, &[91]), None);
    let retiring = beside(2, None, keys(91, &[]));
    for (second, slot) in [(announcing, KeySlot::Next), (retiring, KeySlot::Previous)] {
        for (copy, copied_to) in [
            (beside(1, keys(91, &[]), None), KeySlot::Next),
            (beside(1, keys(80, &[91]), None), KeySlot::Next),
            (beside(1, None, keys(91, &[])), KeySlot::Previous),
        ] {
            for handshakes in [&[][..], &[1, 2]] {
                let nodes = registry([node(1, &copy), node(2, &second)]);
                let mesh = desired_mesh(&nodes, &own(), &confirmed(handshakes), &policy());
                assert_eq!(peers(&mesh), ["node-1", "node-2"]);
                assert_eq!(contested(&mesh, "node-1"), [(copied_to, "node-2")]);
                assert_eq!(contested(&mesh, "node-2"), [(slot, "node-1")]);
            }
        }
    }
    // It is node 2's once it uses it.
    let promoted = Record {
        current: keys(90, &[91]),
        ..beside(2, None, keys(20, &[21]))
    };
    let copy = beside(1, keys(91, &[]), None);
    let nodes = registry([node(1, &copy), node(2, &promoted)]);
    let mesh = desired_mesh(&nodes, &own(), &confirmed(&[1, 2]), &policy());
    assert_eq!(peers(&mesh), ["node-1", "node-2"]);
    assert_eq!(contested(&mesh, "node-1"), [(KeySlot::Next, "node-2")]);
    assert!(contested(&mesh, "node-2").is_empty());
}

#[test]
fn a_key_that_incumbents_announce_is_no_newcomers() {
    let announcing = |number| {
        let next = keys(90, &[]);
        node(
            number,
            &Record {
                next,
                ..record(number)
            },
        )
    };
    let newcomer = Record {
        current: keys(70, &[90]),
        ..record(7)
    };
    for incumbents in [&[2][..], &[2, 3]] {
        let known = incumbents.iter().copied().map(announcing);
        let nodes = registry(known.chain([node(7, &newcomer)]));
        let mesh = desired_mesh(&nodes, &own(), &confirmed(incumbents), &policy());
        assert_eq!(mesh.peers.len(), incumbents.len());
        let refused = &mesh.refusals[&name("node-7")];
        assert!(matches!(refused, Refusal::KeyTaken { node, .. } if *node == name("node-2")));
    }
}

#[test]
fn of_two_incumbents_with_one_confirmed_key_the_older_keeps_it() {
    let same_key = Record {
        current: keys(20, &[]),
        ..record(1)
    };
    let mut incumbents = confirmed(&[2]);
    let mut other = incumbents[&name("node-2")].clone();
    other.uid = "uid-1".to_owned();
    incumbents.insert(name("node-1"), other);
    let nodes = registry([node(1, &same_key), plain(2)]);
    let mesh = desired_mesh(&nodes, &own(), &incumbents, &policy());
    assert_eq!(peers(&mesh), ["node-1"]);
}

#[test]
fn a_node_created_again_or_with_another_key_is_no_incumbent() {
    let claim = Record {
        pod_cidrs: vec![net("10.244.2.0/24")],
        ..record(1)
    };
    let mut again = plain(2);
    again.uid = "another".to_owned();
    let rekeyed = node(
        2,
        &Record {
            current: keys(28, &[]),
            ..record(2)
        },
    );
    for second in [again, rekeyed] {
        let nodes = registry([node(1, &claim), second]);
        let mesh = desired_mesh(&nodes, &own(), &confirmed(&[2]), &policy());
        assert_eq!(peers(&mesh), ["node-1"]);
    }
}

#[test]
fn an_incumbent_that_promoted_its_next_key_stays_one() {
    let claim = Record {
        pod_cidrs: vec![net("10.244.2.0/24")],
        ..record(1)
    };
    let promoted = Record {
        current: keys(28, &[29]),
        previous: keys(20, &[21]),
        ..record(2)
    };
    let nodes = registry([node(1, &claim), node(2, &promoted)]);
    let mesh = desired_mesh(&nodes, &own(), &confirmed(&[2]), &policy());
    assert_eq!(peers(&mesh), ["node-2"]);
}

#[test]
fn an_incumbent_that_a_handshake_confirmed_by_its_next_key_is_one() {
    let claim = Record {
        pod_cidrs: vec![net("10.244.2.0/24")],
        ..record(1)
    };
    let announcing = Record {
        current: keys(28, &[29]),
        next: keys(20, &[21]),
        ..record(2)
    };
    let nodes = registry([node(1, &claim), node(2, &announcing)]);
    let mesh = desired_mesh(&nodes, &own(), &confirmed(&[2]), &policy());
    assert_eq!(peers(&mesh), ["node-2"]);
}

/// The pair of the only peer.
fn only_pair(claim: &Record) -> EncryptedPair {
    let mesh = mesh([node(2, claim)]);
    let Pair::Encrypted(pair) = &mesh.peers[&name("node-2")].pair else {
        panic!("both are encrypted");
    };
    pair.clone()
}

#[test]
fn a_pair_has_the_keys_that_a_rotation_names_beside_those_in_force() {
    let plain = only_pair(&record(2));
    assert!(plain.next.is_empty() && plain.previous.is_empty() && !plain.is_revoked);
    let phase = |text: &str| Some(text.to_owned());
    let announced = only_pair(&Record {
        next: keys(30, &[31]),
        rotation_phase: phase("announced"),
        ..record(2)
    });
    let lane = |port, number| Lane {
        port,
        key: key(number),
    };
    assert_eq!(announced.lanes, plain.lanes);
    assert_eq!(announced.next, [lane(51880, 30), lane(51881, 31)]);
    let promoted = only_pair(&Record {
        previous: keys(30, &[]),
        rotation_phase: phase("promoted confirmed=1/1"),
        ..record(2)
    });
    assert_eq!(promoted.previous, [lane(51880, 30)]);
    assert!(promoted.next.is_empty() && !promoted.is_revoked);
    let revoked = only_pair(&Record {
        rotation_phase: phase("revoked"),
        ..record(2)
    });
    assert!(revoked.is_revoked);
}

#[test]
fn keys_that_do_not_count_are_in_no_pair() {
    let announced = Record {
        next: keys(30, &[11]),
        previous: keys(31, &[]),
        ..record(2)
    };
    let mesh = mesh([plain(1), node(2, &announced)]);
    assert_eq!(contested(&mesh, "node-2"), [(KeySlot::Next, "node-1")]);
    let Pair::Encrypted(pair) = &mesh.peers[&name("node-2")].pair else {
        panic!("both are encrypted");
    };
    assert!(pair.next.is_empty());
    assert_eq!(pair.previous.len(), 1);
}

#[test]
fn a_refused_claim_displaces_nobody() {
    // Node 1 is the oldest and overlaps node 2, which overlaps node 3: without node 1, node 2
    // stays; with it, node 2 goes and node 3 stays; with node 1 refused for its endpoint, node 2
    // stays.
    let cidr = |number, text| Record {
        pod_cidrs: vec![net(text)],
        ..record(number)
    };
    let first = cidr(1, "10.244.0.0/23");
    let second = node(2, &cidr(2, "10.244.0.0/22"));
    let third = node(3, &cidr(3, "10.244.3.0/24"));
    let chain = [node(1, &first), second.clone(), third.clone()];
    assert_eq!(peers(&mesh(chain)), ["node-1", "node-3"]);
    assert_eq!(peers(&mesh([second.clone(), third.clone()])), ["node-2"]);
    let endpoints = vec!["192.0.2.99:51880".parse().expect("endpoint")];
    let refused = node(1, &Record { endpoints, ..first });
    assert_eq!(peers(&mesh([refused, second, third])), ["node-2"]);
}

#[test]
fn a_node_that_names_an_address_of_pods_as_its_own_is_refused_and_nobody_else() {
    for (inside, cidr) in [
        ("10.244.2.9", "10.244.0.0/16"),
        ("10.244.250.1", "10.244.0.0/16"),
        ("fd00:10:244::1", "fd00:10:244::/48"),
    ] {
        let mut liar = plain(1);
        liar.addresses.push(address(inside));
        let (address, cidr) = (address(inside), net(cidr));
        let expected = Refusal::AddressInPodCidrs { address, cidr };
        assert_eq!(refusal(liar.clone()), expected);
        // Nor does it without a record, which nothing is checked of.
        liar.annotations.clear();
        assert_eq!(refusal(liar), Refusal::NoRecord);
    }
}

#[test]
fn no_node_address_lies_in_own_pods_outside_the_clusters_cidrs() {
    let own = OwnNode {
        pod_cidrs: vec![net("192.0.2.0/30")],
        ..own()
    };
    let nodes = registry([plain(1), plain(4)]);
    let mesh = desired_mesh(&nodes, &own, &Incumbents::new(), &policy());
    assert_eq!(peers(&mesh), ["node-4"]);
}

#[test]
fn a_host_network_node_obeys_the_same_rules() {
    let claim = Record {
        mode: Mode::HostNetwork,
        current: None,
        endpoints: Vec::new(),
        pod_cidrs: vec![net("10.244.2.0/24")],
        ..record(3)
    };
    let mesh = mesh([node(3, &claim), plain(2)]);
    assert_eq!(peers(&mesh), ["node-2"]);
    assert!(matches!(
        mesh.refusals[&name("node-3")],
        Refusal::Overlap { .. }
    ));
}

#[test]
fn every_refusal_is_one_line_that_names_its_object() {
    let mut claimants = vec![
        claiming(&["0.0.0.0/0"]),
        claiming(&["192.0.2.0/31"]),
        claiming(&["10.245.1.0/24"]),
        claiming(&["10.244.200.0/24"]),
        at("192.0.2.9:1"),
        at("127.0.0.1:1"),
    ];
    let mut broken = plain(1);
    broken
        .annotations
        .insert(annotations::POD_CIDRS.to_owned(), "\n".repeat(1000));
    claimants.push(broken);
    let contested = Contested {
        slot: KeySlot::Previous,
        key: key(1),
        node: name("node-2"),
    };
    let texts = claimants.into_iter().map(|it| refusal(it).to_string());
    for text in texts.chain([contested.to_string()]) {
        assert!(
            !text.contains('\n') && !text.contains("  ") && text.len() < 400,
            "{text}"
        );
        assert!(text.contains(['/', ':']), "{text}");
    }
}

#[test]
fn five_thousand_nodes_are_decided_and_the_time_is_printed() {
    let nodes = registry((0..5_000_u32).map(|number| {
        let (high, low) = (number / 250, number % 250);
        let record = Record {
            pod_cidrs: vec![
                net(&format!("10.{}.{low}.0/24", 100 + high)),
                net(&format!("fd00:10:244:{number:x}::/64")),
            ],
            endpoints: vec![SocketAddr::new(
                address(&format!("198.18.{high}.{low}")),
                51880,
            )],
            current: keys(number * 2, &[number * 2 + 1]),
            ..record(1)
        };
        let mut node = node(1, &record);
        node.name = name(&format!("node-{number}"));
        node.uid = format!("uid-{number}");
        node.addresses = vec![record.endpoints[0].ip()];
        node
    }));
    let own = OwnNode {
        pod_cidrs: vec![net("10.99.0.0/24")],
        public_keys: vec![key(1_000_000)],
        ..own()
    };
    let cluster_cidrs = vec![net("10.64.0.0/10"), net("fd00:10:244::/48")];
    let policy = Policy {
        cluster_cidrs,
        ..policy()
    };
    let start = Instant::now();
    let mesh = desired_mesh(&nodes, &own, &Incumbents::new(), &policy);
    println!(
        "desired_mesh of 5,000 nodes, two lanes, dual stack: {:?}",
        start.elapsed()
    );
    assert_eq!((mesh.peers.len(), mesh.refusals.len()), (5_000, 0));
}

mod properties;
