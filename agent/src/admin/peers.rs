//! The rows of `podwire-agent peers` and `podwire-agent drops`.

use std::collections::BTreeMap;
use std::time::Instant;

use podwire_core::mesh::{Pair, Peer};
use podwire_core::node::NodeName;
use podwire_dataplane::{PeerState, PeerStatus};

use super::Shown;
use crate::control::status::{DropRow, PeerRow};

/// One row a peer, by name.
pub(super) fn rows(shown: &Shown, now: Instant) -> Vec<PeerRow> {
    let Some(mesh) = shown.mesh.load_full() else {
        return Vec::new();
    };
    let mut live: BTreeMap<NodeName, PeerStatus> = shown
        .device
        .load_full()
        .map(|device| device.peers(now))
        .unwrap_or_default()
        .into_iter()
        .map(|status| (status.name.clone(), status))
        .collect();
    mesh.peers
        .iter()
        .map(|(name, peer)| row(name, peer, live.remove(name)))
        .collect()
}

fn row(name: &NodeName, peer: &Peer, live: Option<PeerStatus>) -> PeerRow {
    let traffic = live.as_ref().map(PeerStatus::traffic).unwrap_or_default();
    let lanes = live.as_ref().map_or(&[][..], |status| &status.lanes);
    let (mode, public_key) = match &peer.pair {
        Pair::Encrypted(pair) => (
            "encrypted",
            pair.lanes.first().map(|lane| lane.key.to_string()),
        ),
        Pair::HostNetwork => ("host-network", None),
        Pair::Closed(_) => ("closed", None),
    };
    let state = match (&peer.pair, live.as_ref().map(|status| status.state)) {
        (Pair::HostNetwork, _) => "plaintext",
        (Pair::Closed(_), _) => "closed",
        (Pair::Encrypted(_), Some(PeerState::Connected)) => "up",
        (Pair::Encrypted(_), Some(PeerState::Handshaking)) => "handshaking",
        (Pair::Encrypted(_), Some(PeerState::Idle)) => "idle",
        (Pair::Encrypted(_), None) => "down",
    };
    PeerRow {
        node: name.to_string(),
        mode: mode.to_owned(),
        state: state.to_owned(),
        public_key,
        endpoint: lanes
            .first()
            .and_then(|lane| lane.endpoint)
            .map(|endpoint| endpoint.to_string()),
        lane_endpoints: lanes
            .iter()
            .map(|lane| lane.endpoint.map(|endpoint| endpoint.to_string()))
            .collect(),
        pod_cidrs: peer.pod_cidrs.iter().map(ToString::to_string).collect(),
        latest_handshake_seconds: lanes
            .iter()
            .filter_map(|lane| lane.last_handshake)
            .min()
            .map(|age| age.as_secs()),
        lanes_up: lanes.iter().filter(|lane| lane.confirmed).count(),
        lanes: lanes.len(),
        received_bytes: traffic.received_bytes,
        sent_bytes: traffic.sent_bytes,
        received_packets: traffic.received_packets,
        sent_packets: traffic.sent_packets,
        handshakes: traffic.handshakes,
    }
}

/// One row a reason: those of the data plane, the transport and the guards.
pub(super) fn drops(shown: &Shown) -> Vec<DropRow> {
    let guard = shown.guard.load();
    let mut rows: Vec<DropRow> = shown
        .device
        .load_full()
        .map(|device| device.drops())
        .unwrap_or_default()
        .into_iter()
        .map(|(reason, packets)| DropRow {
            reason: reason.as_str().to_owned(),
            packets,
        })
        .collect();
    rows.extend(
        [
            ("guard-egress", guard.egress),
            ("guard-ingress", guard.ingress),
        ]
        .map(|(reason, packets)| DropRow {
            reason: reason.to_owned(),
            packets,
        }),
    );
    let transport = shown.transport.load();
    let lost = transport.iter().filter(|(counter, _)| counter.is_drop());
    rows.extend(lost.map(|(counter, packets)| DropRow {
        reason: counter.as_str().replace('_', "-"),
        packets: *packets,
    }));
    rows
}
