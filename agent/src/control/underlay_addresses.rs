//! Which underlay addresses the mesh needs paths to.

use std::collections::BTreeSet;
use std::net::IpAddr;

use podwire_core::mesh::{DesiredMesh, Pair};

/// Every endpoint of an encrypted peer, and every node address of a host-network peer.
pub(crate) fn underlay_addresses(mesh: &DesiredMesh) -> BTreeSet<IpAddr> {
    mesh.peers
        .values()
        .flat_map(|peer| match &peer.pair {
            Pair::Encrypted(pair) => pair
                .endpoints
                .iter()
                .map(|endpoint| endpoint.ip())
                .collect(),
            Pair::HostNetwork => peer.addresses.clone(),
            Pair::Closed(_) => Vec::new(),
        })
        .collect()
}
