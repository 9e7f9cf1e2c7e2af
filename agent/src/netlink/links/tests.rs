//! Against the kernel, in network namespaces of their own.

use std::net::UdpSocket;

use super::super::Netlink;
use super::super::tests::namespace::{Namespace, ip, set, up};
use super::*;

const OWN: [&str; 2] = ["10.244.1.0/24", "fd00:10:244:1::/64"];
const DEVICE_ADDRESS: &str = "fd00:10:244:1:ffff:ffff:ffff:ffff";

/// A node with a bridge for pods, a device of a predecessor, and two uplinks.
fn node() -> Namespace {
    let node = Namespace::new();
    node.run(|| {
        ip("tuntap add podwire0 mode tun multi_queue");
        ip("link add cni0 type bridge");
        for link in ["eth0", "eth1"] {
            ip(&format!("link add {link} type veth peer name {link}-far"));
            up(&format!("{link}-far"));
        }
        for link in ["podwire0", "cni0", "eth0", "eth1"] {
            ip(&format!("link set {link} addrgenmode none"));
            up(link);
        }
        ip("address add 10.244.1.0/32 dev podwire0");
        ip(&format!(
            "address add {DEVICE_ADDRESS}/128 dev podwire0 nodad"
        ));
        ip("address add 10.244.1.1/24 dev cni0");
        ip("address add 192.0.2.11/24 dev eth0");
        ip("address add 198.51.100.11/24 dev eth1");
    });
    node
}

fn found<'a>(links: &'a [Link], name: &str) -> &'a Link {
    let link = links.iter().find(|link| link.name == name);
    link.unwrap_or_else(|| panic!("no {name} in {links:?}"))
}

fn names(prefixes: &BTreeSet<IpNet>) -> Vec<String> {
    prefixes.iter().map(ToString::to_string).collect()
}

#[test]
fn links_are_shown_with_their_kind_default_routes_and_neighbouring_pods() {
    node().block_on(async || {
        ip("route add default nexthop via 192.0.2.1 nexthop via 198.51.100.1");
        ip("-6 route add default dev cni0");
        ip("route add 10.244.1.128/25 via 198.51.100.1 dev eth1");
        ip("route add 10.244.1.9/32 dev eth0");
        ip("route add 10.244.2.0/24 dev eth0");
        let mut netlink = Netlink::open("podwire0").expect("a socket");
        netlink.observe().await.expect("observed");
        let own = OWN.map(|cidr| cidr.parse().expect("cidr"));
        let links = netlink.links(&own).await.expect("looked at");
        assert!(links.iter().all(|link| link.name != "lo"));
        let expected = [
            ("cni0", LinkKind::Switch, true, vec!["10.244.1.0/24"]),
            ("eth0", LinkKind::Virtual, true, vec!["10.244.1.9/32"]),
            ("eth1", LinkKind::Virtual, true, vec![]),
        ];
        for (name, kind, has_default_route, own_pods) in expected {
            let link = found(&links, name);
            assert_eq!(link.kind, kind, "{name}");
            assert_eq!(link.has_default_route, has_default_route, "{name}");
            assert_eq!(names(&link.own_pods), own_pods, "{name}");
        }
        let address = "198.51.100.11".parse().expect("address");
        assert!(found(&links, "eth1").addresses.contains(&address));
    });
    for kind in [InfoKind::Vlan, InfoKind::Bond, InfoKind::Team] {
        assert_eq!(of_driver(&kind), LinkKind::Wire, "{kind}");
    }
}

#[test]
fn a_port_is_shown_with_its_bridge_and_its_mtu() {
    node().block_on(async || {
        ip("link set eth0 mtu 1420 master cni0");
        let mut netlink = Netlink::open("podwire0").expect("a socket");
        netlink.observe().await.expect("observed");
        let links = netlink.links(&[]).await.expect("looked at");
        let (port, other) = (found(&links, "eth0"), found(&links, "eth1"));
        assert_eq!((port.master.as_deref(), port.mtu), (Some("cni0"), 1420));
        assert_eq!((other.master.as_deref(), other.mtu), (None, 1500));
    });
}

#[test]
fn a_strict_reverse_path_filter_is_seen_unless_that_of_all_links_is_loose() {
    node().block_on(async || {
        set("ipv4/conf/all/rp_filter", "0");
        set("ipv4/conf/eth0/rp_filter", "1");
        set("ipv4/conf/eth1/rp_filter", "2");
        let strict = async || -> Vec<String> {
            let mut netlink = Netlink::open("podwire0").expect("a socket");
            netlink.observe().await.expect("observed");
            let links = netlink.links(&[]).await.expect("looked at").into_iter();
            let strict = links.filter(|link| link.strict_reverse_path);
            let names = strict.map(|link| link.name);
            names
                .filter(|name| ["eth0", "eth1"].contains(&name.as_str()))
                .collect()
        };
        assert_eq!(strict().await, ["eth0"]);
        set("ipv4/conf/eth0/rp_filter", "0");
        assert!(strict().await.is_empty());
        set("ipv4/conf/all/rp_filter", "1");
        assert_eq!(strict().await, ["eth0"]);
        set("ipv4/conf/all/rp_filter", "2");
        set("ipv4/conf/eth0/rp_filter", "1");
        assert!(strict().await.is_empty());
    });
}

#[test]
fn a_source_that_is_borrowed_from_the_device_or_a_bridge_is_none_of_the_nodes_own() {
    node().block_on(async || {
        ip("route add default via 192.0.2.1");
        ip("-6 address add fe80::11/64 dev eth0 nodad");
        ip("-6 route add default via fe80::1 dev eth0");
        let socket = UdpSocket::bind("[::]:0").expect("a socket");
        socket.connect("[2001:db8:ffff::1]:9").expect("a route");
        let chosen = socket.local_addr().expect("an address").ip().to_string();
        assert_eq!(chosen, DEVICE_ADDRESS, "the kernel borrows no address here");

        let netlink = Netlink::open("podwire0").expect("a socket");
        let own = async || netlink.own_sources().await.expect("asked");
        let ipv4: IpAddr = "192.0.2.11".parse().expect("address");
        assert_eq!(own().await, [ipv4]);
        ip("-6 address add fd00:10:244:1::1/64 dev cni0 nodad");
        ip(&format!("address del {DEVICE_ADDRESS}/128 dev podwire0"));
        assert_eq!(own().await, [ipv4], "borrowed from the bridge");
        ip("-6 address add 2001:db8:7::11/128 dev lo nodad");
        let loopback = "2001:db8:7::11".parse().expect("address");
        assert_eq!(own().await, [ipv4, loopback], "kept on the loopback link");
        ip("route replace default dev podwire0");
        assert_eq!(own().await, [loopback], "leaves by the device");
    });
}
