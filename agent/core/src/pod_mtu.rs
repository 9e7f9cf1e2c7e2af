//! Which MTU the links of pods should have, and which of those that are there have another one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::mesh::OwnNode;
use crate::mtu::{self, Family};
use crate::record::Mode;
use crate::underlay_links::{Link, LinkKind};

/// The MTU in bytes for links of pods: what the node's own link carries, less what WireGuard adds
/// where this node encrypts. The node's address may be on no link (a loopback one, NAT): then it is
/// the one of the default route, else those of `uplinks`, by which peers are reached. `None` where
/// there is none of these either.
///
/// It depends on nothing that changes by itself, such as a path or the family that a peer answers
/// on: pods keep what they were made with. A peer behind a smaller path has a route with an MTU of
/// its own.
#[must_use]
pub fn pod_mtu(own: &OwnNode, links: &[Link], uplinks: &BTreeSet<String>) -> Option<u32> {
    let with_node = |link: &&Link| own.addresses.iter().any(|a| link.addresses.contains(a));
    let smallest = |chosen: &dyn Fn(&&Link) -> bool| {
        let mtus = links.iter().filter(chosen).map(|link| link.mtu);
        mtus.min()
    };
    let of_node = smallest(&with_node)
        .or_else(|| smallest(&|link| link.has_default_route))
        .or_else(|| smallest(&|link| uplinks.contains(&link.name)))?;
    let inner = if own.pod_cidrs.iter().any(|cidr| cidr.addr().is_ipv6()) {
        Family::Ipv6
    } else {
        Family::Ipv4
    };
    Some(match own.mode {
        Mode::HostNetwork => of_node,
        Mode::Encrypted => {
            // Each pair takes one family that both have, and may take the other one later.
            let is_ipv4 = !own.addresses.is_empty() && own.addresses.iter().all(IpAddr::is_ipv4);
            let outer = if is_ipv4 { Family::Ipv4 } else { Family::Ipv6 };
            mtu::inner_mtu(of_node, outer, inner)
        }
    })
}

/// Links of own pods whose MTU is another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OtherMtu {
    /// How many there are.
    pub count: usize,
    /// The name of the first.
    pub first: String,
    /// Its MTU in bytes.
    pub found: u32,
    /// What it should be.
    pub wanted: u32,
}

