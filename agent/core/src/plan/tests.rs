use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::kernel::{METRIC, METRIC_UNREACHABLE, Rule, RuleAction};

fn net(text: &str) -> IpNet {
    text.parse().expect("cidr")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("address")
}

const CIDRS: [&str; 5] = [
    "10.244.2.0/24",
    "10.244.3.0/24",
    "fd00:10:244:2::/64",
    "fd00:10:244:3::/64",
    "10.244.0.0/16",
];
const SOURCES: [&str; 4] = [
    "10.244.1.0",
    "10.244.9.0",
    "fd00:10:244:1::f",
    "fd00:10:244:9::f",
];
const MTUS: [u32; 4] = [1280, 1320, 1440, 8940];

fn key(cidr: usize) -> RouteKey {
    RouteKey::peer(Table::Peers, net(CIDRS[cidr]))
}

fn cover(cidr: usize) -> RouteKey {
    RouteKey::cover(net(CIDRS[cidr]))
}

fn rule(action: RuleAction, cidr: usize) -> Rule {
    Rule {
        action,
        destination: net(CIDRS[cidr]),
    }
}

fn device_route(source: usize, mtu: u32) -> RouteAction {
    RouteAction::Device {
        source: address(SOURCES[source]),
        mtu,
    }
}

fn via(last: u8) -> RouteAction {
    RouteAction::Via {
        gateway: address(&format!("192.0.2.{last}")),
        link_index: 2,
    }
}

fn table(host_network: &[usize]) -> GuardTable {
    GuardTable {
        device: Some("podwire0".to_owned()),
        cluster_cidrs: [net("10.244.0.0/16"), net("fd00:10:244::/48")].into(),
        own_cidrs: [net("10.244.1.0/24")].into(),
        host_network_cidrs: host_network
            .iter()
            .map(|index| net(CIDRS[*index]))
            .collect(),
        underlay_links: ["eth0".to_owned()].into(),
    }
}

/// A node with two peers: the first reached so, the second encrypted.
fn kernel(first: RouteAction) -> Kernel {
    let host_network: &[usize] = if matches!(first, RouteAction::Via { .. }) {
        &[0]
    } else {
        &[]
    };
    Kernel {
        device: Some(Device {
            mtu: 1440,
            up: true,
            transmit_queue_length: 1000,
            fixed_settings: true,
        }),
        addresses: [net("10.244.1.0/32")].into(),
        routes: BTreeMap::from([
            (key(0), first),
            (key(1), device_route(0, 1440)),
            (cover(0), RouteAction::Unreachable),
            (cover(1), RouteAction::Unreachable),
            (cover(4), RouteAction::Unreachable),
        ]),
        guard: Guard::Installed(table(host_network)),
        rules: [
            rule(RuleAction::LookupPeers, 4),
            rule(RuleAction::Refuse, 4),
        ]
        .into(),
    }
}

#[test]
fn a_bare_kernel_is_closed_first_and_has_an_address_before_a_route_uses_it() {
    let desired = kernel(via(2));
    let settings = desired.device.clone().expect("a device");
    let unreachable = |cidr| Change::SetRoute(cover(cidr), RouteAction::Unreachable);
    assert_eq!(
        plan(&Kernel::default(), &desired),
        [
            Change::InstallGuard(table(&[])),
            unreachable(4),
            unreachable(0),
            unreachable(1),
            Change::AddRule(rule(RuleAction::LookupPeers, 4)),
            Change::AddRule(rule(RuleAction::Refuse, 4)),
            Change::CreateDevice,
            Change::SetDevice(settings),
            Change::AddAddress(net("10.244.1.0/32")),
            Change::SetRoute(key(0), via(2)),
            Change::SetRoute(key(1), device_route(0, 1440)),
            Change::InstallGuard(table(&[0])),
        ]
    );
}

#[test]
fn what_is_as_desired_is_left_alone() {
    let desired = kernel(via(2));
    assert_eq!(plan(&desired, &desired), []);
}

#[test]
fn a_guard_that_is_missing_or_altered_is_installed_first_and_once() {
    let desired = kernel(via(2));
    for guard in [
        Guard::Missing,
        Guard::Altered,
        Guard::Installed(table(&[0, 1])),
    ] {
        let observed = Kernel {
            guard,
            ..desired.clone()
        };
        assert_eq!(
            plan(&observed, &desired),
            [Change::InstallGuard(table(&[0]))]
        );
    }
}

