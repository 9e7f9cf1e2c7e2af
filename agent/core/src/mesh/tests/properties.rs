use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// What a node may say in a small world, in which nearly everything collides.
#[derive(Clone, Debug)]
struct Claim {
    number: u8,
    uid: u8,
    created: i64,
    cidr: usize,
    own_cidr: bool,
    addresses: Vec<usize>,
    keys: (u32, Option<u32>, Option<u32>, Option<u32>),
    host_network: bool,
    confirmed: Option<u32>,
}

const CIDRS: [&str; 9] = [
    "10.244.0.0/16",
    "10.244.0.0/22",
    "10.244.0.0/24",
    "10.244.1.0/24",
    "10.244.2.0/23",
    "10.244.3.0/25",
    "10.244.200.0/24",
    "fd00:10:244:1::/64",
    "fd00:10:244:1:8000::/65",
];

const ADDRESSES: [&str; 6] = [
    "192.0.2.1",
    "192.0.2.2",
    "192.0.2.3",
    "10.244.1.9",
    "10.244.3.1",
    "fd00:10:244:1::9",
];

fn claim() -> impl Strategy<Value = Claim> {
    (
        (0_u8..7, 0_u8..3, 0_i64..3),
        (0..CIDRS.len(), proptest::bool::weighted(0.6)),
        proptest::collection::vec(0..ADDRESSES.len() * 4, 0..2),
        (
            0_u32..10,
            proptest::option::of(0_u32..10),
            proptest::option::of(0_u32..10),
            proptest::option::weighted(0.2, 0_u32..10),
        ),
        proptest::bool::weighted(0.2),
        proptest::option::of(0_u32..10),
    )
        .prop_map(
            |((number, uid, created), (cidr, own_cidr), addresses, keys, mode, confirmed)| Claim {
                number,
                uid,
                created,
                cidr,
                own_cidr,
                addresses,
                keys,
                host_network: mode,
                confirmed,
            },
        )
}

impl Claim {
    fn node(&self) -> Node {
        let cidr = if self.own_cidr {
            net(&format!("10.244.{}.0/24", 100 + self.number))
        } else {
            net(CIDRS[self.cidr])
        };
        let (current, other, next, previous) = self.keys;
        let record = Record {
            mode: if self.host_network {
                Mode::HostNetwork
            } else {
                Mode::Encrypted
            },
            pod_cidrs: vec![cidr],
            endpoints: Vec::new(),
            current: keys(current, other.as_slice()),
            next: next.and_then(|next| keys(next, &[])),
            previous: previous.and_then(|previous| keys(previous, &[])),
            ..record(1)
        };
        // Mostly none: a node address in a pod CIDR is rare.
        let addresses = self
            .addresses
            .iter()
            .filter_map(|index| ADDRESSES.get(*index));
        Node {
            name: name(&format!("node-{}", self.number)),
            uid: format!("uid-{}-{}", self.number, self.uid),
            created: self.created,
            pod_cidrs: vec![cidr],
            addresses: addresses.map(|text| address(text)).collect(),
            annotations: record.to_annotations(),
            is_record_unread: false,
        }
    }

    fn incumbent(&self) -> Option<(NodeName, Incumbent)> {
        let node = self.node();
        let other_lanes = self.keys.1.map(key).into_iter().collect();
        let public_key = key(self.confirmed?);
        Some((
            node.name,
            Incumbent {
                uid: node.uid,
                public_key,
                other_lanes,
                pod_cidrs: node.pod_cidrs,
            },
        ))
    }
}

/// The peers by what is in force, without what a rotation names beside it.
fn in_force(mesh: &DesiredMesh) -> BTreeMap<NodeName, Peer> {
    let mut peers = mesh.peers.clone();
    for peer in peers.values_mut() {
        if let Pair::Encrypted(pair) = &mut peer.pair {
            pair.next.clear();
            pair.previous.clear();
        }
    }
    peers
}

