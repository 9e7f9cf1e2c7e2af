//! Against the kernel, in network namespaces of their own, with `ip` as the witness.

pub(crate) mod namespace;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use ipnet::IpNet;
use podwire_core::kernel::{
    Change, Device, Guard, GuardTable, Kernel, METRIC, METRIC_UNREACHABLE, RouteAction, RouteKey,
    Rule, RuleAction, Table,
};

use self::namespace::{Namespace, ip, nft, set, setting, up};
use super::cleanup::Removed;
use super::route::Routes;
use super::{Error, Netlink, Watch};
use crate::transport::{Offloads, OffloadsInUse, TunDevice};

const DEVICE: &str = "podwire0";

/// Long enough for any machine; nothing here takes a second.
const DEADLINE: Duration = Duration::from_secs(30);

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn key(destination: &str, metric: u32) -> RouteKey {
    RouteKey {
        table: Table::Main,
        destination: net(destination),
        metric,
    }
}

fn rule(action: RuleAction, destination: &str) -> Rule {
    Rule {
        action,
        destination: net(destination),
    }
}

/// A node with a TUN device and an underlay link, whose index is returned.
fn node() -> (Namespace, u32) {
    let node = Namespace::new();
    let index = node.run(|| {
        ip("tuntap add podwire0 mode tun multi_queue");
        ip("link add underlay type veth peer name far");
        for link in ["far", "underlay"] {
            // Nothing here asks for neighbours, and what is shown must not change by itself.
            ip(&format!("link set {link} addrgenmode none"));
            up(link);
        }
        ip("address add 192.0.2.11/24 dev underlay");
        ip("address add 2001:db8::11/64 dev underlay nodad");
        let shown = ip("-o link show dev underlay");
        shown
            .split(':')
            .next()
            .expect("an index")
            .parse()
            .expect("a number")
    });
    (node, index)
}

const SETTINGS: Device = Device {
    mtu: 1420,
    up: true,
    transmit_queue_length: 1000,
    fixed_settings: true,
};

fn guard_table() -> GuardTable {
    GuardTable {
        device: Some(DEVICE.into()),
        cluster_cidrs: [net("10.244.0.0/16"), net("fd00:10:244::/48")].into(),
        own_cidrs: [net("10.244.1.0/24"), net("fd00:10:244:1::/64")].into(),
        host_network_cidrs: BTreeSet::new(),
        underlay_links: ["underlay".to_owned()].into(),
    }
}

const OWN4: &str = "10.244.1.0/32";
const OWN6: &str = "fd00:10:244:1:ffff:ffff:ffff:ffff/128";

fn addresses() -> [IpNet; 2] {
    [net(OWN4), net(OWN6)]
}

fn into_device(family: &IpNet, mtu: u32) -> RouteAction {
    let source = if family.addr().is_ipv4() {
        net(OWN4)
    } else {
        net(OWN6)
    };
    RouteAction::Device {
        source: source.addr(),
        mtu,
    }
}

fn via(family: &IpNet, link_index: u32) -> RouteAction {
    let gateway = if family.addr().is_ipv4() {
        "192.0.2.12"
    } else {
        "2001:db8::12"
    };
    RouteAction::Via {
        gateway: addr(gateway),
        link_index,
    }
}

/// A node whose device is set up.
async fn with_device(netlink: &mut Netlink) {
    netlink
        .apply(&Change::SetDevice(SETTINGS))
        .await
        .expect("the device's settings");
    for address in addresses() {
        netlink
            .apply(&Change::AddAddress(address))
            .await
            .expect("an address");
    }
}