#[test]
fn a_pair_that_becomes_plaintext_is_closed_in_between() {
    let (before, after) = (kernel(device_route(0, 1440)), kernel(via(2)));
    assert_eq!(
        plan(&before, &after),
        [
            Change::RemoveRoute(key(0), device_route(0, 1440)),
            Change::SetRoute(key(0), via(2)),
            Change::InstallGuard(table(&[0])),
        ]
    );
}

#[test]
fn a_pair_that_becomes_encrypted_is_closed_first() {
    let (before, after) = (kernel(via(2)), kernel(device_route(0, 1440)));
    assert_eq!(
        plan(&before, &after),
        [
            Change::InstallGuard(table(&[])),
            Change::RemoveRoute(key(0), via(2)),
            Change::SetRoute(key(0), device_route(0, 1440)),
        ]
    );
}

#[test]
fn another_gateway_replaces_the_route_in_one_step() {
    let changes = plan(&kernel(via(2)), &kernel(via(3)));
    assert_eq!(changes, [Change::SetRoute(key(0), via(3))]);
}

#[test]
fn a_peer_that_is_gone_loses_its_route_before_its_cover() {
    let before = kernel(device_route(0, 1440));
    let mut after = before.clone();
    after.routes.remove(&key(0));
    after.routes.remove(&cover(0));
    assert_eq!(
        plan(&before, &after),
        [
            Change::RemoveRoute(key(0), device_route(0, 1440)),
            Change::RemoveRoute(cover(0), RouteAction::Unreachable),
        ]
    );
}

#[test]
fn a_rule_for_other_pods_goes_after_the_new_one_is_there() {
    let before = kernel(device_route(0, 1440));
    let mut after = before.clone();
    after.rules = [rule(RuleAction::Refuse, 0)].into();
    assert_eq!(
        plan(&before, &after),
        [
            Change::AddRule(rule(RuleAction::Refuse, 0)),
            Change::RemoveRule(rule(RuleAction::LookupPeers, 4)),
            Change::RemoveRule(rule(RuleAction::Refuse, 4)),
        ]
    );
}

#[test]
fn a_new_device_mtu_sets_the_ipv6_routes_that_the_kernel_changed_along() {
    let mut before = kernel(device_route(0, 1440));
    before.addresses.insert(net("fd00:10:244:1::f/128"));
    before.routes.insert(key(2), device_route(2, 1440));
    before.routes.insert(key(3), device_route(2, 1320));
    let mut after = before.clone();
    after.device = Some(Device {
        mtu: 8940,
        up: true,
        transmit_queue_length: 1000,
        fixed_settings: true,
    });
    let changes = plan(&before, &after);
    let set_device = Change::SetDevice(after.device.clone().expect("a device"));
    assert_eq!(
        changes,
        [set_device, Change::SetRoute(key(2), device_route(2, 1440))]
    );
}

#[test]
fn a_changed_own_address_is_removed_after_the_last_route_left_it() {
    let before = kernel(device_route(0, 1440));
    let mut after = kernel(device_route(1, 1440));
    after.addresses = [net("10.244.9.0/32")].into();
    after.routes.insert(key(1), device_route(1, 1440));
    assert_eq!(
        plan(&before, &after),
        [
            Change::AddAddress(net("10.244.9.0/32")),
            Change::SetRoute(key(0), device_route(1, 1440)),
            Change::SetRoute(key(1), device_route(1, 1440)),
            Change::RemoveAddress(net("10.244.1.0/32")),
        ]
    );
}

#[test]
fn a_route_of_ours_with_a_foreign_metric_goes() {
    let desired = kernel(via(2));
    let mut observed = desired.clone();
    let stray = RouteKey {
        metric: 50,
        ..key(1)
    };
    observed.routes.insert(stray, via(9));
    assert_eq!(
        plan(&observed, &desired),
        [Change::RemoveRoute(stray, via(9))]
    );
}

#[test]
fn without_a_device_of_its_own_a_node_leaves_the_old_one_bare() {
    let observed = kernel(via(2));
    let mut desired = observed.clone();
    desired.device = None;
    desired.addresses.clear();
    desired.routes.remove(&key(1));
    assert_eq!(
        plan(&observed, &desired),
        [
            Change::RemoveRoute(key(1), device_route(0, 1440)),
            Change::RemoveAddress(net("10.244.1.0/32")),
        ]
    );
}

