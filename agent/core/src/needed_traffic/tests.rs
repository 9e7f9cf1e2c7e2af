use super::*;
use crate::mesh::{EncryptedPair, HostNetworkPeers, OwnNode, Peer, Policy};
use crate::packet_filter::{Chain, ChainName, Expression, TableFamily, Verdict};

fn mesh(mode: Mode) -> DesiredMesh {
    let cidr = |text: &str| text.parse().expect("cidr");
    let address = |text: &str| text.parse().expect("address");
    let peer = Peer {
        uid: "uid-2".to_owned(),
        pod_cidrs: vec![cidr("10.244.2.0/24")],
        addresses: vec![address("192.0.2.12")],
        pair: Pair::Encrypted(EncryptedPair {
            endpoints: vec!["192.0.2.12:51880".parse().expect("endpoint")],
            lanes: Vec::new(),
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

/// Where packets come from and go, by link.
fn ways(mode: Mode, links: &[Link]) -> Vec<String> {
    let needed = needed(
        &mesh(mode),
        links,
        "podwire0",
        (51880, 51881),
        Some(Plugin::Bridge),
    );
    let way = |(_, sample): (Need, Sample)| {
        let Sample {
            incoming,
            source,
            destination,
            ..
        } = &sample;
        let outgoing = sample.outgoing.as_deref().unwrap_or("here");
        format!("{source} {incoming} to {destination} {outgoing}")
    };
    needed.into_iter().map(way).collect()
}

#[test]
fn pods_send_and_receive_by_the_device_and_peers_come_to_own_addresses() {
    assert_eq!(
        ways(Mode::Encrypted, &links()),
        [
            "10.244.1.254 cni0 to 10.244.255.254 podwire0",
            "10.244.255.254 podwire0 to 10.244.1.254 cni0",
            "fd00:10:244:1:ffff:ffff:ffff:fffe cni0 to \
             fd00:10:244:ffff:ffff:ffff:ffff:fffe podwire0",
            "fd00:10:244:ffff:ffff:ffff:ffff:fffe podwire0 to \
             fd00:10:244:1:ffff:ffff:ffff:fffe cni0",
            // No peer is reached by IPv6.
            "192.0.2.12 eth0 to 192.0.2.11 here",
        ]
    );
}

#[test]
fn in_host_network_mode_packets_leave_by_the_nodes_link_and_before_the_first_pod_by_the_bridge() {
    let ways = ways(Mode::HostNetwork, &links()[..1]);
    assert_eq!(ways.len(), 4);
    assert_eq!(
        ways[0],
        "10.244.1.254 podwire-bridge to 10.244.255.254 eth0"
    );
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
        drops_by_policy,
        rules,
    };
    let ruleset = Ruleset::from([
        (name("forward"), chain(Hook::Forward, true, Vec::new())),
        (
            name("input"),
            chain(
                Hook::Input,
                false,
                vec![vec![Expression::Verdict(Verdict::Drop)]],
            ),
        ),
    ]);
    let needed = needed(
        &mesh(Mode::Encrypted),
        &links(),
        "podwire0",
        (51880, 51881),
        None,
    );
    let found: Vec<String> = filtered(&ruleset, &needed)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        found,
        [
            "the packet filter inet filter forward drops what pods receive and what pods send by \
             its policy: `nft insert rule inet filter forward ip saddr 10.244.0.0/16 accept` and \
             `nft insert rule inet filter forward ip6 saddr fd00:10:244::/48 accept` and \
             `nft insert rule inet filter forward ip daddr 10.244.0.0/16 accept` and \
             `nft insert rule inet filter forward ip6 daddr fd00:10:244::/48 accept`, now and in \
             what sets that table up",
            "the packet filter inet filter input drops what peers send (WireGuard) by rule 1 of \
             chain input: `nft insert rule inet filter input udp dport 51880-51881 accept`, now \
             and in what sets that table up",
        ]
    );
    assert!(filtered(&Ruleset::new(), &needed).is_empty());
}

#[test]
fn nothing_is_said_of_pods_before_the_name_of_their_link_is_known() {
    let wire = &links()[..1];
    for (plugin, expected) in [(Some(Plugin::Bridge), 4), (Some(Plugin::Ptp), 0), (None, 0)] {
        let found = needed(
            &mesh(Mode::Encrypted),
            wire,
            "podwire0",
            (51880, 51881),
            plugin,
        );
        let of_pods = found
            .iter()
            .filter(|(need, _)| !matches!(need, Need::WireGuard(..)));
        assert_eq!(of_pods.count(), expected, "{plugin:?}");
    }
}