#[test]
fn what_is_applied_is_what_is_observed() {
    let (node, underlay) = node();
    node.block_on(async || {
        let mut netlink = Netlink::open(DEVICE).expect("a socket");
        let mut expected = netlink.observe().await.expect("observed");
        assert_eq!(
            expected.device.as_ref().map(|device| device.up),
            Some(false)
        );
        assert_eq!(
            (&expected.guard, expected.routes.len()),
            (&Guard::Missing, 0)
        );

        let mut routes = BTreeMap::new();
        for pods in ["10.244.2.0/24", "fd00:10:244:2::/64"] {
            routes.insert(key(pods, METRIC), into_device(&net(pods), 1400));
            routes.insert(key(pods, METRIC_UNREACHABLE), RouteAction::Unreachable);
        }
        for pods in ["10.244.3.0/24", "fd00:10:244:3::/64"] {
            routes.insert(key(pods, METRIC), via(&net(pods), underlay));
        }
        let mut changes = vec![Change::SetDevice(SETTINGS)];
        changes.extend(addresses().map(Change::AddAddress));
        changes.extend(
            routes
                .iter()
                .map(|(key, action)| Change::SetRoute(*key, action.clone())),
        );
        changes.push(Change::InstallGuard(guard_table()));
        for change in changes {
            netlink.apply(&change).await.expect("applied");
            match change {
                Change::SetDevice(device) => expected.device = Some(device),
                Change::AddAddress(address) => drop(expected.addresses.insert(address)),
                Change::SetRoute(key, action) => drop(expected.routes.insert(key, action)),
                Change::InstallGuard(table) => expected.guard = Guard::Installed(table),
                other => panic!("{other:?}"),
            }
            // Once more, as after a crash between the two.
            assert_eq!(netlink.observe().await.expect("observed"), expected);
        }
        witnessed();
        for (key, action) in routes {
            let change = Change::RemoveRoute(key, action);
            netlink.apply(&change).await.expect("removed");
            netlink.apply(&change).await.expect("removed before");
            expected.routes.remove(&key);
            assert_eq!(netlink.observe().await.expect("observed"), expected);
        }
        for address in addresses() {
            netlink
                .apply(&Change::RemoveAddress(address))
                .await
                .expect("removed");
            netlink
                .apply(&Change::RemoveAddress(address))
                .await
                .expect("removed before");
            expected.addresses.remove(&address);
            assert_eq!(netlink.observe().await.expect("observed"), expected);
        }
    });
}

/// What `ip` and `/proc/sys` say of what the test above applied.
fn witnessed() {
    let routes = ip("route show protocol 119");
    assert!(routes.contains("10.244.2.0/24 dev podwire0 scope link src 10.244.1.0 metric 1024"));
    assert!(routes.contains("mtu 1400"), "{routes}");
    assert!(
        routes.contains("unreachable 10.244.2.0/24 metric 4000000"),
        "{routes}"
    );
    assert!(
        routes.contains("10.244.3.0/24 via 192.0.2.12 dev underlay metric 1024"),
        "{routes}"
    );
    assert_eq!(ip("-6 route show protocol 119").lines().count(), 3);
    assert_eq!(
        ip("route show dev podwire0").lines().count(),
        1,
        "no connected route"
    );
    let addresses = ip("address show dev podwire0");
    assert!(
        addresses.contains("inet6 fd00:10:244:1:ffff:ffff:ffff:ffff/128"),
        "{addresses}"
    );
    assert!(!addresses.contains("fe80"), "{addresses}");
    assert!(!addresses.contains("tentative"), "{addresses}");
    assert!(addresses.contains("qlen 1000"), "{addresses}");
    assert_eq!(setting("ipv4/conf/podwire0/rp_filter"), "2");
    assert_eq!(setting("ipv4/conf/podwire0/forwarding"), "1");
}

