use std::collections::BTreeMap;

use super::*;
use crate::kernel::Path;
use crate::mesh::{HostNetworkPeers, OwnNode, Policy};
use crate::record::Mode;

const OWN: [&str; 2] = ["10.244.1.0/24", "fd00:10:244:1::/64"];
const CLUSTER: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];

fn net(text: &str) -> IpNet {
    text.parse().expect("cidr")
}

fn link(name: &str, kind: LinkKind, addresses: &[&str]) -> Link {
    Link {
        name: name.to_owned(),
        kind,
        mtu: 1500,
        master: None,
        strict_reverse_path: false,
        addresses: addresses
            .iter()
            .map(|text| text.parse().expect("address"))
            .collect(),
        has_default_route: false,
        own_pods: BTreeSet::new(),
    }
}

fn with_default_route(link: Link) -> Link {
    Link {
        has_default_route: true,
        ..link
    }
}

fn with_pods(pods: &str, link: Link) -> Link {
    Link {
        own_pods: [net(pods)].into(),
        ..link
    }
}

fn eth0() -> Link {
    with_default_route(link("eth0", LinkKind::Wire, &["192.0.2.11"]))
}

fn cni0() -> Link {
    let bridge = link("cni0", LinkKind::Switch, &["10.244.1.1", "fe80::1"]);
    with_pods("10.244.1.0/24", bridge)
}

fn paths(link: &str) -> Underlay {
    let path = Path {
        link: link.to_owned(),
        link_index: 2,
        on_link: true,
        mtu: 1500,
        in_use: false,
    };
    Underlay::from([("192.0.2.12".parse().expect("address"), path)])
}

fn found(links: &[Link], paths: &Underlay, known: &UnderlayLinks) -> UnderlayLinks {
    let mesh = DesiredMesh {
        own: OwnNode {
            name: "node-1".parse().expect("name"),
            mode: Mode::Encrypted,
            pod_cidrs: OWN.map(net).to_vec(),
            addresses: vec!["192.0.2.11".parse().expect("address")],
            public_keys: Vec::new(),
        },
        policy: Policy {
            cluster_cidrs: CLUSTER.map(net).to_vec(),
            host_network_peers: HostNetworkPeers::Allow,
            endpoint_cidrs: Vec::new(),
        },
        peers: BTreeMap::new(),
        refusals: BTreeMap::new(),
        contested: BTreeMap::new(),
    };
    underlay_links(links, paths, &mesh, "podwire0", known)
}

/// On a node that knows nothing and reaches no peer.
fn guarded(links: &[Link]) -> Vec<String> {
    let found = found(links, &Underlay::new(), &UnderlayLinks::default());
    found.guarded.into_iter().collect()
}

#[test]
fn a_lone_node_knows_its_underlay_by_default_routes_and_own_addresses() {
    let links = [
        eth0(),
        link("eth1", LinkKind::Wire, &["198.51.100.11"]),
        link("eth2", LinkKind::Wire, &["2001:db8::11"]),
        with_default_route(link("ppp0", LinkKind::Virtual, &[])),
        link("eth3", LinkKind::Wire, &["fe80::3", "169.254.7.7"]),
        cni0(),
        link("podwire0", LinkKind::Virtual, &["10.244.1.0", "192.0.2.99"]),
    ];
    assert_eq!(guarded(&links), ["eth0", "eth1", "eth2", "ppp0"]);
}

#[test]
fn the_links_to_peers_are_of_the_underlay_also_where_they_came_just_now() {
    let found = found(&[eth0()], &paths("eth7"), &UnderlayLinks::default());
    assert_eq!(found.guarded, ["eth0", "eth7"].map(str::to_owned).into());
}

#[test]
fn a_link_is_lost_with_its_existence_and_not_with_its_routes_and_addresses() {
    let whole = [eth0(), link("eth1", LinkKind::Virtual, &["198.51.100.11"])];
    let known = found(&whole, &paths("eth0"), &UnderlayLinks::default());
    let bare = ["eth0", "eth1"].map(|name| link(name, LinkKind::Wire, &[]));
    let still = found(&bare, &Underlay::new(), &known);
    assert_eq!(still, known);
    let gone = found(&bare[..1], &Underlay::new(), &still);
    assert_eq!(gone.guarded, BTreeSet::from(["eth0".to_owned()]));
}

#[test]
fn a_foreign_route_for_own_pods_takes_no_wire_out_of_the_underlay() {
    for pods in ["10.244.1.0/24", "10.244.1.128/25", "10.244.1.7/32"] {
        let links = [
            with_pods(pods, eth0()),
            with_pods(pods, link("eth1", LinkKind::Wire, &["198.51.100.11"])),
        ];
        assert_eq!(guarded(&links), ["eth0", "eth1"], "{pods}");
        let pair = link("eth0", LinkKind::Virtual, &["192.0.2.11"]);
        let uplink = with_pods(pods, with_default_route(pair));
        assert_eq!(guarded(&[uplink]), ["eth0"], "{pods}");
    }
    let misled = link("eth0", LinkKind::Wire, &["192.0.2.11", "10.244.1.9"]);
    assert_eq!(guarded(&[misled]), ["eth0"]);
    let part = with_pods("10.244.1.128/25", cni0());
    let uplink = with_default_route(Link {
        addresses: BTreeSet::new(),
        ..part
    });
    assert_eq!(guarded(&[uplink]), ["cni0"]);
    let pair = link("eth1", LinkKind::Virtual, &["198.51.100.11"]);
    assert_eq!(guarded(&[with_pods("10.244.1.128/25", pair)]), ["eth1"]);
}

#[test]
fn links_of_own_pods_are_never_of_the_underlay_and_a_shared_one_is_named() {
    // Its own address on the end of a pod's pair, as some network plugins put it.
    let unnumbered = link("veth7", LinkKind::Virtual, &["192.0.2.11"]);
    let tunnel = link("flannel.1", LinkKind::Virtual, &["10.244.1.0"]);
    let docker0 = link("docker0", LinkKind::Switch, &["172.17.0.1"]);
    let links = [
        with_pods("10.244.1.7/32", unnumbered),
        with_default_route(tunnel.clone()),
        link("br0", LinkKind::Switch, &["192.0.2.11", "10.244.1.1"]),
        with_default_route(with_pods(
            "10.244.1.0/24",
            link("br1", LinkKind::Switch, &["198.51.100.11"]),
        )),
        with_pods("10.244.1.64/26", docker0.clone()),
        cni0(),
    ];
    let none = UnderlayLinks::default();
    let uplink = BTreeSet::from([tunnel.name]);
    let shared = ["br0", "br1"].map(str::to_owned);
    let found = found(&links, &Underlay::new(), &none);
    // A default route makes an uplink of whatever is no bridge. What has pods and no address of the
    // Node is a bridge of pods, whatever else it has.
    assert_eq!(found.guarded, uplink);
    assert_eq!(found.shared, BTreeSet::from(shared));
    assert_eq!(guarded(&[docker0]), ["docker0"]);
}

#[test]
fn a_link_that_comes_to_carry_own_pods_leaves_the_underlay() {
    let before = [link("veth7", LinkKind::Virtual, &["192.0.2.11"])];
    let known = found(&before, &Underlay::new(), &UnderlayLinks::default());
    assert!(known.guarded.contains("veth7"));
    let [veth] = before;
    let now = [with_pods("10.244.1.7/32", veth)];
    assert!(
        found(&now, &Underlay::new(), &known).guarded.is_empty(),
        "local pods are cut"
    );
}
