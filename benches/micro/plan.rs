//! From what the registry says to changes of the kernel's state, in the largest cluster that
//! Kubernetes supports.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use criterion::Criterion;
use ipnet::{IpNet, Ipv4Net};
use podwire_core::desired_kernel::{DeviceOptions, desired_kernel};
use podwire_core::kernel::{Kernel, Path, Underlay};
use podwire_core::key::PrivateKey;
use podwire_core::mesh::{HostNetworkPeers, Incumbents, OwnNode, Policy, desired_mesh};
use podwire_core::node::{Node, NodeName};
use podwire_core::plan::plan;
use podwire_core::record::{LaneKeys, Mode, Record};
use zeroize::Zeroizing;

/// Kubernetes: "no more than 5,000 nodes".
const PEERS: u32 = 5_000;

const PORT: u16 = 51880;

const DEVICE: DeviceOptions<'_> = DeviceOptions {
    name: "podwire0",
    transmit_queue_length: 1000,
    usable: true,
};

pub(super) fn benches(criterion: &mut Criterion) {
    let nodes: BTreeMap<NodeName, Arc<Node>> = (1..=PEERS)
        .map(|number| {
            let node = node(number);
            (node.name.clone(), Arc::new(node))
        })
        .collect();
    let (own, policy) = (own(), policy());
    let incumbents = Incumbents::new();
    let underlay = underlay(&nodes);
    let links = BTreeSet::from(["eth0".to_owned()]);
    let mesh = desired_mesh(&nodes, &own, &incumbents, &policy);
    assert_eq!(mesh.peers.len(), PEERS as usize, "{:?}", mesh.refusals);
    let desired = desired_kernel(&mesh, &underlay, &links, DEVICE).kernel;

    let mut group = criterion.benchmark_group(format!("{PEERS} peers"));
    group.sample_size(20);
    group.bench_function("desired mesh", |bencher| {
        bencher.iter(|| desired_mesh(black_box(&nodes), &own, &incumbents, &policy));
    });
    group.bench_function("desired kernel", |bencher| {
        bencher.iter(|| desired_kernel(black_box(&mesh), &underlay, &links, DEVICE));
    });
    group.bench_function("plan, nothing there", |bencher| {
        bencher.iter(|| plan(black_box(&Kernel::default()), &desired));
    });
    group.bench_function("plan, all there", |bencher| {
        bencher.iter(|| plan(black_box(&desired), &desired));
    });
    group.finish();
}

/// The `number`th node of the cluster, as its agent has published it.
pub(super) fn node(number: u32) -> Node {
    let address = node_address(number);
    let record = Record {
        mode: Mode::Encrypted,
        pod_cidrs: vec![pod_cidr(number)],
        endpoints: vec![SocketAddr::new(address, PORT)],
        current: Some(LaneKeys {
            public_key: key(number).public_key(),
            lanes: Vec::new(),
        }),
        next: None,
        previous: None,
        key_generation: 1,
        key_created: None,
        rotation_phase: None,
        epoch: 0,
    };
    Node {
        name: format!("node-{number}").parse().expect("a name"),
        uid: format!("uid-{number}"),
        created: 0,
        pod_cidrs: vec![pod_cidr(number)],
        addresses: vec![address],
        annotations: record.to_annotations(),
        is_record_unread: false,
    }
}

fn own() -> OwnNode {
    OwnNode {
        name: "node-0".parse().expect("a name"),
        mode: Mode::Encrypted,
        pod_cidrs: vec![pod_cidr(0)],
        addresses: vec![node_address(0)],
        public_keys: vec![key(0).public_key()],
    }
}

fn policy() -> Policy {
    Policy {
        cluster_cidrs: vec!["10.0.0.0/8".parse().expect("a network")],
        host_network_peers: HostNetworkPeers::Refuse,
        endpoint_cidrs: Vec::new(),
    }
}

/// All nodes on one link.
fn underlay(nodes: &BTreeMap<NodeName, Arc<Node>>) -> Underlay {
    let addresses = nodes.values().flat_map(|node| &node.addresses);
    let path = |address: &IpAddr| {
        let path = Path {
            link: "eth0".to_owned(),
            link_index: 2,
            on_link: true,
            mtu: 1500,
            in_use: false,
        };
        (*address, path)
    };
    addresses.map(path).collect()
}

fn key(number: u32) -> PrivateKey {
    let mut bytes = [1; 32];
    bytes[8..12].copy_from_slice(&number.to_le_bytes());
    PrivateKey::from_random(Zeroizing::new(bytes))
}

fn pod_cidr(number: u32) -> IpNet {
    let first = u32::from(Ipv4Addr::new(10, 0, 0, 0)) + (number << 8);
    Ipv4Net::new(first.into(), 24)
        .expect("24 is a length of a prefix")
        .into()
}

fn node_address(number: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 1)) + number).into()
}
