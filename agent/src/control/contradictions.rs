//! Flags that contradict what is known of this node.

use std::net::IpAddr;

use ipnet::IpNet;
use podwire_core::mesh::OwnNode;

/// What contradicts what.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Contradiction {
    /// The guards would refuse the node's own traffic.
    #[error(
        "--cluster-cidr {cidr} contains this node's own address {address}: the guards would cut the \
         node off; name the pod CIDRs only"
    )]
    NodeAddress {
        /// The flag's prefix.
        cidr: IpNet,
        /// The node's address.
        address: IpAddr,
    },
    /// The guards would not cover the node's own pods.
    #[error(
        "this node's pod CIDR {cidr} lies outside --cluster-cidr, so that the guards do not cover it: \
         name the pod CIDRs of the whole cluster, both families"
    )]
    PodCidr {
        /// The pod CIDR of `spec.podCIDRs`.
        cidr: IpNet,
    },
}

/// Checks the cluster's CIDRs against what the registry says of this node.
pub(crate) fn check(own: &OwnNode, cluster_cidrs: &[IpNet]) -> Result<(), Contradiction> {
    own.addresses
        .iter()
        .try_for_each(|address| check_address(*address, cluster_cidrs))?;
    for cidr in &own.pod_cidrs {
        if !cluster_cidrs.iter().any(|cluster| cluster.contains(cidr)) {
            return Err(Contradiction::PodCidr { cidr: *cidr });
        }
    }
    Ok(())
}

/// Checks one address of this node.
pub(crate) fn check_address(address: IpAddr, cluster_cidrs: &[IpNet]) -> Result<(), Contradiction> {
    match cluster_cidrs.iter().find(|cidr| cidr.contains(&address)) {
        Some(cidr) => Err(Contradiction::NodeAddress {
            cidr: *cidr,
            address,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use podwire_core::record::Mode;

    use super::*;

    fn own(address: &str, pod_cidrs: &[&str]) -> OwnNode {
        OwnNode {
            name: "node-1".parse().expect("name"),
            mode: Mode::Encrypted,
            pod_cidrs: pod_cidrs
                .iter()
                .map(|cidr| cidr.parse().expect("cidr"))
                .collect(),
            addresses: vec![address.parse().expect("address")],
            public_keys: Vec::new(),
        }
    }

    fn cluster(cidrs: &[&str]) -> Vec<IpNet> {
        cidrs
            .iter()
            .map(|cidr| cidr.parse().expect("cidr"))
            .collect()
    }

    #[test]
    fn a_cluster_cidr_that_would_cut_the_node_off_is_named() {
        let found = check(
            &own("192.0.2.11", &["10.244.1.0/24"]),
            &cluster(&["10.244.0.0/16", "192.0.2.0/24"]),
        );
        let expected = Contradiction::NodeAddress {
            cidr: "192.0.2.0/24".parse().expect("cidr"),
            address: "192.0.2.11".parse().expect("address"),
        };
        assert_eq!(found, Err(expected));
    }

    #[test]
    fn an_own_pod_cidr_that_the_guards_would_not_cover_is_named() {
        let own = own("192.0.2.11", &["10.244.1.0/24", "fd00:10:244:1::/64"]);
        let found = check(&own, &cluster(&["10.244.0.0/16"]));
        let cidr = "fd00:10:244:1::/64".parse().expect("cidr");
        assert_eq!(found, Err(Contradiction::PodCidr { cidr }));
        assert_eq!(
            check(&own, &cluster(&["10.244.0.0/16", "fd00:10:244::/48"])),
            Ok(())
        );
    }
}
