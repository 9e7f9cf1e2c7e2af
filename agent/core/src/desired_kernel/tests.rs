use std::net::SocketAddr;

use super::*;
use crate::kernel::{METRIC, METRIC_UNREACHABLE};
use crate::key::PublicKey;
use crate::mesh::{ClosedReason, HostNetworkPeers, Policy};
use crate::record::Lane;

const DEVICE: DeviceOptions<'_> = DeviceOptions {
    name: "podwire0",
    transmit_queue_length: 1000,
    usable: true,
};

fn name(text: &str) -> NodeName {
    text.parse().expect("name")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("cidr")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn encrypted(endpoints: &[&str]) -> Pair {
    let key = PublicKey::from_bytes([1; 32]).expect("not zero");
    let endpoints: Vec<SocketAddr> = endpoints
        .iter()
        .map(|text| text.parse().expect("endpoint"))
        .collect();
    let lanes = vec![Lane { port: 51880, key }];
    Pair::Encrypted(EncryptedPair {
        endpoints,
        lanes,
        next: Vec::new(),
        previous: Vec::new(),
        is_revoked: false,
        key_generation: 1,
        epoch: 0,
    })
}

fn peer(cidrs: &[&str], addresses: &[&str], pair: Pair) -> Peer {
    Peer {
        uid: "uid".to_owned(),
        pod_cidrs: cidrs.iter().map(|text| net(text)).collect(),
        addresses: addresses.iter().map(|text| address(text)).collect(),
        pair,
    }
}

fn mesh(peers: impl IntoIterator<Item = (&'static str, Peer)>) -> DesiredMesh {
    DesiredMesh {
        own: OwnNode {
            name: name("own"),
            mode: Mode::Encrypted,
            pod_cidrs: vec![net("10.244.1.0/24"), net("fd00:10:244:1::/64")],
            addresses: vec![address("192.0.2.1")],
            public_keys: Vec::new(),
        },
        policy: Policy {
            cluster_cidrs: vec![net("10.244.0.0/16"), net("fd00:10:244::/48")],
            host_network_peers: HostNetworkPeers::Allow,
            endpoint_cidrs: Vec::new(),
        },
        peers: peers
            .into_iter()
            .map(|(text, peer)| (name(text), peer))
            .collect(),
        contested: BTreeMap::new(),
        refusals: BTreeMap::new(),
    }
}

fn underlay(paths: &[(&str, &str, bool, u32)]) -> Underlay {
    let path = |(to, link, on_link, mtu): &(&str, &str, bool, u32)| {
        let link = (*link).to_owned();
        (
            address(to),
            Path {
                link,
                link_index: 2,
                on_link: *on_link,
                mtu: *mtu,
                in_use: false,
            },
        )
    };
    paths.iter().map(path).collect()
}

fn links() -> BTreeSet<String> {
    ["eth0".to_owned()].into()
}

fn traffic(desired: &DesiredKernel) -> Vec<(String, &RouteAction)> {
    let of = |table| {
        let routes = desired.kernel.routes.iter();
        routes.filter(move |(key, _)| key.metric == METRIC && key.table == table)
    };
    assert!(
        of(Table::Main)
            .map(|(key, action)| (key.destination, action))
            .eq(of(Table::Peers).map(|(key, action)| (key.destination, action))),
        "the two tables differ"
    );
    of(Table::Peers)
        .map(|(key, action)| (key.destination.to_string(), action))
        .collect()
}

fn unreachable(desired: &DesiredKernel) -> Vec<String> {
    let routes = desired
        .kernel
        .routes
        .iter()
        .filter(|(key, _)| key.metric == METRIC_UNREACHABLE);
    routes
        .map(|(key, action)| {
            assert_eq!(action, &RouteAction::Unreachable);
            assert_eq!(key.table, Table::Main);
            key.destination.to_string()
        })
        .collect()
}

fn guard(desired: &DesiredKernel) -> &GuardTable {
    match &desired.kernel.guard {
        Guard::Installed(table) => table,
        Guard::Missing | Guard::Altered => panic!("the guard is always there"),
    }
}

#[test]
fn own_pods_are_looked_up_in_the_main_table_and_the_clusters_in_the_peers_or_nowhere() {
    let desired = desired_kernel(&mesh([]), &Underlay::new(), &links(), DEVICE);
    let rules: Vec<String> = desired
        .kernel
        .rules
        .iter()
        .map(|rule| format!("{rule} {:?}", rule.action))
        .collect();
    assert_eq!(
        rules,
        [
            "rule 119 to 10.244.1.0/24 LookupMain",
            "rule 119 to fd00:10:244:1::/64 LookupMain",
            "rule 120 to 10.244.0.0/16 LookupPeers",
            "rule 120 to fd00:10:244::/48 LookupPeers",
            "rule 121 to 10.244.0.0/16 Refuse",
            "rule 121 to fd00:10:244::/48 Refuse",
        ]
    );
}

#[test]
fn there_is_no_rule_until_the_own_pods_are_known() {
    let mut mesh = mesh([]);
    mesh.own.pod_cidrs.clear();
    let desired = desired_kernel(&mesh, &Underlay::new(), &links(), DEVICE);
    assert_eq!(desired.kernel.rules, BTreeSet::new());
    assert!(!desired.kernel.routes.is_empty(), "the covers");
}

#[test]
fn an_encrypted_peer_is_reached_by_the_device_with_an_own_source_and_the_paths_mtu() {
    let mesh = mesh([(
        "node-2",
        peer(
            &["10.244.2.0/24", "fd00:10:244:2::/64"],
            &["192.0.2.2"],
            encrypted(&["[2001:db8::2]:51880", "192.0.2.2:51880"]),
        ),
    )]);
    let underlay = underlay(&[("192.0.2.2", "eth0", true, 1500)]);
    let desired = desired_kernel(&mesh, &underlay, &links(), DEVICE);
    // The first endpoint has no path: the second one's counts.
    let (ipv4, ipv6) = (
        address("10.244.1.0"),
        address("fd00:10:244:1:ffff:ffff:ffff:ffff"),
    );
    assert_eq!(
        traffic(&desired),
        [
            (
                "10.244.2.0/24".to_owned(),
                &RouteAction::Device {
                    source: ipv4,
                    mtu: 1440
                }
            ),
            (
                "fd00:10:244:2::/64".to_owned(),
                &RouteAction::Device {
                    source: ipv6,
                    mtu: 1440
                }
            ),
        ]
    );
    let device = Device {
        mtu: 1440,
        up: true,
        transmit_queue_length: 1000,
        fixed_settings: true,
    };
    assert_eq!(desired.kernel.device, Some(device));
    let addresses = BTreeSet::from([IpNet::from(ipv4), IpNet::from(ipv6)]);
    assert_eq!(desired.kernel.addresses, addresses);
    assert_eq!(guard(&desired).host_network_cidrs, BTreeSet::new());
    assert_eq!(guard(&desired).underlay_links, links());
    assert!(desired.unroutable.is_empty());
}

#[test]
fn each_path_has_its_own_mtu_and_one_without_a_path_the_smallest_known() {
    let mesh = mesh([
        (
            "a",
            peer(&["10.244.2.0/24"], &[], encrypted(&["192.0.2.2:1"])),
        ),
        (
            "b",
            peer(&["10.244.3.0/24"], &[], encrypted(&["[2001:db8::3]:1"])),
        ),
        (
            "c",
            peer(&["10.244.4.0/24"], &[], encrypted(&["192.0.2.4:1"])),
        ),
        ("d", peer(&["10.244.5.0/24"], &[], encrypted(&[]))),
    ]);
    let source = address("10.244.1.0");
    let mtus = |paths: &[_]| -> Vec<u32> {
        let desired = desired_kernel(&mesh, &underlay(paths), &links(), DEVICE);
        let mtus = traffic(&desired)
            .into_iter()
            .map(|(_, action)| match action {
                RouteAction::Device { source: s, mtu } if *s == source => *mtu,
                other @ (RouteAction::Device { .. }
                | RouteAction::Via { .. }
                | RouteAction::Unreachable) => panic!("{other:?}"),
            });
        let mtus: Vec<u32> = mtus.collect();
        assert_eq!(
            desired.kernel.device.map(|device| device.mtu),
            mtus.iter().max().copied()
        );
        mtus
    };
    let known = [
        ("192.0.2.2", "eth0", false, 9000),
        ("2001:db8::3", "eth1", false, 1400),
    ];
    assert_eq!(mtus(&known), [8940, 1320, 1340, 1320]);
    assert_eq!(mtus(&[]), [1440, 1420, 1440, 1420]);
    let paths = path_mtus(&mesh, &underlay(&known));
    assert_eq!(
        paths.into_values().collect::<Vec<_>>(),
        [9000, 1400, 1400, 1400]
    );
}

#[test]
fn packets_fit_every_family_that_a_peer_is_reached_by() {
    let node = peer(
        &["10.244.2.0/24"],
        &[],
        encrypted(&["192.0.2.2:1", "[2001:db8::2]:1"]),
    );
    let mesh = mesh([("node-2", node)]);
    let mtu = |in_use: &[&str]| {
        let mut known = underlay(&[
            ("192.0.2.2", "eth0", true, 1500),
            ("2001:db8::2", "eth0", true, 1500),
        ]);
        for text in in_use {
            known.get_mut(&address(text)).expect("known").in_use = true;
        }
        let desired = desired_kernel(&mesh, &known, &links(), DEVICE);
        match traffic(&desired)[..] {
            [(_, RouteAction::Device { mtu, .. })] => *mtu,
            _ => panic!("{desired:?}"),
        }
    };
    assert_eq!(mtu(&[]), 1440);
    assert_eq!(mtu(&["192.0.2.2"]), 1440);
    assert_eq!(mtu(&["2001:db8::2"]), 1420);
    assert_eq!(mtu(&["192.0.2.2", "2001:db8::2"]), 1420);
}

#[test]
fn a_family_in_which_this_node_has_no_pods_is_reported() {
    let mut mesh = mesh([(
        "node-2",
        peer(
            &["10.244.2.0/24", "fd00:10:244:2::/64"],
            &[],
            encrypted(&["192.0.2.2:1"]),
        ),
    )]);
    mesh.own.pod_cidrs.truncate(1);
    let desired = desired_kernel(&mesh, &Underlay::new(), &links(), DEVICE);
    assert_eq!(traffic(&desired).len(), 1);
    let reason = UnroutableReason::NoOwnAddress {
        cidr: net("fd00:10:244:2::/64"),
    };
    assert_eq!(
        desired.unroutable,
        BTreeMap::from([(name("node-2"), reason)])
    );
    assert!(unreachable(&desired).contains(&"fd00:10:244:2::/64".to_owned()));
}

#[test]
fn a_host_network_peer_is_reached_by_a_neighbour_address_of_each_family() {
    let mesh = mesh([(
        "node-2",
        peer(
            &["10.244.2.0/24", "fd00:10:244:2::/64"],
            &["198.51.100.2", "192.0.2.2", "2001:db8::2"],
            Pair::HostNetwork,
        ),
    )]);
    let underlay = underlay(&[
        ("198.51.100.2", "eth0", false, 1500),
        ("192.0.2.2", "eth0", true, 1500),
        ("2001:db8::2", "eth0", true, 1500),
    ]);
    let desired = desired_kernel(&mesh, &underlay, &links(), DEVICE);
    let via = |text| RouteAction::Via {
        gateway: address(text),
        link_index: 2,
    };
    assert_eq!(
        traffic(&desired),
        [
            ("10.244.2.0/24".to_owned(), &via("192.0.2.2")),
            ("fd00:10:244:2::/64".to_owned(), &via("2001:db8::2")),
        ]
    );
    let admitted = BTreeSet::from([net("10.244.2.0/24"), net("fd00:10:244:2::/64")]);
    assert_eq!(guard(&desired).host_network_cidrs, admitted);
}

#[test]
fn a_host_network_peer_that_is_no_neighbour_is_unroutable_and_not_admitted() {
    let peer = |addresses| peer(&["10.244.2.0/24"], addresses, Pair::HostNetwork);
    let cidr = net("10.244.2.0/24");
    let not_on_link = UnroutableReason::NotOnLink {
        cidr,
        address: address("192.0.2.2"),
    };
    for (addresses, paths, reason) in [
        (
            &["192.0.2.2"][..],
            &[("192.0.2.2", "eth0", false, 1500)][..],
            not_on_link.clone(),
        ),
        (&["192.0.2.2"], &[], not_on_link),
        (
            &["2001:db8::2"],
            &[("2001:db8::2", "eth0", true, 1500)],
            UnroutableReason::NoNodeAddress { cidr },
        ),
        // It names this node's own address: no gateway.
        (
            &["192.0.2.1"],
            &[("192.0.2.1", "lo", true, 65536)],
            UnroutableReason::NoNodeAddress { cidr },
        ),
    ] {
        let desired = desired_kernel(
            &mesh([("node-2", peer(addresses))]),
            &underlay(paths),
            &links(),
            DEVICE,
        );
        assert_eq!(traffic(&desired), []);
        assert_eq!(
            desired.unroutable,
            BTreeMap::from([(name("node-2"), reason)])
        );
        assert!(guard(&desired).host_network_cidrs.is_empty());
        assert!(unreachable(&desired).contains(&"10.244.2.0/24".to_owned()));
    }
}

#[test]
fn a_closed_peer_has_unreachable_routes_only() {
    let closed = Pair::Closed(ClosedReason::HostNetworkRefused);
    let mesh = mesh([("node-2", peer(&["10.244.2.0/24"], &["192.0.2.2"], closed))]);
    let underlay = underlay(&[("192.0.2.2", "eth0", true, 1500)]);
    let desired = desired_kernel(&mesh, &underlay, &links(), DEVICE);
    assert_eq!(traffic(&desired), []);
    assert!(guard(&desired).host_network_cidrs.is_empty());
    assert_eq!(
        unreachable(&desired),
        [
            "10.244.0.0/16",
            "10.244.1.0/24",
            "10.244.2.0/24",
            "fd00:10:244::/48",
            "fd00:10:244:1::/64"
        ]
    );
}

#[test]
fn a_host_network_node_has_guards_and_no_device() {
    let mut mesh = mesh([(
        "node-2",
        peer(&["10.244.2.0/24"], &["192.0.2.2"], Pair::HostNetwork),
    )]);
    mesh.own.mode = Mode::HostNetwork;
    let underlay = underlay(&[("192.0.2.2", "eth0", true, 1500)]);
    let without = DeviceOptions {
        usable: false,
        ..DEVICE
    };
    let desired = desired_kernel(&mesh, &underlay, &links(), without);
    assert_eq!(
        (&desired.kernel.device, desired.kernel.addresses.len()),
        (&None, 0)
    );
    assert_eq!(traffic(&desired).len(), 1);
    assert_eq!(guard(&desired).host_network_cidrs.len(), 1);
}

#[test]
fn an_encrypted_node_without_a_usable_device_is_closed() {
    let mesh = mesh([(
        "node-2",
        peer(
            &["10.244.2.0/24"],
            &["192.0.2.2"],
            encrypted(&["192.0.2.2:1"]),
        ),
    )]);
    let underlay = underlay(&[("192.0.2.2", "eth0", true, 1500)]);
    let desired = desired_kernel(
        &mesh,
        &underlay,
        &links(),
        DeviceOptions {
            usable: false,
            ..DEVICE
        },
    );
    assert_eq!(desired.kernel.device, None);
    assert_eq!(traffic(&desired), []);
    assert!(guard(&desired).host_network_cidrs.is_empty());
    // Whatever has the device's name is somebody else's.
    assert_eq!(guard(&desired).device, None);
}

#[test]
fn before_the_own_pod_cidrs_are_known_there_are_guards_only() {
    let mut mesh = mesh([
        (
            "node-2",
            peer(
                &["10.244.2.0/24"],
                &["192.0.2.2"],
                encrypted(&["192.0.2.2:1"]),
            ),
        ),
        (
            "node-3",
            peer(&["10.244.3.0/24"], &["192.0.2.3"], Pair::HostNetwork),
        ),
    ]);
    mesh.own.pod_cidrs.clear();
    let underlay = underlay(&[("192.0.2.3", "eth0", true, 1500)]);
    let desired = desired_kernel(&mesh, &underlay, &links(), DEVICE);
    assert_eq!(
        (&desired.kernel.device, desired.kernel.addresses.len()),
        (&None, 0)
    );
    assert_eq!(traffic(&desired), []);
    assert_eq!(unreachable(&desired).len(), 4);
    assert!(guard(&desired).host_network_cidrs.is_empty());
    assert!(desired.unroutable.is_empty());
}