fn device() -> impl Strategy<Value = Device> {
    (0..MTUS.len(), any::<bool>(), 500_u32..502, any::<bool>()).prop_map(
        |(mtu, up, transmit_queue_length, fixed_settings)| Device {
            mtu: MTUS[mtu],
            up,
            transmit_queue_length,
            fixed_settings,
        },
    )
}

/// How each CIDR is reached: not at all, by the device or by a gateway.
fn action(cidr: usize) -> impl Strategy<Value = Option<RouteAction>> {
    let ipv6 = matches!(net(CIDRS[cidr]), IpNet::V6(_));
    (0..4, 0..2_usize, 0..MTUS.len(), 2_u8..4).prop_map(move |(kind, source, mtu, last)| match kind
    {
        0 => None,
        1 | 2 => Some(device_route(source + if ipv6 { 2 } else { 0 }, MTUS[mtu])),
        _ => Some(via(last)),
    })
}

fn actions() -> impl Strategy<Value = Vec<Option<RouteAction>>> {
    (0..CIDRS.len()).map(action).collect::<Vec<_>>()
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let action = proptest::sample::select(&RuleAction::ALL);
    (action, 0..CIDRS.len()).prop_map(|(action, cidr)| rule(action, cidr))
}

fn rules() -> impl Strategy<Value = std::collections::BTreeSet<Rule>> {
    proptest::collection::btree_set(any_rule(), 0..4)
}

/// A state that an agent may want: what it names is there, and its guard admits what it declares.
fn desired() -> impl Strategy<Value = Kernel> {
    let covered = proptest::collection::vec(any::<bool>(), CIDRS.len());
    (
        proptest::option::weighted(0.8, device()),
        actions(),
        covered,
        rules(),
    )
        .prop_map(|(device, actions, covered, rules)| {
            let device = device.map(|device| Device {
                up: true,
                fixed_settings: true,
                ..device
            });
            let mut kernel = Kernel {
                device,
                ..Kernel::default()
            };
            let mut host_network = Vec::new();
            for (cidr, action) in actions.into_iter().enumerate() {
                if covered[cidr] || action.is_some() {
                    kernel.routes.insert(cover(cidr), RouteAction::Unreachable);
                }
                match action {
                    Some(RouteAction::Device { .. }) if kernel.device.is_none() => {}
                    Some(action) => {
                        kernel.addresses.extend(source(&action));
                        if source(&action).is_none() {
                            host_network.push(cidr);
                        }
                        for table in Table::ALL {
                            let key = RouteKey::peer(table, net(CIDRS[cidr]));
                            kernel.routes.insert(key, action.clone());
                        }
                    }
                    None => {}
                }
            }
            kernel.rules = rules;
            kernel.guard = Guard::Installed(table(&host_network));
            kernel
        })
}

fn change() -> impl Strategy<Value = Change> {
    let metric = prop_oneof![Just(METRIC), Just(METRIC_UNREACHABLE), Just(50_u32)];
    let table_of = proptest::sample::select(&Table::ALL);
    let route = (0..CIDRS.len(), metric, table_of).prop_flat_map(|(cidr, metric, table)| {
        let key = RouteKey {
            table,
            destination: net(CIDRS[cidr]),
            metric,
        };
        let action = action(cidr).prop_map(|action| action.unwrap_or(RouteAction::Unreachable));
        (Just(key), action)
    });
    let host = || (0..SOURCES.len()).prop_map(|index| IpNet::from(address(SOURCES[index])));
    prop_oneof![
        1 => proptest::sample::subsequence(vec![0, 1, 2, 3, 4], 0..5)
            .prop_map(|host_network| Change::InstallGuard(table(&host_network))),
        1 => Just(Change::CreateDevice),
        2 => device().prop_map(Change::SetDevice),
        2 => host().prop_map(Change::AddAddress),
        1 => host().prop_map(Change::RemoveAddress),
        4 => route.clone().prop_map(|(key, action)| Change::SetRoute(key, action)),
        1 => route.prop_map(|(key, action)| Change::RemoveRoute(key, action)),
        1 => any_rule().prop_map(Change::AddRule),
        1 => any_rule().prop_map(Change::RemoveRule),
    ]
}