/// Each kind of route at the same key is replaced by each other kind, while somebody else looks.
fn replaced_without_a_gap(pods: &'static str) {
    let (node, underlay) = node();
    let key = key(pods, METRIC);
    let kinds = [
        into_device(&net(pods), 1400),
        RouteAction::Unreachable,
        via(&net(pods), underlay),
        into_device(&net(pods), 1300),
        via(&net(pods), underlay),
        RouteAction::Unreachable,
    ];
    let (seen, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let look = async || {
        let netlink = Netlink::open(DEVICE).expect("a socket");
        while !done.load(Ordering::Relaxed) {
            let routes = Routes::read(&netlink.handle).await.expect("a dump");
            assert_eq!(routes.count(), 1, "exactly one route at any time");
            seen.fetch_add(1, Ordering::Relaxed);
        }
    };
    node.block_on(async || {
        let mut netlink = Netlink::open(DEVICE).expect("a socket");
        with_device(&mut netlink).await;
        netlink
            .apply(&Change::SetRoute(key, RouteAction::Unreachable))
            .await
            .expect("set");
        std::thread::scope(|scope| {
            let looking = scope.spawn(|| node.block_on(look));
            let changed = std::panic::AssertUnwindSafe(|| {
                while seen.load(Ordering::Relaxed) < 300 && !looking.is_finished() {
                    // A runtime of its own: this thread is busy with the scope.
                    node.block_on(async || {
                        let mut netlink = Netlink::open(DEVICE).expect("a socket");
                        netlink.observe().await.expect("observed");
                        for kind in &kinds {
                            let change = Change::SetRoute(key, kind.clone());
                            netlink.apply(&change).await.expect("replaced");
                            let observed = netlink.observe().await.expect("observed");
                            assert_eq!(observed.routes, BTreeMap::from([(key, kind.clone())]));
                        }
                    });
                }
            });
            let outcome = std::panic::catch_unwind(changed);
            done.store(true, Ordering::Relaxed);
            looking.join().expect("never a gap");
            outcome.expect("every replacement");
        });
    });
}

#[test]
fn an_ipv4_route_is_replaced_by_any_other_kind_with_no_gap() {
    replaced_without_a_gap("10.244.2.0/24");
}

#[test]
fn an_ipv6_route_is_replaced_by_any_other_kind_with_no_gap() {
    replaced_without_a_gap("fd00:10:244:2::/64");
}

#[test]
fn routes_of_others_are_never_touched() {
    let (node, underlay) = node();
    node.block_on(async || {
        let mut netlink = Netlink::open(DEVICE).expect("a socket");
        with_device(&mut netlink).await;
        let foreign = [
            "route add 10.244.2.0/24 via 192.0.2.99 metric 10 protocol static",
            "route add 10.244.2.0/24 via 192.0.2.99 metric 1024 protocol static",
            "-6 route add fd00:10:244:2::/64 via 2001:db8::99 metric 10 protocol static",
            "-6 route add fd00:10:244:2::/64 via 2001:db8::99 metric 1024 protocol static",
        ];
        for route in foreign {
            ip(route);
        }
        let shown = || {
            [
                ip("route show protocol static"),
                ip("-6 route show protocol static"),
            ]
        };
        let before = shown();
        for pods in ["10.244.2.0/24", "fd00:10:244:2::/64"] {
            for action in [into_device(&net(pods), 1400), via(&net(pods), underlay)] {
                let refused = netlink
                    .apply(&Change::SetRoute(key(pods, METRIC), action))
                    .await;
                let error = refused.expect_err("the key is taken");
                assert!(
                    matches!(error, Error::RouteOccupied { protocol: 4, .. }),
                    "{error}"
                );
            }
            let ours = Change::SetRoute(key(pods, 2000), RouteAction::Unreachable);
            netlink.apply(&ours).await.expect("another metric");
            for metric in [10, METRIC, 2000] {
                let gone = Change::RemoveRoute(key(pods, metric), RouteAction::Unreachable);
                netlink.apply(&gone).await.expect("nothing of ours is left");
            }
        }
        assert_eq!(shown(), before);
        assert!(netlink.observe().await.expect("observed").routes.is_empty());
    });
}

#[test]
fn several_own_routes_at_one_key_become_the_one_that_is_set() {
    let (node, underlay) = node();
    node.block_on(async || {
        let mut netlink = Netlink::open(DEVICE).expect("a socket");
        with_device(&mut netlink).await;
        for (family, pods, gateways) in [
            ("-4", "10.244.2.0/24", ["192.0.2.12", "192.0.2.13"]),
            ("-6", "fd00:10:244:2::/64", ["2001:db8::12", "2001:db8::13"]),
        ] {
            for wanted in [via(&net(pods), underlay), into_device(&net(pods), 1400)] {
                for gateway in gateways {
                    let what = format!("{pods} via {gateway} metric 1024 protocol 119");
                    ip(&format!("{family} route append {what}"));
                }
                ip(&format!(
                    "{family} route append {pods} dev underlay metric 1024 protocol 119"
                ));
                let key = key(pods, METRIC);
                let before = netlink.observe().await.expect("observed");
                assert_ne!(before.routes.get(&key), Some(&wanted));
                netlink
                    .apply(&Change::SetRoute(key, wanted.clone()))
                    .await
                    .expect("set");
                let after = netlink.observe().await.expect("observed");
                assert_eq!(after.routes, BTreeMap::from([(key, wanted.clone())]));
                let shown = ip(&format!("{family} route show {pods}"));
                assert_eq!(shown.lines().count(), 1, "{shown}");
                netlink
                    .apply(&Change::RemoveRoute(key, wanted))
                    .await
                    .expect("removed");
            }
        }
    });
}

#[test]
fn a_link_that_is_no_tun_device_is_refused_and_left_alone() {
    for add in [
        "link add podwire0 type veth peer name other",
        "tuntap add podwire0 mode tap multi_queue",
        "tuntap add podwire0 mode tun",
        "link add podwire0 type bridge",
    ] {
        Namespace::new().block_on(async || {
            ip(add);
            let before = ip("link show dev podwire0");
            let mut netlink = Netlink::open(DEVICE).expect("a socket");
            let observed = netlink.observe().await.expect("observed");
            assert_eq!(observed.device, None);
            let error = netlink.obstacle().expect("a foreign device");
            assert!(matches!(error, Error::ForeignDevice { .. }), "{error}");
            let error = netlink
                .apply(&Change::SetDevice(SETTINGS))
                .await
                .expect_err("foreign");
            assert!(matches!(error, Error::ForeignDevice { .. }), "{error}");
            let error = netlink
                .apply(&Change::AddAddress(net(OWN4)))
                .await
                .expect_err("foreign");
            assert!(matches!(error, Error::ForeignDevice { .. }), "{error}");
            assert_eq!(
                netlink.cleanup().await.expect("nothing to do"),
                Removed::default()
            );
            assert_eq!(ip("link show dev podwire0"), before);
        });
    }
}

#[test]
fn a_device_that_a_process_reads_is_told_from_one_that_was_left() {
    let (node, _) = node();
    node.block_on(async || {
        let mut netlink = Netlink::open(DEVICE).expect("a socket");
        netlink.observe().await.expect("observed");
        assert!(netlink.device_in_use().is_none(), "nobody reads it");
        let reader =
            TunDevice::open(DEVICE, 2, &OffloadsInUse::new(Offloads::default())).expect("attached");
        netlink.observe().await.expect("observed");
        let error = netlink.device_in_use().expect("in use");
        assert!(error.to_string().contains("another process"), "{error}");
        drop(reader);
        netlink.observe().await.expect("observed");
        assert!(netlink.device_in_use().is_none(), "it was closed");
    });
}

#[test]
fn a_missing_device_is_observed_and_named() {
    Namespace::new().block_on(async || {
        let mut netlink = Netlink::open(DEVICE).expect("a socket");
        assert_eq!(
            netlink.observe().await.expect("observed"),
            Kernel::default()
        );
        let error = netlink
            .apply(&Change::SetDevice(SETTINGS))
            .await
            .expect_err("no device");
        assert!(
            matches!(&error, Error::NoDevice { name } if name == DEVICE),
            "{error}"
        );
        let route = Change::SetRoute(key("10.244.2.0/24", METRIC), into_device(&net(OWN4), 1400));
        let error = netlink.apply(&route).await.expect_err("no device");
        assert!(
            error.to_string().contains("10.244.2.0/24 metric 1024"),
            "{error}"
        );
    });
}

#[test]
fn the_device_may_be_made_anew_between_two_changes() {
    let (node, _) = node();
    node.block_on(async || {
        let mut netlink = Netlink::open(DEVICE).expect("a socket");
        with_device(&mut netlink).await;
        netlink.observe().await.expect("observed");
        ip("link delete podwire0");
        ip("tuntap add podwire0 mode tun multi_queue");
        with_device(&mut netlink).await;
        let set = Change::SetRoute(key("10.244.2.0/24", METRIC), into_device(&net(OWN4), 1400));
        netlink.apply(&set).await.expect("the new index");
        assert_eq!(netlink.observe().await.expect("observed").routes.len(), 1);
    });
}

#[test]
fn a_per_device_setting_that_somebody_changes_is_noticed_and_healed() {
    let (node, _) = node();
    node.block_on(async || {
        let mut netlink = Netlink::open(DEVICE).expect("a socket");
        let mut device = async || netlink_device(&mut netlink).await;
        assert_eq!(device().await, Some(SETTINGS));
        for (changed, value) in [
            ("ipv4/conf/podwire0/rp_filter", "1"),
            ("ipv4/conf/podwire0/forwarding", "0"),
            ("ipv6/conf/podwire0/addr_gen_mode", "0"),
        ] {
            set(changed, value);
            let mut fresh = Netlink::open(DEVICE).expect("a socket");
            let observed = fresh.observe().await.expect("observed");
            assert_eq!(
                observed.device.map(|device| device.fixed_settings),
                Some(false)
            );
            assert_eq!(device().await, Some(SETTINGS), "{changed}");
        }
    });
}

/// The device after its settings were written.
async fn netlink_device(netlink: &mut Netlink) -> Option<Device> {
    netlink
        .apply(&Change::SetDevice(SETTINGS))
        .await
        .expect("the device's settings");
    netlink.observe().await.expect("observed").device
}

#[test]
fn the_underlay_is_what_the_kernel_would_do() {
    let (node, link_index) = node();
    node.block_on(async || {
        let mut netlink = Netlink::open(DEVICE).expect("a socket");
        with_device(&mut netlink).await;
        ip("route add 198.51.100.0/24 via 192.0.2.1");
        ip("route add 203.0.113.0/24 via 192.0.2.1 mtu 1380");
        ip("route add unreachable 203.0.113.64/26");
        ip("route add prohibit 203.0.113.128/26");
        ip("route add blackhole 203.0.113.192/26");
        ip("route add 100.64.0.0/24 dev podwire0");
        ip("-6 route add 2001:db8:1::/48 via 2001:db8::1 mtu 1340");
        ip("-6 route add unreachable 2001:db8:2::/48");
        ip("-6 route add 2001:db8:3::/48 dev podwire0");
        set("ipv6/conf/underlay/mtu", "1480");
        let expected = [
            ("192.0.2.12", Some((true, 1500))),
            ("198.51.100.7", Some((false, 1500))),
            ("203.0.113.7", Some((false, 1380))),
            ("203.0.113.70", None),
            ("203.0.113.130", None),
            ("203.0.113.200", None),
            ("100.64.0.1", None),
            ("192.0.2.11", None),
            ("127.0.0.1", None),
            ("233.252.0.1", None),
            ("2001:db8::12", Some((true, 1480))),
            ("2001:db8:1::12", Some((false, 1340))),
            ("2001:db8:2::12", None),
            ("2001:db8:3::12", None),
            ("2001:db8:4::12", None),
            ("2001:db8::11", None),
        ];
        let addresses = expected.map(|(address, _)| addr(address));
        let underlay = netlink.underlay(addresses).await.expect("asked");
        for (address, expected) in expected {
            let path = underlay.get(&addr(address));
            assert_eq!(
                path.map(|path| (path.on_link, path.mtu)),
                expected,
                "{address}"
            );
            assert!(path.is_none_or(|path| path.link == "underlay"));
            assert!(path.is_none_or(|path| path.link_index == link_index));
        }
    });
}

#[test]
fn policy_rules_are_added_once_observed_and_removed_and_others_stay() {
    let (node, _) = node();
    node.block_on(async || {
        let shown = || [ip("-4 rule show"), ip("-6 rule show")].concat();
        // As like ours as can be.
        ip("rule add priority 120 to 10.244.0.0/16 lookup 118 protocol 119");
        ip("rule add priority 120 to 10.244.0.0/16 fwmark 1 lookup 119 protocol 118");
        ip("rule add priority 120 from 10.244.0.0/16 lookup 119 protocol 119");
        ip("rule add priority 120 to 10.244.0.0/16 lookup 119 protocol 118");
        ip("rule add priority 119 to 10.244.0.0/16 lookup 119 protocol 119");
        let before = shown();
        let rules = [
            rule(RuleAction::LookupMain, "10.244.1.0/24"),
            rule(RuleAction::LookupMain, "fd00:10:244:1::/64"),
            rule(RuleAction::LookupPeers, "10.244.0.0/16"),
            rule(RuleAction::LookupPeers, "fd00:10:244::/48"),
            rule(RuleAction::Refuse, "10.244.0.0/16"),
            rule(RuleAction::Refuse, "fd00:10:244::/48"),
        ];
        let mut netlink = Netlink::open(DEVICE).expect("a socket");
        assert!(netlink.observe().await.expect("observed").rules.is_empty());
        for _ in 0..2 {
            for rule in rules {
                netlink.apply(&Change::AddRule(rule)).await.expect("added");
            }
            let observed = netlink.observe().await.expect("observed").rules;
            assert_eq!(observed, rules.into_iter().collect());
        }
        let added: Vec<String> = shown()
            .lines()
            .filter(|line| !before.contains(line))
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            added,
            [
                "119: from all to 10.244.1.0/24 lookup main proto 119",
                "120: from all to 10.244.0.0/16 lookup 119 proto 119",
                "121: from all to 10.244.0.0/16 unreachable proto 119",
                "119: from all to fd00:10:244:1::/64 lookup main proto 119",
                "120: from all to fd00:10:244::/48 lookup 119 proto 119",
                "121: from all to fd00:10:244::/48 unreachable proto 119",
            ]
        );
        for _ in 0..2 {
            for rule in rules {
                let change = Change::RemoveRule(rule);
                netlink.apply(&change).await.expect("removed");
            }
            assert_eq!(shown(), before);
        }
        // The kernel takes it for the same.
        ip("rule add priority 120 not to 10.244.0.0/16 lookup 119 protocol 119");
        let occupied = netlink.apply(&Change::AddRule(rules[2])).await;
        let told = occupied.expect_err("occupied").to_string();
        assert!(
            told.contains("somebody else has the same rule, inverted"),
            "{told}"
        );
    });
}

