//! At which addresses the data plane has found its peers: not always at the first that they name.

use std::collections::BTreeSet;
use std::net::IpAddr;

use podwire_core::mesh::{DesiredMesh, Pair};
use podwire_dataplane::PeerStatus;

/// Where lanes send that have completed a handshake.
pub(super) fn endpoints_in_use(peers: &[PeerStatus]) -> BTreeSet<IpAddr> {
    let lanes = peers.iter().flat_map(|peer| &peer.lanes);
    lanes
        .filter(|lane| lane.last_handshake.is_some())
        .filter_map(|lane| Some(lane.endpoint?.ip()))
        .collect()
}

/// Those of them that are not their peer's first choice: what routes and order of endpoints were
/// made for holds as long as these are the same.
pub(super) fn fallbacks(mesh: &DesiredMesh, in_use: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    let further = mesh.peers.values().flat_map(|peer| match &peer.pair {
        Pair::Encrypted(pair) => pair.endpoints.get(1..).unwrap_or_default(),
        Pair::HostNetwork | Pair::Closed(_) => &[],
    });
    further
        .map(|endpoint| endpoint.ip())
        .filter(|address| in_use.contains(address))
        .collect()
}
