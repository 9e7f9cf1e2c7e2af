use super::*;
use crate::kernel::{METRIC, METRIC_UNREACHABLE, RouteAction};

fn net(text: &str) -> IpNet {
    text.parse().expect("cidr")
}

fn route(destination: &str, metric: u32, leads: Leads) -> ForeignRoute {
    ForeignRoute {
        destination: net(destination),
        metric,
        protocol: 4,
        leads,
    }
}

fn out(link: &str) -> Leads {
    Leads::Out(link.to_owned())
}

/// A node with own pods and one encrypted peer.
fn desired() -> Kernel {
    let guard = GuardTable {
        device: Some("podwire0".to_owned()),
        cluster_cidrs: [net("10.244.0.0/16"), net("fd00:10:244::/48")].into(),
        own_cidrs: [net("10.244.1.0/24"), net("fd00:10:244:1::/64")].into(),
        host_network_cidrs: BTreeSet::new(),
        underlay_links: ["eth0".to_owned()].into(),
    };
    let device = RouteAction::Device {
        source: "10.244.1.0".parse().expect("address"),
        mtu: 1420,
    };
    let covers = ["10.244.2.0/24", "10.244.1.0/24", "10.244.0.0/16"]
        .map(|cidr| (RouteKey::cover(net(cidr)), RouteAction::Unreachable));
    let peers =
        Table::ALL.map(|table| (RouteKey::peer(table, net("10.244.2.0/24")), device.clone()));
    Kernel {
        guard: Guard::Installed(guard),
        routes: covers.into_iter().chain(peers).collect(),
        ..Kernel::default()
    }
}

/// `ip rule add lookup main`, before ours.
fn main_first() -> Vec<PolicyRule> {
    let ipv4 = rule(100, TABLE_MAIN);
    let ipv6 = PolicyRule {
        is_ipv6: true,
        ..ipv4.clone()
    };
    vec![ipv4, ipv6]
}

fn stands_in_the_way(route: &ForeignRoute, rules: Vec<PolicyRule>) -> bool {
    is_obstacle(Table::Main, route, rules)
}

/// A route in the table of our own.
fn stands_among_ours(route: &ForeignRoute) -> bool {
    is_obstacle(Table::Peers, route, usual())
}

fn is_obstacle(table: Table, route: &ForeignRoute, rules: Vec<PolicyRule>) -> bool {
    let foreign = Foreign {
        routes: vec![(table, route.clone())],
        rules,
        ..Foreign::default()
    };
    !obstacles(&desired(), &foreign).is_empty()
}

#[test]
fn no_route_of_the_main_table_wins_over_ours_unless_a_rule_has_it_asked_first() {
    let cases = [
        ("a better metric", route("10.244.2.0/24", 0, out("eth0"))),
        ("a longer prefix", route("10.244.2.128/25", 9, out("eth0"))),
        ("to nowhere", route("10.244.2.7/32", 0, Leads::Nowhere)),
        ("another bridge", route("10.244.2.0/24", 0, out("docker0"))),
        ("pods of no node", route("10.244.77.0/24", 0, out("eth0"))),
        ("the cluster", route("10.244.0.0/16", 100, out("eth0"))),
        ("several links", route("10.244.2.0/24", 0, out(""))),
        ("IPv6", route("fd00:10:244:2::/64", 512, out("eth0"))),
    ];
    for (what, route) in cases {
        assert!(!stands_in_the_way(&route, usual()), "{what}: {route}");
        assert!(stands_in_the_way(&route, main_first()), "{what}: {route}");
        let marked = main_first().into_iter().map(|rule| PolicyRule {
            is_selective: true,
            ..rule
        });
        assert!(!stands_in_the_way(&route, marked.collect()), "{what}");
    }
}

#[test]
fn a_route_that_wins_over_one_of_ours_stands_in_the_way() {
    let cases = [
        ("the same key", route("10.244.2.0/24", METRIC, out("eth0"))),
        (
            "in the place of a cover",
            route("10.244.0.0/16", METRIC_UNREACHABLE, out("eth0")),
        ),
        (
            "own pods by the underlay",
            route("10.244.1.9/32", 0, out("eth0")),
        ),
    ];
    for (what, route) in cases {
        assert!(stands_in_the_way(&route, usual()), "{what}: {route}");
    }
    let among_ours = [
        ("the same key", route("10.244.2.0/24", METRIC, out("eth0"))),
        ("a better metric", route("10.244.2.0/24", 0, out("eth0"))),
        ("a longer prefix", route("10.244.2.128/25", 9, out("eth0"))),
        ("a default route", route("0.0.0.0/0", 0, out("eth0"))),
    ];
    for (what, route) in among_ours {
        assert!(stands_among_ours(&route), "{what}: {route}");
    }
}