#[test]
fn a_thousand_peers_are_applied_and_observed() {
    let (node, _) = node();
    node.block_on(async || {
        let mut netlink = Netlink::open(DEVICE).expect("a socket");
        with_device(&mut netlink).await;
        let pods = |index: u32| {
            let [.., high, low] = index.to_be_bytes();
            [
                net(&format!("10.{}.{low}.0/24", 100 + high)),
                net(&format!("fd00:{index:x}::/64")),
            ]
        };
        let changes = (0..500).flat_map(pods).map(|pods| {
            let key = RouteKey::peer(Table::Peers, pods);
            Change::SetRoute(key, into_device(&pods, 1400))
        });
        let changes: Vec<_> = changes.collect();
        let start = Instant::now();
        for change in &changes {
            netlink.apply(change).await.expect("set");
        }
        let applied = start.elapsed();
        let start = Instant::now();
        assert_eq!(
            netlink.observe().await.expect("observed").routes.len(),
            1000
        );
        let observed = start.elapsed();
        let addresses = (0..1000_u32).map(|host| {
            let [.., high, low] = host.to_be_bytes();
            IpAddr::from([192, 0, 2 + high, low])
        });
        let start = Instant::now();
        ip("route add 192.0.0.0/16 via 192.0.2.1");
        netlink.underlay(addresses).await.expect("asked");
        let asked = start.elapsed();
        let mut table = guard_table();
        table.host_network_cidrs = (0..500).flat_map(pods).collect();
        let start = Instant::now();
        netlink
            .apply(&Change::InstallGuard(table.clone()))
            .await
            .expect("installed");
        let guarded = start.elapsed();
        assert_eq!(
            netlink.observe().await.expect("observed").guard,
            Guard::Installed(table)
        );
        println!(
            "1,000 routes applied in {applied:?}, observed in {observed:?}; 1,000 paths in \
             {asked:?}; 1,000 host-network prefixes in {guarded:?}"
        );
    });
}

