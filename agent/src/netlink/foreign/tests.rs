//! Against the kernel, with `ip` as the one who sets things up.

use std::collections::BTreeSet;

use podwire_core::kernel::{Guard, Kernel, RouteAction, RouteKey, Table};
use podwire_core::obstacles::obstacles;

use super::super::Netlink;
use super::super::tests::namespace::{Namespace, ip, up};
use super::*;

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn guard() -> GuardTable {
    GuardTable {
        device: Some("podwire0".to_owned()),
        cluster_cidrs: [net("10.244.0.0/16"), net("fd00:10:244::/48")].into(),
        own_cidrs: [net("10.244.1.0/24")].into(),
        host_network_cidrs: BTreeSet::new(),
        underlay_links: ["underlay".to_owned()].into(),
    }
}

/// What is found in the way of a node whose peer has 10.244.2.0/24.
async fn found() -> Vec<String> {
    let mut netlink = Netlink::open("podwire0").expect("a socket");
    netlink.observe().await.expect("observed");
    let foreign = netlink.foreign(&guard()).await.expect("read");
    let keys = Table::ALL.map(|table| RouteKey::peer(table, net("10.244.2.0/24")));
    let desired = Kernel {
        guard: Guard::Installed(guard()),
        routes: keys.map(|key| (key, RouteAction::Unreachable)).into(),
        ..Kernel::default()
    };
    let found = obstacles(&desired, &foreign);
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn routes_and_rules_of_others_are_seen_as_they_are() {
    let node = Namespace::new();
    node.block_on(async || {
        ip("tuntap add podwire0 mode tun");
        ip("link add underlay type veth peer name far");
        ip("link set far up");
        up("underlay");
        up("podwire0");
        ip("address add 192.0.2.11/24 dev underlay");
        ip("route add default via 192.0.2.1");
        ip("route add 10.244.1.0/24 dev far proto static");
        assert_eq!(found().await, Vec::<String>::new());

        ip("route add 10.244.2.0/25 dev podwire0");
        assert_eq!(found().await, Vec::<String>::new(), "into the device");

        ip("route add 10.244.2.0/24 via 192.0.2.12 metric 7 proto static");
        ip("route add blackhole 10.244.2.128/25 proto 42");
        ip("-6 route add fd00:10:244:2::/64 dev far metric 9 proto bird");
        let behind_ours = Vec::<String>::new();
        assert_eq!(found().await, behind_ours, "the rules lead elsewhere");
        ip("-4 rule add priority 118 lookup main");
        ip("-6 rule add priority 118 lookup main");
        let routes = [
            "route 10.244.2.0/24 metric 7 by underlay of protocol 4",
            "route 10.244.2.128/25 metric 0 to nowhere of protocol 42",
            "route fd00:10:244:2::/64 metric 9 by far of protocol 12",
        ];
        assert_eq!(found().await, routes);
        ip("-4 rule del priority 118");
        ip("-6 rule del priority 118");
        ip("route add 10.244.2.9 via 192.0.2.12 table 119");
        let among_ours = "route 10.244.2.9/32 metric 0 by underlay of protocol 3, in table 119";
        assert_eq!(found().await, [among_ours]);
        ip("route del 10.244.2.9 table 119");
        ip("route del 10.244.2.0/24 via 192.0.2.12");
        ip("route del blackhole 10.244.2.128/25");
        ip("-6 route del fd00:10:244:2::/64");

        // Rules that take nothing: a table without routes, marked packets, other destinations.
        ip("rule add priority 10 lookup 1000");
        ip("rule add priority 11 fwmark 7 lookup 1001");
        ip("rule add priority 12 to 198.51.100.0/24 lookup 1001");
        ip("rule add priority 13 not fwmark 7 to 198.51.100.0/24 iif far lookup 1002");
        ip("route add default via 192.0.2.1 table 1001");
        assert_eq!(found().await, Vec::<String>::new());

        ip("rule add priority 14 from 10.244.1.0/24 lookup 1001");
        ip("rule add priority 15 to 10.244.2.0/24 unreachable");
        ip("-6 rule add priority 16 to fd00:10:244::/48 blackhole");
        let rules = [
            "rule 14 to table 1001 with route 0.0.0.0/0 metric 0 by underlay of protocol 3",
            "rule 15 that refuses",
            "IPv6 rule 16 that refuses",
        ];
        assert_eq!(found().await, rules);

        // As wg-quick does it: the main table is asked before.
        ip("rule add priority 9 lookup main suppress_prefixlength 0");
        assert_eq!(found().await, ["IPv6 rule 16 that refuses"]);
    });
}