#[test]
fn a_route_that_loses_or_leads_where_ours_do_stands_in_nobodys_way() {
    let cases = [
        ("a default route", route("0.0.0.0/0", 0, out("eth0"))),
        ("a shorter prefix", route("10.0.0.0/8", 0, out("eth0"))),
        ("a worse metric", route("10.244.2.0/24", 2048, out("eth0"))),
        (
            "worse than the cover",
            route("10.244.0.0/16", METRIC_UNREACHABLE + 1, Leads::Nowhere),
        ),
        (
            "into the device",
            route("10.244.2.128/25", 0, out("podwire0")),
        ),
        (
            "the bridge of own pods",
            route("10.244.1.0/24", 0, out("cni0")),
        ),
        ("one own pod", route("10.244.1.9/32", 0, out("veth0"))),
        (
            "own pods' blackhole",
            route("10.244.1.0/24", 0, Leads::Nowhere),
        ),
        ("no pod at all", route("192.0.2.0/24", 0, out("eth0"))),
    ];
    for (what, route) in cases {
        assert!(!stands_in_the_way(&route, usual()), "{what}: {route}");
        assert!(!stands_in_the_way(&route, main_first()), "{what}: {route}");
    }
    for harmless in [
        route("10.244.2.0/24", 2048, out("eth0")),
        route("10.244.2.128/25", 0, out("podwire0")),
        route("10.244.2.128/25", 0, Leads::On),
    ] {
        assert!(!stands_among_ours(&harmless), "{harmless}");
    }
}

#[test]
fn nothing_is_named_before_the_own_pods_are_known() {
    let mut desired = desired();
    let Guard::Installed(guard) = &mut desired.guard else {
        panic!("a guard")
    };
    guard.own_cidrs.clear();
    let foreign = Foreign {
        routes: vec![(Table::Peers, route("10.244.1.0/24", 0, out("cni0")))],
        ..Foreign::default()
    };
    assert_eq!(obstacles(&desired, &foreign), BTreeSet::new());
}

#[test]
fn an_obstacle_is_named_with_its_link_and_whose_it_is() {
    let route = route("10.244.2.0/25", 7, out("eth0"));
    let foreign = Foreign {
        routes: vec![(Table::Main, route.clone()), (Table::Peers, route)],
        rules: main_first(),
        ..Foreign::default()
    };
    let found = obstacles(&desired(), &foreign);
    let named: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        named,
        [
            "route 10.244.2.0/25 metric 7 by eth0 of protocol 4",
            "route 10.244.2.0/25 metric 7 by eth0 of protocol 4, in table 119",
        ]
    );
}

/// A rule for all traffic of IPv4.
fn rule(priority: u32, table: u32) -> PolicyRule {
    PolicyRule {
        priority,
        is_ipv6: false,
        source: None,
        destination: None,
        is_selective: false,
        is_inverted: false,
        action: RuleAction::Lookup {
            table,
            suppressed: None,
        },
    }
}

/// What every kernel begins with.
fn usual() -> Vec<PolicyRule> {
    let both = [(0, TABLE_LOCAL), (32_766, TABLE_MAIN), (32_767, 253)];
    let both = both.into_iter().flat_map(|(priority, table)| {
        let rule = rule(priority, table);
        let ipv6 = PolicyRule {
            is_ipv6: true,
            ..rule.clone()
        };
        [rule, ipv6]
    });
    both.collect()
}

const OTHER: u32 = 100;

/// The obstacles of the usual rules and this one; `other` is table 100.
fn with_rule(rule: PolicyRule, other: &[ForeignRoute]) -> Vec<String> {
    let mut rules = usual();
    rules.push(rule);
    let desired = desired();
    let Guard::Installed(guard) = &desired.guard else {
        panic!("a guard")
    };
    let asked = tables(&rules, guard);
    let tables = asked
        .into_iter()
        .map(|table| {
            assert_eq!(table, OTHER);
            (table, other.to_vec())
        })
        .collect();
    let foreign = Foreign {
        rules,
        tables,
        ..Foreign::default()
    };
    let found = obstacles(&desired, &foreign);
    found.iter().map(ToString::to_string).collect()
}

