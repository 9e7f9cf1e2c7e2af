//! Pod CIDRs and whose they are, of which no two overlap.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::node::NodeName;

/// Disjoint CIDRs, by their first address.
#[derive(Debug, Default)]
pub(super) struct Cidrs<'a>(BTreeMap<IpAddr, (IpNet, &'a NodeName)>);

impl<'a> Cidrs<'a> {
    /// Adds a CIDR, unless it overlaps one that is there.
    pub(super) fn insert(&mut self, cidr: IpNet, node: &'a NodeName) {
        if self.overlapping(&cidr).next().is_none() {
            self.0.insert(cidr.network(), (cidr, node));
        }
    }

    /// All that share an address with this one. As they are disjoint, they are the last ones that
    /// begin at or before its end.
    pub(super) fn overlapping(&self, cidr: &IpNet) -> impl Iterator<Item = (IpNet, &'a NodeName)> {
        self.0
            .range(..=cidr.broadcast())
            .rev()
            .map(|(_, held)| *held)
            .take_while(move |(other, _)| other.contains(cidr) || cidr.contains(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("cidr")
    }

    fn overlapping(cidrs: &Cidrs<'_>, cidr: &str) -> Vec<String> {
        let cidr = net(cidr);
        let found = cidrs.overlapping(&cidr);
        found.map(|(cidr, _)| cidr.to_string()).collect()
    }

    #[test]
    fn all_that_overlap_are_found_and_nothing_else() {
        let node: NodeName = "node-1".parse().expect("name");
        let mut cidrs = Cidrs::default();
        for text in [
            "10.244.1.0/24",
            "10.244.2.0/24",
            "10.244.3.0/24",
            "fd00:1::/64",
        ] {
            cidrs.insert(net(text), &node);
        }
        assert_eq!(
            overlapping(&cidrs, "10.244.2.0/23"),
            ["10.244.3.0/24", "10.244.2.0/24"]
        );
        assert_eq!(overlapping(&cidrs, "10.244.2.7/32"), ["10.244.2.0/24"]);
        assert_eq!(overlapping(&cidrs, "fd00::/16"), ["fd00:1::/64"]);
        assert!(overlapping(&cidrs, "10.244.4.0/22").is_empty());
        assert!(overlapping(&cidrs, "10.244.0.0/24").is_empty());
        assert!(overlapping(&cidrs, "fd00:1:0:1::/64").is_empty());
        cidrs.insert(net("10.244.0.0/22"), &node);
        assert_eq!(overlapping(&cidrs, "0.0.0.0/0").len(), 3);
    }
}