/// The links of own pods that have another MTU than `wanted`: ports of bridges that have an address
/// among the own pods, and links that lead to one pod.
#[must_use]
pub fn other_mtu(links: &[Link], own_cidrs: &[IpNet], wanted: u32) -> Option<OtherMtu> {
    let is_pods = |address: &IpAddr| own_cidrs.iter().any(|cidr| cidr.contains(address));
    let bridges: BTreeSet<&str> = links
        .iter()
        .filter(|link| link.kind == LinkKind::Switch && link.addresses.iter().any(is_pods))
        .map(|link| link.name.as_str())
        .collect();
    let is_pods_link = |link: &&Link| {
        let is_port = link
            .master
            .as_deref()
            .is_some_and(|it| bridges.contains(it));
        let mut pods = link.own_pods.iter();
        let leads_to_one = pods.any(|pod| pod.prefix_len() == pod.max_prefix_len());
        link.kind == LinkKind::Virtual && (is_port || leads_to_one)
    };
    let others: Vec<&Link> = links
        .iter()
        .filter(is_pods_link)
        .filter(|link| link.mtu != wanted)
        .collect();
    let first = others.iter().min_by_key(|link| link.name.as_str())?;
    Some(OtherMtu {
        count: others.len(),
        first: first.name.clone(),
        found: first.mtu,
        wanted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(mode: Mode, addresses: &[&str], cidrs: &[&str]) -> OwnNode {
        OwnNode {
            name: "node-1".parse().expect("a name"),
            mode,
            pod_cidrs: cidrs
                .iter()
                .map(|cidr| cidr.parse().expect("cidr"))
                .collect(),
            addresses: addresses
                .iter()
                .map(|a| a.parse().expect("address"))
                .collect(),
            public_keys: Vec::new(),
        }
    }

    fn link(name: &str, kind: LinkKind, mtu: u32, addresses: &[&str]) -> Link {
        Link {
            name: name.to_owned(),
            kind,
            mtu,
            master: None,
            strict_reverse_path: false,
            addresses: addresses
                .iter()
                .map(|a| a.parse().expect("address"))
                .collect(),
            has_default_route: false,
            own_pods: BTreeSet::new(),
        }
    }

    const DUAL: [&str; 2] = ["10.244.1.0/24", "fd00:10:244:1::/64"];

    #[test]
    fn pods_have_what_the_nodes_link_carries_less_the_tunnel() {
        let links = [
            link(
                "eth0",
                LinkKind::Wire,
                1500,
                &["192.0.2.11", "2001:db8::11"],
            ),
            link("docker0", LinkKind::Switch, 1500, &["172.17.0.1"]),
            link("tailscale0", LinkKind::Virtual, 1280, &["100.64.0.1"]),
        ];
        let both = ["192.0.2.11", "2001:db8::11"];
        for (mode, addresses, expected) in [
            (Mode::Encrypted, both.as_slice(), 1420),
            (Mode::Encrypted, &both[..1], 1440),
            (Mode::Encrypted, &both[1..], 1420),
            (Mode::HostNetwork, &both, 1500),
        ] {
            let found = pod_mtu(&own(mode, addresses, &DUAL), &links, &BTreeSet::new());
            assert_eq!(found, Some(expected), "{mode:?} {addresses:?}");
        }
    }

    #[test]
    fn of_several_links_of_the_node_the_smallest_counts() {
        let links = [
            link("eth0", LinkKind::Wire, 9000, &["192.0.2.11"]),
            link("eth1", LinkKind::Wire, 1500, &["198.51.100.11"]),
        ];
        let node = own(Mode::HostNetwork, &["192.0.2.11", "198.51.100.11"], &DUAL);
        assert_eq!(pod_mtu(&node, &links, &BTreeSet::new()), Some(1500));
    }

    #[test]
    fn a_node_behind_nat_goes_by_its_default_route_and_by_the_larger_overhead() {
        let mut links = [link("eth0", LinkKind::Wire, 1500, &["192.168.1.2"])];
        let hidden = own(Mode::Encrypted, &[], &DUAL);
        assert_eq!(pod_mtu(&hidden, &links, &BTreeSet::new()), None);
        let uplinks = BTreeSet::from(["eth0".to_owned()]);
        assert_eq!(pod_mtu(&hidden, &links, &uplinks), Some(1420));
        links[0].has_default_route = true;
        assert_eq!(pod_mtu(&hidden, &links, &BTreeSet::new()), Some(1420));
        let public = own(Mode::Encrypted, &["203.0.113.7"], &DUAL);
        assert_eq!(pod_mtu(&public, &links, &BTreeSet::new()), Some(1440));
    }

    #[test]
    fn pods_with_ipv6_never_get_less_than_it_needs() {
        let links = [link("eth0", LinkKind::Wire, 1300, &["192.0.2.11"])];
        let dual = own(Mode::Encrypted, &["192.0.2.11"], &DUAL);
        assert_eq!(pod_mtu(&dual, &links, &BTreeSet::new()), Some(1280));
        let single = own(Mode::Encrypted, &["192.0.2.11"], &DUAL[..1]);
        assert_eq!(pod_mtu(&single, &links, &BTreeSet::new()), Some(1240));
    }

    #[test]
    fn only_links_of_own_pods_count_whose_mtu_is_another() {
        let cidrs = own(Mode::Encrypted, &[], &DUAL).pod_cidrs;
        let port = |name: &str, master: &str, mtu| Link {
            master: Some(master.to_owned()),
            ..link(name, LinkKind::Virtual, mtu, &[])
        };
        let to_pod = |name: &str, pods: &str, mtu| Link {
            own_pods: [pods.parse().expect("cidr")].into(),
            ..link(name, LinkKind::Virtual, mtu, &[])
        };
        let mut links = vec![
            link("cni0", LinkKind::Switch, 1420, &["10.244.1.1"]),
            link("docker0", LinkKind::Switch, 1500, &["172.17.0.1"]),
            port("veth1", "cni0", 1420),
            port("veth2", "docker0", 1500),
            to_pod("veth3", "10.244.1.7/32", 1420),
            to_pod("wg0", "10.244.1.0/24", 1380),
            Link {
                master: Some("cni0".to_owned()),
                ..link("eth1", LinkKind::Wire, 1500, &[])
            },
        ];
        assert_eq!(other_mtu(&links, &cidrs, 1420), None);
        links.extend([
            port("veth9", "cni0", 1500),
            to_pod("veth8", "fd00:10:244:1::7/128", 1440),
        ]);
        let expected = OtherMtu {
            count: 2,
            first: "veth8".to_owned(),
            found: 1440,
            wanted: 1420,
        };
        assert_eq!(other_mtu(&links, &cidrs, 1420), Some(expected));
    }
}