#[test]
fn a_change_of_anything_ours_wakes_the_watch_once() {
    let (node, _) = node();
    node.block_on(async || {
        let mut netlink = Netlink::open(DEVICE).expect("a socket");
        let mut watch = Watch::open().expect("a subscription");
        with_device(&mut netlink).await;
        netlink
            .apply(&Change::InstallGuard(guard_table()))
            .await
            .expect("installed");
        let wake = async |watch: &mut Watch, cause: &str| {
            tokio::time::timeout(DEADLINE, watch.changed())
                .await
                .expect(cause);
        };
        wake(&mut watch, "own changes").await;
        let changes: [(&str, &dyn Fn()); 6] = [
            ("route", &|| {
                drop(ip("route add 10.244.9.0/24 via 192.0.2.9"))
            }),
            ("IPv6 route", &|| {
                drop(ip("-6 route add fd00:9::/64 via 2001:db8::9"))
            }),
            ("address", &|| {
                drop(ip("address delete 10.244.1.0/32 dev podwire0"))
            }),
            ("setting", &|| set("ipv4/conf/podwire0/rp_filter", "1")),
            ("nftables", &|| drop(nft("add chain inet podwire stranger"))),
            ("link", &|| drop(ip("link delete podwire0"))),
        ];
        for (cause, change) in changes {
            change();
            wake(&mut watch, cause).await;
        }
        netlink.observe().await.expect("observed");
        // What was still on its way when the last call returned is one more wake, not a stream.
        while watch.changed().now_or_never().is_some() {}
        assert!(watch.changed().now_or_never().is_none(), "rest is rest");
    });
}

