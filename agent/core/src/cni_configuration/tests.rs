use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::desired_kernel::device_address;

fn cidrs(texts: &[&str]) -> Vec<IpNet> {
    let parsed = texts.iter().map(|text| text.parse().expect("cidr"));
    parsed.collect()
}

fn parsed(plugin: Plugin, own: &[&str]) -> Value {
    let made = CniConfiguration::new(plugin, 1420, &cidrs(own)).expect("room for pods");
    serde_json::from_str(&made.to_json()).expect("JSON")
}

const DUAL: [&str; 2] = ["10.244.1.0/24", "fd00:10:244:1::/64"];

fn dual_ranges() -> Value {
    json!([
        [{
            "subnet": "10.244.1.0/24",
            "rangeStart": "10.244.1.2",
            "rangeEnd": "10.244.1.254",
            "gateway": "10.244.1.1",
        }],
        [{
            "subnet": "fd00:10:244:1::/64",
            "rangeStart": "fd00:10:244:1::2",
            "rangeEnd": "fd00:10:244:1:ffff:ffff:ffff:fffe",
            "gateway": "fd00:10:244:1::1",
        }],
    ])
}

fn portmap() -> Value {
    json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true})
}

#[test]
fn a_bridge_gives_each_pod_an_address_of_each_family_and_translates_none() {
    let expected = json!({
        "cniVersion": "1.0.0",
        "name": "podwire",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "podwire-bridge",
                "mtu": 1420,
                "isDefaultGateway": true,
                "forceAddress": true,
                "ipMasq": false,
                "hairpinMode": true,
                "promiscMode": false,
                "ipam": {"type": "host-local", "ranges": dual_ranges()},
            },
            portmap(),
        ],
    });
    assert_eq!(parsed(Plugin::Bridge, &DUAL), expected);
}

#[test]
fn point_to_point_links_have_default_routes_of_the_families_that_pods_have() {
    let routes = [json!({"dst": "0.0.0.0/0"}), json!({"dst": "::/0"})];
    let expected = json!({
        "cniVersion": "1.0.0",
        "name": "podwire",
        "plugins": [
            {
                "type": "ptp",
                "mtu": 1420,
                "ipMasq": false,
                "ipam": {"type": "host-local", "ranges": dual_ranges(), "routes": routes},
            },
            portmap(),
        ],
    });
    assert_eq!(parsed(Plugin::Ptp, &DUAL), expected);
    for (at, route) in routes.iter().enumerate() {
        let ipam = &parsed(Plugin::Ptp, &DUAL[at..=at])["plugins"][0]["ipam"];
        assert_eq!(ipam["routes"], json!([route]));
        assert_eq!(ipam["ranges"], json!([dual_ranges()[at]]));
    }
}

#[test]
fn the_name_of_the_bridge_is_one_that_the_kernel_takes() {
    /// The kernel's IFNAMSIZ less the final zero.
    const LENGTH_MAX: usize = 15;
    assert!(BRIDGE.len() <= LENGTH_MAX);
}

#[test]
fn prefixes_of_odd_lengths_have_the_first_and_the_last_pod_in_place() {
    for (cidr, first, last) in [
        ("10.244.1.64/26", "10.244.1.66", "10.244.1.126"),
        ("10.244.0.0/15", "10.244.0.2", "10.245.255.254"),
        ("10.244.1.252/30", "10.244.1.254", "10.244.1.254"),
        ("255.255.255.252/30", "255.255.255.254", "255.255.255.254"),
        ("fd00::1:0/112", "fd00::1:2", "fd00::1:fffe"),
        ("fd00::4/126", "fd00::6", "fd00::6"),
    ] {
        let range = Range::of(&cidr.parse().expect("cidr")).expect("room for pods");
        assert_eq!(range.first.to_string(), first, "{cidr}");
        assert_eq!(range.last.to_string(), last, "{cidr}");
    }
}

#[test]
fn a_prefix_without_room_for_a_pod_is_an_error_that_names_it() {
    for (cidr, longest) in [
        ("10.244.1.2/31", 30),
        ("10.244.1.2/32", 30),
        ("fd00::2/127", 126),
        ("fd00::2/128", 126),
    ] {
        let own = cidrs(&["10.244.1.0/24", cidr]);
        let error = CniConfiguration::new(Plugin::Bridge, 1420, &own).expect_err("no room");
        assert_eq!((error.cidr, error.longest), (own[1], longest));
        let text = error.to_string();
        assert!(text.contains(cidr) && text.contains(&longest.to_string()));
    }
}

fn any_cidr() -> impl Strategy<Value = IpNet> {
    let v4 = (any::<u32>(), 1..=30_u8).prop_map(|(bits, length)| {
        let cidr = ipnet::Ipv4Net::new(bits.into(), length).expect("a length");
        IpNet::V4(cidr.trunc())
    });
    let v6 = (any::<u128>(), 1..=126_u8).prop_map(|(bits, length)| {
        let cidr = ipnet::Ipv6Net::new(bits.into(), length).expect("a length");
        IpNet::V6(cidr.trunc())
    });
    prop_oneof![v4, v6]
}

fn any_plugin() -> impl Strategy<Value = Plugin> {
    prop_oneof![Just(Plugin::Bridge), Just(Plugin::Ptp)]
}

proptest! {
    #[test]
    fn no_pod_is_given_an_address_of_the_device_or_the_gateway(cidr in any_cidr()) {
        let range = Range::of(&cidr).expect("room for pods");
        let is_given = |address: IpAddr| (range.first..=range.last).contains(&address);
        prop_assert!(!is_given(device_address(&cidr)));
        prop_assert!(!is_given(range.gateway));
        prop_assert!(!is_given(cidr.network()) && !is_given(cidr.broadcast()));
        prop_assert!(range.first <= range.last);
        for address in [range.first, range.last, range.gateway] {
            prop_assert!(range.subnet.contains(&address));
        }
    }

    #[test]
    fn the_same_configuration_is_the_same_text_and_another_one_is_another(
        own in proptest::collection::vec(any_cidr(), 1..3),
        mtu in 576..65_476_u32,
        plugin in any_plugin(),
    ) {
        let made = CniConfiguration::new(plugin, mtu, &own).expect("room for pods");
        let again = CniConfiguration::new(plugin, mtu, &own).expect("room for pods");
        prop_assert_eq!(made.to_json(), again.to_json());
        let other = CniConfiguration::new(plugin, mtu + 1, &own).expect("room for pods");
        prop_assert_ne!(made.to_json(), other.to_json());
        let value: Value = serde_json::from_str(&made.to_json()).expect("JSON");
        prop_assert_eq!(&value["plugins"][0]["mtu"], &json!(mtu));
    }
}
