//! Where a strict reverse path filter (RFC 3704 section 2.2) drops what peers send.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::kernel::Underlay;
use crate::mesh::OwnNode;
use crate::underlay_links::Link;

/// Peers send to the link that has this node's address, and the way back to them leaves by another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StrictWay {
    /// The link that they come in by, whose filter is strict.
    pub link: String,
    /// The link by which the way back leaves.
    pub back: String,
}

/// The ways on which packets of peers are dropped. IPv6 has no such setting.
#[must_use]
pub fn strict_ways(own: &OwnNode, links: &[Link], paths: &Underlay) -> BTreeSet<StrictWay> {
    let ipv4 = paths.iter().filter(|(address, _)| address.is_ipv4());
    let backs: BTreeSet<&str> = ipv4.map(|(_, path)| path.link.as_str()).collect();
    let is_own = |address: &IpAddr| address.is_ipv4() && own.addresses.contains(address);
    let of_node: Vec<&Link> = links
        .iter()
        .filter(|link| link.addresses.iter().any(is_own))
        // An address may be on a link that leads nowhere, for others to route to.
        .filter(|link| link.has_default_route || backs.contains(link.name.as_str()))
        .collect();
    let is_entry = |back: &str| of_node.iter().any(|link| link.name == back);
    let strict = of_node.iter().filter(|link| link.strict_reverse_path);
    strict
        .flat_map(|link| {
            let others = backs.iter().filter(|back| !is_entry(back));
            others.map(|back| StrictWay {
                link: link.name.clone(),
                back: (*back).to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Path;
    use crate::record::Mode;
    use crate::underlay_links::LinkKind;

    fn link(name: &str, address: &str, strict_reverse_path: bool) -> Link {
        Link {
            name: name.to_owned(),
            kind: LinkKind::Wire,
            mtu: 1500,
            master: None,
            strict_reverse_path,
            addresses: [address.parse().expect("address")].into(),
            has_default_route: false,
            own_pods: BTreeSet::new(),
        }
    }

    fn by(address: &str, link: &str) -> (IpAddr, Path) {
        let path = Path {
            link: link.to_owned(),
            link_index: 1,
            on_link: true,
            mtu: 1500,
            in_use: false,
        };
        (address.parse().expect("address"), path)
    }

    #[test]
    fn a_way_back_by_another_link_than_the_strict_one_is_named() {
        let own = OwnNode {
            name: "node-1".parse().expect("a name"),
            mode: Mode::Encrypted,
            pod_cidrs: Vec::new(),
            addresses: vec!["192.0.2.11".parse().expect("address")],
            public_keys: Vec::new(),
        };
        let mut links = [
            link("eth0", "192.0.2.11", true),
            link("eth1", "198.51.100.11", true),
        ];
        links[0].has_default_route = true;
        let same = Underlay::from([by("192.0.2.12", "eth0"), by("2001:db8::12", "eth1")]);
        assert!(strict_ways(&own, &links, &same).is_empty());
        let other = Underlay::from([by("192.0.2.12", "eth0"), by("192.0.2.13", "eth1")]);
        let expected = StrictWay {
            link: "eth0".to_owned(),
            back: "eth1".to_owned(),
        };
        assert_eq!(strict_ways(&own, &links, &other), [expected].into());
        links[0].strict_reverse_path = false;
        assert!(strict_ways(&own, &links, &other).is_empty());
        // An address that others route to.
        let routed = [link("dummy0", "192.0.2.11", true)];
        assert!(strict_ways(&own, &routed, &other).is_empty());
    }
}