#[test]
fn the_usual_rules_stand_in_nobodys_way() {
    let desired = desired();
    let Guard::Installed(guard) = &desired.guard else {
        panic!("a guard")
    };
    assert_eq!(tables(&usual(), guard), BTreeSet::new());
    let foreign = Foreign {
        rules: usual(),
        ..Foreign::default()
    };
    assert_eq!(obstacles(&desired, &foreign), BTreeSet::new());
}

#[test]
fn a_rule_before_ours_that_takes_pod_traffic_stands_in_the_way() {
    let default = route("0.0.0.0/0", 0, out("eth0"));
    let named = "rule 10 to table 100 with route 0.0.0.0/0 metric 0 by eth0 of protocol 4";
    let from_pod = PolicyRule {
        source: Some(net("10.244.1.9/32")),
        ..rule(10, OTHER)
    };
    let to_pods = PolicyRule {
        destination: Some(net("10.244.2.0/24")),
        is_selective: true,
        ..rule(10, OTHER)
    };
    let all_but_marked = PolicyRule {
        is_selective: true,
        is_inverted: true,
        ..rule(10, OTHER)
    };
    for rule in [rule(10, OTHER), from_pod, to_pods, all_but_marked] {
        assert_eq!(with_rule(rule, std::slice::from_ref(&default)), [named]);
    }
    let refusing = PolicyRule {
        destination: Some(net("10.244.0.0/16")),
        action: RuleAction::Refuse,
        ..rule(10, OTHER)
    };
    assert_eq!(with_rule(refusing, &[]), ["rule 10 that refuses"]);
}

#[test]
fn a_rule_that_takes_no_pod_traffic_stands_in_nobodys_way() {
    let default = route("0.0.0.0/0", 0, out("eth0"));
    let suppressed = |table| RuleAction::Lookup {
        table,
        suppressed: Some(0),
    };
    let after_ours = rule(121, OTHER);
    let of_the_node = PolicyRule {
        source: Some(net("192.0.2.11/32")),
        ..rule(10, OTHER)
    };
    let marked = PolicyRule {
        is_selective: true,
        ..rule(10, OTHER)
    };
    let to_others = PolicyRule {
        destination: Some(net("198.51.100.0/24")),
        ..rule(10, OTHER)
    };
    let without_default = PolicyRule {
        action: suppressed(OTHER),
        ..rule(10, OTHER)
    };
    let rules = [after_ours, of_the_node, marked, to_others, without_default];
    for rule in rules {
        assert_eq!(
            with_rule(rule.clone(), std::slice::from_ref(&default)),
            Vec::<String>::new(),
            "{rule:?}"
        );
    }
    for harmless in [
        route("100.64.0.0/10", 0, out("eth0")),
        route("10.244.1.9/32", 0, out("veth0")),
        route("0.0.0.0/0", 0, Leads::On),
        route("0.0.0.0/0", 0, out("podwire0")),
        route("::/0", 0, out("eth0")),
    ] {
        let found = with_rule(rule(10, OTHER), std::slice::from_ref(&harmless));
        assert_eq!(found, Vec::<String>::new(), "{harmless}");
    }
}

/// What wg-quick sets up: a default route for all that is not marked, but the main table first,
/// without its own default route.
#[test]
fn a_main_table_that_is_asked_early_without_its_default_route_still_shows_ours() {
    let default = route("0.0.0.0/0", 0, out("wg0"));
    let main_first = |suppressed| PolicyRule {
        action: RuleAction::Lookup {
            table: TABLE_MAIN,
            suppressed: Some(suppressed),
        },
        ..rule(5, TABLE_MAIN)
    };
    for (suppressed, in_the_way) in [(0, false), (16, true)] {
        let mut rules = usual();
        rules.extend([main_first(suppressed), rule(10, OTHER)]);
        let foreign = Foreign {
            rules,
            tables: [(OTHER, vec![default.clone()])].into(),
            ..Foreign::default()
        };
        let found = obstacles(&desired(), &foreign);
        assert_eq!(!found.is_empty(), in_the_way, "{found:?}");
    }
}
