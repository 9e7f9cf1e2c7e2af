use super::*;
use crate::kernel::Path;
use crate::key::PublicKey;
use crate::mesh::{HostNetworkPeers, OwnNode, Peer, Policy};
use crate::packet_filter::{Chain, ChainName, Expression, TableFamily, Verdict};
use crate::record::Lane;

fn mesh(mode: Mode) -> DesiredMesh {
    let cidr = |text: &str| text.parse().expect("cidr");
    let address = |text: &str| text.parse().expect("address");
    let peer = Peer {
        uid: "uid-2".to_owned(),
        pod_cidrs: vec![cidr("10.244.2.0/24")],
        addresses: vec![address("192.0.2.12")],
        pair: Pair::Encrypted(EncryptedPair {
            endpoints: vec!["192.0.2.12:51880".parse().expect("endpoint")],
            lanes: [0, 7]
                .map(|further| Lane {
                    key: PublicKey::from_bytes([7; 32]).expect("a key"),
                    port: 51880 + further,
                })
                .to_vec(),
            next: Vec::new(),
            previous: Vec::new(),
            is_revoked: false,
            key_generation: 1,
            epoch: 0,
        }),
    };
    DesiredMesh {
        own: OwnNode {
            name: "node-1".parse().expect("a name"),
            mode,
            pod_cidrs: vec![cidr("10.244.1.0/24"), cidr("fd00:10:244:1::/64")],
            addresses: vec![address("192.0.2.11"), address("2001:db8::11")],
            public_keys: Vec::new(),
        },
        policy: Policy {
            cluster_cidrs: vec![cidr("10.244.0.0/16"), cidr("fd00:10:244::/48")],
            host_network_peers: HostNetworkPeers::Allow,
            endpoint_cidrs: Vec::new(),
        },
        peers: [("node-2".parse().expect("a name"), peer)].into(),
        refusals: BTreeMap::new(),
        contested: BTreeMap::new(),
    }
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
            .map(|a| a.parse().expect("address"))
            .collect(),
        has_default_route: kind == LinkKind::Wire,
        own_pods: BTreeSet::new(),
    }
}

fn links() -> Vec<Link> {
    vec![
        link("eth0", LinkKind::Wire, &["192.0.2.11", "2001:db8::11"]),
        link("cni0", LinkKind::Switch, &["10.244.1.1"]),
    ]
}

const BOTH_FILTERED: FiltersBridged = FiltersBridged {
    ipv4: true,
    ipv6: true,
};

fn paths() -> Underlay {
    let path = Path {
        link: "eth1".to_owned(),
        link_index: 2,
        on_link: true,
        mtu: 1500,
        in_use: false,
    };
    Underlay::from([("192.0.2.12".parse().expect("address"), path)])
}

/// What is needed in a mesh of that mode with these links.
fn needed_with(
    mode: Mode,
    links: &[Link],
    plugin: Option<Plugin>,
    filters_bridged: FiltersBridged,
) -> Vec<(Need, Sample)> {
    let host = Host {
        links,
        paths: &paths(),
        device: "podwire0",
        ports: (51880, 51882),
        plugin,
        filters_bridged,
    };
    needed(&mesh(mode), host)
}

/// Where packets come from and go, by link.
fn ways(mode: Mode, links: &[Link], filters_bridged: FiltersBridged) -> Vec<String> {
    let needed = needed_with(mode, links, Some(Plugin::Bridge), filters_bridged);
    let way = |(_, sample): (Need, Sample)| {
        let address = |address, port| match sample.protocol {
            Protocol::Tcp => format!("{address}"),
            Protocol::Udp => SocketAddr::new(address, port).to_string(),
        };
        let source = address(sample.source, sample.source_port);
        let destination = address(sample.destination, sample.destination_port);
        let incoming = sample.incoming.as_deref().unwrap_or("here");
        let outgoing = sample.outgoing.as_deref().unwrap_or("here");
        format!("{source} {incoming} to {destination} {outgoing}")
    };
    needed.into_iter().map(way).collect()
}

#[test]
fn pods_send_and_receive_by_the_device_and_each_lane_by_its_ports() {
    assert_eq!(
        ways(Mode::Encrypted, &links(), BOTH_FILTERED),
        [
            "10.244.1.254 cni0 to 10.244.255.254 podwire0",
            "10.244.255.254 podwire0 to 10.244.1.254 cni0",
            "10.244.1.254 cni0 to 198.41.0.4 eth0",
            "fd00:10:244:1:ffff:ffff:ffff:fffe cni0 to \
             fd00:10:244:ffff:ffff:ffff:ffff:fffe podwire0",
            "fd00:10:244:ffff:ffff:ffff:ffff:fffe podwire0 to \
             fd00:10:244:1:ffff:ffff:ffff:fffe cni0",
            "fd00:10:244:1:ffff:ffff:ffff:fffe cni0 to 2001:503:ba3e::2:30 eth0",
            "192.0.2.12:51880 eth0 to 192.0.2.11:51880 here",
            "192.0.2.11:51880 here to 192.0.2.12:51880 eth1",
            // No peer has a third lane, and none is reached by IPv6.
            "192.0.2.12:51887 eth0 to 192.0.2.11:51881 here",
            "192.0.2.11:51881 here to 192.0.2.12:51887 eth1",
        ]
    );
}

#[test]
fn in_host_network_mode_packets_leave_by_the_nodes_link_and_before_the_first_pod_by_the_bridge() {
    let ways = ways(Mode::HostNetwork, &links()[..1], FiltersBridged::default());
    assert_eq!(ways.len(), 6);
    assert_eq!(
        ways[0],
        "10.244.1.254 podwire-bridge to 10.244.255.254 eth0"
    );
}

