use super::*;
use crate::kernel::{GuardTable, METRIC, METRIC_UNREACHABLE, RuleAction, Table};

fn net(text: &str) -> IpNet {
    text.parse().expect("cidr")
}

fn key(destination: &str, metric: u32) -> RouteKey {
    RouteKey {
        table: Table::Main,
        destination: net(destination),
        metric,
    }
}

fn into_device(source: &str, mtu: u32) -> RouteAction {
    RouteAction::Device {
        source: source.parse().expect("address"),
        mtu,
    }
}

fn table(own: &str) -> Guard {
    Guard::Installed(GuardTable {
        device: Some("podwire0".to_owned()),
        cluster_cidrs: [net("10.244.0.0/16")].into(),
        own_cidrs: [net(own)].into(),
        host_network_cidrs: [].into(),
        underlay_links: [].into(),
    })
}

/// A node with one encrypted peer, in both families.
fn whole() -> Kernel {
    let route = |cidr, source| (key(cidr, METRIC), into_device(source, 1420));
    let cover = |cidr| (key(cidr, METRIC_UNREACHABLE), RouteAction::Unreachable);
    Kernel {
        device: Some(Device {
            mtu: 1420,
            up: true,
            transmit_queue_length: 2000,
            fixed_settings: true,
        }),
        addresses: [net("10.244.1.0/32"), net("fd00:1::f/128")].into(),
        routes: [
            route("10.244.2.0/24", "10.244.1.0"),
            route("fd00:2::/64", "fd00:1::f"),
            cover("10.244.2.0/24"),
            cover("fd00:2::/64"),
        ]
        .into(),
        guard: table("10.244.1.0/24"),
        rules: [peers_rule()].into(),
    }
}

fn peers_rule() -> Rule {
    Rule {
        action: RuleAction::LookupPeers,
        destination: net("10.244.0.0/16"),
    }
}

/// The damage of one change to a node that was left whole, in words.
fn told(change: impl FnOnce(&mut Kernel)) -> Vec<String> {
    let mut observed = whole();
    change(&mut observed);
    let found = damage(&whole(), &observed, &whole());
    found.iter().map(ToString::to_string).collect()
}

fn device(kernel: &mut Kernel) -> &mut Device {
    kernel.device.as_mut().expect("a device")
}

#[test]
fn nothing_is_wrong_with_what_is_as_it_was_left_or_as_it_should_be() {
    let mut other = whole();
    other.guard = table("10.244.9.0/24");
    other.addresses = [net("10.244.9.0/32")].into();
    device(&mut other).mtu = 8920;
    other.routes = [(
        key("10.244.3.0/24", METRIC),
        into_device("10.244.9.0", 8920),
    )]
    .into();
    for (left, desired) in [
        (whole(), whole()),
        (whole(), other.clone()),
        (other, whole()),
        (whole(), Kernel::default()),
        (Kernel::default(), whole()),
    ] {
        assert_eq!(damage(&left, &left, &desired), []);
        assert_eq!(damage(&left, &desired, &desired), []);
    }
}

#[test]
fn each_thing_that_is_missing_or_changed_is_named() {
    let peer = key("10.244.2.0/24", METRIC);
    let cover = key("10.244.2.0/24", METRIC_UNREACHABLE);
    type Case = (fn(&mut Kernel), &'static [&'static str]);
    let cases: [Case; 10] = [
        (
            |kernel| kernel.guard = Guard::Missing,
            &["table inet podwire missing"],
        ),
        (
            |kernel| kernel.guard = Guard::Altered,
            &["table inet podwire altered"],
        ),
        (
            |kernel| device(kernel).mtu = 9,
            &["device with an MTU of 9"],
        ),
        (
            |kernel| device(kernel).transmit_queue_length = 5,
            &["device with a queue of 5"],
        ),
        (
            |kernel| device(kernel).fixed_settings = false,
            &["device with another rp_filter, forwarding or addr_gen_mode"],
        ),
        (
            |kernel| _ = kernel.addresses.insert(net("10.9.9.9/32")),
            &["address 10.9.9.9/32 added"],
        ),
        (
            |kernel| {
                let strange = key("10.244.7.0/24", 5);
                kernel.routes.insert(strange, RouteAction::Unreachable);
            },
            &["route 10.244.7.0/24 metric 5 added"],
        ),
        (
            |kernel| kernel.rules.clear(),
            &["rule 120 to 10.244.0.0/16 missing"],
        ),
        (
            |kernel| {
                let action = RuleAction::Refuse;
                _ = kernel.rules.insert(Rule {
                    action,
                    ..peers_rule()
                });
            },
            &["rule 121 to 10.244.0.0/16 added"],
        ),
        (
            |kernel| kernel.routes.clear(),
            &[
                "route 10.244.2.0/24 metric 1024 missing",
                "route 10.244.2.0/24 metric 4000000 missing",
                "route fd00:2::/64 metric 1024 missing",
                "route fd00:2::/64 metric 4000000 missing",
            ],
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(told(change), expected);
    }
    assert_eq!(
        told(|kernel| _ = kernel.routes.remove(&cover)),
        ["route 10.244.2.0/24 metric 4000000 missing"]
    );
    assert_eq!(
        told(|kernel| _ = kernel.routes.insert(peer, RouteAction::Unreachable)),
        ["route 10.244.2.0/24 metric 1024 changed"]
    );
}

#[test]
fn what_follows_from_other_damage_is_not_told() {
    let into_device = |action: &RouteAction| matches!(action, RouteAction::Device { .. });
    assert_eq!(
        told(|kernel| {
            kernel.device = None;
            kernel.addresses.clear();
            kernel.routes.retain(|_, action| !into_device(action));
        }),
        ["device missing"]
    );
    assert_eq!(
        told(|kernel| {
            device(kernel).up = false;
            kernel.addresses.remove(&net("fd00:1::f/128"));
            kernel.routes.retain(|_, action| !into_device(action));
        }),
        ["device down"]
    );
    assert_eq!(
        told(|kernel| {
            kernel.addresses.remove(&net("10.244.1.0/32"));
            kernel.routes.remove(&key("10.244.2.0/24", METRIC));
        }),
        ["address 10.244.1.0/32 missing"]
    );
    assert_eq!(
        told(|kernel| {
            device(kernel).mtu = 1300;
            let moved = super::tests::into_device("fd00:1::f", 1300);
            kernel.routes.insert(key("fd00:2::/64", METRIC), moved);
        }),
        ["device with an MTU of 1300"]
    );
}

#[test]
fn damage_beside_a_change_of_the_registry_is_told_and_the_change_is_not() {
    let mut desired = whole();
    desired.guard = table("10.244.9.0/24");
    desired.routes.remove(&key("10.244.2.0/24", METRIC));
    let mut observed = whole();
    observed.guard = Guard::Missing;
    observed.routes.remove(&key("fd00:2::/64", METRIC));
    let found = damage(&whole(), &observed, &desired);
    assert_eq!(
        found,
        [
            Damage::TableMissing,
            Damage::RouteMissing(key("fd00:2::/64", METRIC))
        ]
    );
}