/// No two nodes of the mesh, this one included, own one address or one key, and none has a node
/// inside.
fn assert_exclusive(
    mesh: &DesiredMesh,
    nodes: &BTreeMap<NodeName, Arc<Node>>,
) -> Result<(), TestCaseError> {
    let own_cidrs = mesh
        .own
        .pod_cidrs
        .iter()
        .map(|cidr| (&mesh.own.name, *cidr));
    let peer_cidrs = mesh
        .peers
        .iter()
        .flat_map(|(n, peer)| peer.pod_cidrs.iter().map(move |cidr| (n, *cidr)));
    let cidrs: Vec<(&NodeName, IpNet)> = own_cidrs.chain(peer_cidrs).collect();
    for (index, (one, cidr)) in cidrs.iter().enumerate() {
        for (other, other_cidr) in &cidrs[index + 1..] {
            let overlap = cidr.contains(other_cidr) || other_cidr.contains(cidr);
            prop_assert!(!overlap, "{one} {cidr} and {other} {other_cidr}");
        }
        let accepted = mesh.peers.values().flat_map(|peer| &peer.addresses);
        for address in accepted.chain(&mesh.own.addresses) {
            prop_assert!(
                !cidr.contains(address),
                "{cidr} of {one} contains {address}"
            );
        }
    }
    let mut owners: BTreeMap<PublicKey, &NodeName> = mesh
        .own
        .public_keys
        .iter()
        .map(|key| (*key, &mesh.own.name))
        .collect();
    for node in mesh.peers.keys() {
        let parsed = annotations::parse(&nodes[node].annotations);
        let Ok(Some(record)) = parsed else {
            panic!("a peer without a record: {parsed:?}")
        };
        let counts = |slot| {
            let mut found = mesh.contested.get(node).into_iter().flatten();
            !found.any(|contested| contested.slot == slot)
        };
        let beside = [
            record.next.filter(|_| counts(KeySlot::Next)),
            record.previous.filter(|_| counts(KeySlot::Previous)),
        ];
        let counting = beside.iter().chain([&record.current]).flatten();
        let unique: BTreeSet<PublicKey> = counting.flat_map(LaneKeys::keys).collect();
        for key in unique {
            prop_assert!(
                owners.insert(key, node).is_none(),
                "{key} of {node} is another's"
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_history_of_records_makes_two_nodes_own_one_address_or_key(
        history in proptest::collection::vec((claim(), any::<bool>()), 1..25),
    ) {
        let (mut nodes, mut incumbents) = (BTreeMap::new(), Incumbents::new());
        for (claim, removed) in history {
            let node = claim.node();
            if removed {
                nodes.remove(&node.name);
            } else {
                nodes.insert(node.name.clone(), Arc::new(node));
            }
            incumbents.extend(claim.incumbent());
            let mesh = desired_mesh(&nodes, &own(), &incumbents, &policy());
            prop_assert_eq!(mesh.peers.len() + mesh.refusals.len(), nodes.len());
            assert_exclusive(&mesh, &nodes)?;
        }
    }

    #[test]
    fn the_accepted_mesh_does_not_depend_on_the_order_of_its_input(
        claims in proptest::collection::vec(claim(), 1..12),
        seed in proptest::collection::vec(any::<u16>(), 12),
    ) {
        let nodes: BTreeMap<NodeName, Node> =
            claims.iter().map(|claim| (claim.node().name, claim.node())).collect();
        let incumbents: Incumbents = claims.iter().filter_map(Claim::incumbent).collect();
        let (own, policy) = (own(), policy());
        let mut shuffled: Vec<(&u16, &Node)> = seed.iter().zip(nodes.values()).collect();
        shuffled.sort_by_key(|(seed, _)| **seed);
        let one = claim::decide(nodes.values(), &own, &incumbents, &policy);
        let shuffled = shuffled.into_iter().map(|(_, node)| node);
        let other = claim::decide(shuffled, &own, &incumbents, &policy);
        prop_assert_eq!(one.accepted, other.accepted);
        prop_assert_eq!(one.refused, other.refused);
    }

    #[test]
    fn a_refused_claim_changes_nothing_for_the_others(
        claims in proptest::collection::vec(claim(), 1..12),
    ) {
        let nodes = registry(claims.iter().map(Claim::node));
        let incumbents: Incumbents = claims.iter().filter_map(Claim::incumbent).collect();
        let before = desired_mesh(&nodes, &own(), &incumbents, &policy());
        // What a handshake confirmed stays its node's own, even while that node is refused.
        for refused in before.refusals.keys().filter(|name| !incumbents.contains_key(*name)) {
            let mut without = nodes.clone();
            let mut silent = Node::clone(&nodes[refused]);
            silent.annotations.clear();
            without.insert(refused.clone(), Arc::new(silent));
            let mut after = desired_mesh(&without, &own(), &incumbents, &policy());
            after.refusals.insert(refused.clone(), before.refusals[refused].clone());
            prop_assert_eq!(&after, &before, "without {}", refused);
        }
    }

    #[test]
    fn naming_a_key_beside_the_one_in_force_costs_nobody_its_place(
        claims in proptest::collection::vec(claim(), 2..12),
        key_number in 0_u32..10,
        copier in any::<proptest::sample::Index>(),
        is_next in any::<bool>(),
    ) {
        let mut nodes = registry(claims.iter().map(Claim::node));
        let incumbents: Incumbents = claims.iter().filter_map(Claim::incumbent).collect();
        let before = desired_mesh(&nodes, &own(), &incumbents, &policy());
        let confirmed = |it: &Incumbent| {
            it.public_key == key(key_number) || it.other_lanes.contains(&key(key_number))
        };
        prop_assume!(!before.peers.is_empty() && !incumbents.values().any(confirmed));
        let name = before.peers.keys().nth(copier.index(before.peers.len())).expect("one");
        let mut node = Node::clone(&nodes[name]);
        let mut record = annotations::parse(&node.annotations).expect("valid").expect("there");
        // A slot that is in use frees what it held, and a confirmed key in it makes an incumbent.
        let slot = if is_next { &mut record.next } else { &mut record.previous };
        prop_assume!(slot.is_none());
        *slot = keys(key_number, &[]);
        // What an incumbent names is no newcomer's: nobody has reached that one yet.
        let has_in_force = |it: &&NodeName| {
            let record = annotations::parse(&nodes[*it].annotations).expect("valid");
            let keys = record.and_then(|record| record.current);
            keys.is_some_and(|keys| keys.keys().any(|it| it == key(key_number)))
        };
        let mut others = before.peers.keys().filter(|it| *it != name);
        prop_assume!(!incumbents.contains_key(name) || !others.any(|it| has_in_force(&it)));
        node.annotations = record.to_annotations();
        // A key of two lanes makes no record.
        prop_assume!(annotations::parse(&node.annotations) == Ok(Some(record)));
        nodes.insert(name.clone(), Arc::new(node));
        let after = desired_mesh(&nodes, &own(), &incumbents, &policy());
        let (after, before) = (in_force(&after), in_force(&before));
        prop_assert_eq!(after, before, "{} names {}", name, key_number);
    }

    #[test]
    fn a_change_of_one_node_changes_only_its_own_entry(
        count in 2_u8..12,
        changed in any::<proptest::sample::Index>(),
        change in 0..5,
    ) {
        let nodes = registry((1..=count).map(plain));
        let before = desired_mesh(&nodes, &own(), &Incumbents::new(), &policy());
        let number = u8::try_from(changed.index(usize::from(count))).expect("small") + 1;
        let old = record(number);
        let new = match change {
            0 => Record { epoch: 1, ..old },
            1 => Record { current: keys(900, &[901]), key_generation: 2, ..old },
            2 => Record { mode: Mode::HostNetwork, ..old },
            3 => Record { pod_cidrs: vec![net("10.244.199.0/24")], ..old },
            _ => Record { endpoints: vec![], ..old },
        };
        let mut nodes = nodes;
        let node = node(number, &new);
        let name = node.name.clone();
        nodes.insert(name.clone(), Arc::new(node));
        let mut after = desired_mesh(&nodes, &own(), &Incumbents::new(), &policy());
        prop_assert_ne!(&after.peers[&name], &before.peers[&name]);
        after.peers.insert(name.clone(), before.peers[&name].clone());
        prop_assert_eq!(after, before);
    }
}