/// Any state that a kernel can be in: what random changes made of a wanted one, and any guard.
fn observed() -> impl Strategy<Value = Kernel> {
    let changes = proptest::collection::vec(change(), 0..12);
    (
        prop_oneof![Just(Kernel::default()), desired()],
        changes,
        0..4,
    )
        .prop_map(|(kernel, changes, guard)| {
            let mut kernel = apply(kernel, &changes);
            match guard {
                0 => kernel.guard = Guard::Missing,
                1 => kernel.guard = Guard::Altered,
                _ => {}
            }
            kernel
        })
}

/// CIDRs whose packets leave in plaintext in this state.
fn plaintext(kernel: &Kernel) -> Vec<IpNet> {
    let admits = |cidr: &IpNet| match &kernel.guard {
        Guard::Installed(table) => table.host_network_cidrs.contains(cidr),
        Guard::Missing | Guard::Altered => true,
    };
    let routes = kernel
        .routes
        .iter()
        .filter(|(_, action)| matches!(action, RouteAction::Via { .. }));
    routes
        .map(|(key, _)| key.destination)
        .filter(admits)
        .collect()
}

/// Every state from the observed to the last.
fn states(observed: &Kernel, changes: &[Change]) -> Vec<Kernel> {
    (0..=changes.len())
        .map(|count| apply(observed.clone(), &changes[..count]))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn a_plan_that_was_applied_leaves_nothing_to_do(observed in observed(), desired in desired()) {
        let after = apply(observed.clone(), &plan(&observed, &desired));
        prop_assert_eq!(plan(&after, &desired), []);
        prop_assert_eq!(&after.routes, &desired.routes);
        prop_assert_eq!(&after.addresses, &desired.addresses);
        prop_assert_eq!(&after.guard, &desired.guard);
        prop_assert_eq!(&after.rules, &desired.rules);
        prop_assert!(desired.device.is_none() || after.device == desired.device);
    }

    #[test]
    fn a_plan_that_stopped_half_way_is_taken_up_again(
        observed in observed(),
        desired in desired(),
        stop in any::<proptest::sample::Index>(),
    ) {
        let changes = plan(&observed, &desired);
        let half = apply(observed, &changes[..stop.index(changes.len() + 1)]);
        let after = apply(half.clone(), &plan(&half, &desired));
        prop_assert_eq!(plan(&after, &desired), []);
    }

    #[test]
    fn no_step_opens_a_plaintext_path_that_is_not_declared(
        observed in observed(),
        desired in desired(),
    ) {
        let Guard::Installed(declared) = &desired.guard else { unreachable!() };
        let changes = plan(&observed, &desired);
        // The first change is the guard's, unless the guard is right already.
        let closed_after = usize::from(!changes.is_empty());
        for state in &states(&observed, &changes)[closed_after..] {
            for cidr in plaintext(state) {
                prop_assert!(declared.host_network_cidrs.contains(&cidr), "{cidr}: {changes:?}");
            }
        }
    }

    #[test]
    fn a_pair_that_changes_its_mode_has_no_route_in_between(
        observed in observed(),
        desired in desired(),
    ) {
        let states = states(&observed, &plan(&observed, &desired));
        for (key, after) in desired.routes.iter().filter(|(_, action)| !is_guard(action)) {
            let changes_mode =
                |before: &&RouteAction| !is_guard(before) && kind(before) != kind(after);
            let Some(before) = observed.routes.get(key).filter(changes_mode) else { continue };
            let seen = |state: &Kernel| state.routes.get(key).map(kind);
            let gone = states.iter().position(|state| seen(state).is_none());
            let Some(gone) = gone else { panic!("{key:?} was never closed") };
            prop_assert!(states[..gone].iter().all(|state| seen(state) == Some(kind(before))));
        }
    }

    #[test]
    fn covers_are_there_before_a_route_goes_and_never_leave_in_between(
        observed in observed(),
        desired in desired(),
    ) {
        let changes = plan(&observed, &desired);
        let states = states(&observed, &changes);
        let covers = |kernel: &Kernel, wanted: &Kernel| {
            wanted.routes.iter().filter(|(_, action)| is_guard(action)).all(|(key, action)| {
                kernel.routes.get(key) == Some(action)
            })
        };
        for (state, change) in states.iter().zip(&changes) {
            if matches!(change, Change::RemoveRoute(_, action) if !is_guard(action)) {
                prop_assert!(covers(state, &desired), "{changes:?}");
            }
        }
        let first = states.iter().position(|state| covers(state, &desired));
        prop_assert!(states.iter().skip(first.unwrap_or(0)).all(|state| covers(state, &desired)));
    }
}