#[test]
fn strangers_are_sent_to_by_the_link_with_a_default_route_and_an_own_address_of_that_family() {
    let to_strangers = |links: &[Link]| {
        let bridge = Some(Plugin::Bridge);
        let needed = needed_with(Mode::Encrypted, links, bridge, FiltersBridged::default());
        let needed = needed.into_iter();
        let found = needed.filter(|(need, _)| matches!(need, Need::ToStrangers(_)));
        found
            .map(|(_, sample)| {
                assert_eq!(sample.destination_port, 443);
                (sample.outgoing.expect("a link"), sample.source.is_ipv6())
            })
            .collect::<Vec<_>>()
    };
    let mut links = [
        link("eth0", LinkKind::Wire, &["192.0.2.11"]),
        link("eth1", LinkKind::Wire, &["2001:db8::11"]),
    ];
    let expected = [("eth0".to_owned(), false), ("eth1".to_owned(), true)];
    assert_eq!(to_strangers(&links), expected);
    links[1].has_default_route = false;
    assert_eq!(to_strangers(&links), expected[..1]);
}

#[test]
fn what_pods_of_one_node_send_each_other_is_asked_for_where_it_meets_packet_filters() {
    let between = |links: &[Link], filters_bridged| {
        let bridge = Some(Plugin::Bridge);
        let needed = needed_with(Mode::Encrypted, links, bridge, filters_bridged);
        let needed = needed.into_iter();
        let found = needed.filter(|(need, _)| matches!(need, Need::BetweenPods(_)));
        let way = |(_, sample): (Need, Sample)| {
            let (incoming, outgoing) = (sample.incoming?, sample.outgoing?);
            Some(format!("{} {incoming} {outgoing}", sample.destination))
        };
        found.map(|it| way(it).expect("links")).collect::<Vec<_>>()
    };
    let wire = &links()[..1];
    let only_ipv4 = FiltersBridged {
        ipv4: true,
        ipv6: false,
    };
    let off = FiltersBridged::default();
    let bridged = "10.244.1.253 podwire-bridge podwire-bridge";
    assert_eq!(between(wire, only_ipv4), [bridged]);
    assert_eq!(between(wire, BOTH_FILTERED).len(), 2);
    assert_eq!(between(wire, off), [""; 0]);
    // Another's bridge may be none.
    assert_eq!(between(&links(), BOTH_FILTERED), [""; 0]);
    // Links of one pod each are routed between.
    let mut ones = [
        link("veth1", LinkKind::Virtual, &[]),
        link("veth2", LinkKind::Virtual, &[]),
    ];
    for (one, pod) in ones.iter_mut().zip(["10.244.1.2/32", "10.244.1.3/32"]) {
        one.own_pods.insert(pod.parse().expect("cidr"));
    }
    assert_eq!(between(&ones, off)[0], "10.244.1.253 veth1 veth2");
    assert_eq!(between(&ones[..1], off), [""; 0]);
}

#[test]
fn a_filter_that_drops_is_named_with_what_it_drops_and_a_rule_that_lets_it_pass() {
    let name = |chain: &str| ChainName {
        family: TableFamily::Inet,
        table: "filter".to_owned(),
        chain: chain.to_owned(),
    };
    let chain = |hook, drops_by_policy, rules| Chain {
        hook: Some(hook),
        is_before_tracking: false,
        drops_by_policy,
        rules,
    };
    let ruleset = Ruleset::from([
        (name("forward"), chain(Hook::Forward, true, Vec::new())),
        (name("output"), chain(Hook::Output, true, Vec::new())),
        (
            name("input"),
            chain(
                Hook::Input,
                false,
                vec![vec![Expression::Verdict(Verdict::Drop)]],
            ),
        ),
    ]);
    let needed = needed_with(Mode::Encrypted, &links(), None, BOTH_FILTERED);
    let found: Vec<String> = filtered(&ruleset, &needed)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        found,
        [
            "the packet filter inet filter forward drops what pods receive and what pods send \
             and what pods send out of the cluster (on purpose?) by its policy: `nft insert rule \
             inet filter forward ip saddr 10.244.0.0/16 accept` and `nft insert rule inet filter \
             forward ip6 saddr fd00:10:244::/48 accept` and `nft insert rule inet filter forward \
             ip daddr 10.244.0.0/16 accept` and `nft insert rule inet filter forward ip6 daddr \
             fd00:10:244::/48 accept`, now and in what sets that table up",
            "the packet filter inet filter input drops what peers send (WireGuard) by rule 1 of \
             chain input: `nft insert rule inet filter input udp dport 51880-51882 accept`, now \
             and in what sets that table up",
            "the packet filter inet filter output drops what this node sends its peers \
             (WireGuard) by its policy: `nft insert rule inet filter output udp sport 51880-51882 \
             accept`, now and in what sets that table up",
        ]
    );
    assert!(filtered(&Ruleset::new(), &needed).is_empty());
}

#[test]
fn nothing_is_said_of_pods_before_the_name_of_their_link_is_known() {
    let wire = &links()[..1];
    for (plugin, expected) in [(Some(Plugin::Bridge), 6), (Some(Plugin::Ptp), 0), (None, 0)] {
        let found = needed_with(Mode::Encrypted, wire, plugin, FiltersBridged::default());
        let of_peers = |need: &Need| matches!(need, Need::WireGuard(..) | Need::OwnWireGuard(..));
        let of_pods = found.iter().filter(|(need, _)| !of_peers(need));
        assert_eq!(of_pods.count(), expected, "{plugin:?}");
    }
}