#[test]
fn lost_notifications_wake_the_watch() {
    let (node, _) = node();
    node.block_on(async || {
        let mut netlink = Netlink::open(DEVICE).expect("a socket");
        let mut watch = Watch::open().expect("a subscription");
        with_device(&mut netlink).await;
        // More than the subscription's socket holds.
        for round in 0..4000_u32 {
            let key = key("10.244.2.0/24", METRIC);
            let action = into_device(&key.destination, 1300 + round % 2);
            netlink
                .apply(&Change::SetRoute(key, action))
                .await
                .expect("set");
        }
        tokio::time::timeout(DEADLINE, watch.changed())
            .await
            .expect("woken");
        while watch.changed().now_or_never().is_some() {}
        ip("link set podwire0 mtu 1280");
        tokio::time::timeout(DEADLINE, watch.changed())
            .await
            .expect("woken again");
    });
}

#[test]
fn cleanup_removes_what_is_ours_and_nothing_else() {
    let (node, underlay) = node();
    node.block_on(async || {
        ip("route add 10.244.9.0/24 via 192.0.2.9 metric 1024");
        ip("-6 route add fd00:10:244:9::/64 via 2001:db8::9 metric 1024");
        nft("add table inet somebody");
        nft("add table ip podwire");
        let state = || {
            [
                ip("link"),
                ip("address"),
                ip("route show table all"),
                ip("-6 route"),
                ip("-4 rule show"),
                ip("-6 rule show"),
                nft("list ruleset"),
            ]
        };
        let mut netlink = Netlink::open(DEVICE).expect("a socket");
        ip("link delete podwire0");
        let before = state();
        ip("tuntap add podwire0 mode tun multi_queue");
        with_device(&mut netlink).await;
        for pods in ["10.244.2.0/24", "fd00:10:244:2::/64"] {
            for (metric, action) in [
                (METRIC, into_device(&net(pods), 1400)),
                (METRIC + 1, via(&net(pods), underlay)),
                (METRIC_UNREACHABLE, RouteAction::Unreachable),
            ] {
                netlink
                    .apply(&Change::SetRoute(key(pods, metric), action))
                    .await
                    .expect("set");
            }
        }
        for pods in ["10.244.2.0/24", "fd00:10:244:2::/64"] {
            let key = RouteKey::peer(Table::Peers, net(pods));
            let route = Change::SetRoute(key, into_device(&net(pods), 1400));
            netlink.apply(&route).await.expect("set");
        }
        for rule in [
            rule(RuleAction::LookupMain, "10.244.1.0/24"),
            rule(RuleAction::LookupPeers, "fd00:10:244::/48"),
            rule(RuleAction::Refuse, "fd00:10:244::/48"),
        ] {
            let change = Change::AddRule(rule);
            netlink.apply(&change).await.expect("added");
        }
        netlink
            .apply(&Change::InstallGuard(guard_table()))
            .await
            .expect("installed");
        // Another process than the one that made it.
        let mut netlink = Netlink::open(DEVICE).expect("a socket");
        let removed = netlink.cleanup().await.expect("cleaned up");
        assert_eq!(
            removed,
            Removed {
                device: true,
                routes: 8,
                rules: 3,
                guard: true
            }
        );
        assert_eq!(state(), before);
        assert_eq!(
            netlink.cleanup().await.expect("nothing to do"),
            Removed::default()
        );
        assert_eq!(state(), before);
    });
}
