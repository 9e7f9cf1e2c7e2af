//! What the last pass tells the admin side.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use podwire_core::finding::Finding;
use podwire_core::mesh::Pair;
use podwire_registry::nodes::Synchronisation;

use super::agent::Agent;
use super::mode::ModeDecision;
use super::refusals::{refusals, tell};
use super::status::{
    API_VERSION, DeviceStatus, FindingRow, PeerCounts, Refused, RegistryStatus, Status,
};

/// Obstacles that are named: each is a series of a metric too.
const OBSTACLES_MAX: usize = 20;

/// What status says of all the nodes: it changes with a pass alone, and takes long with thousands
/// of them.
#[derive(Debug, Default)]
pub(super) struct OfNodes {
    refusals: BTreeMap<String, Refused>,
    peers: PeerCounts,
    plaintext: Vec<String>,
    closed: BTreeMap<String, String>,
}

impl Agent {
    /// What the last pass has made of the nodes.
    pub(super) fn look_at_nodes(&mut self) {
        let refusals = refusals(&self.nodes, &self.went_back, self.mesh.as_deref());
        tell(&self.of_nodes.refusals, &refusals);
        self.of_nodes = OfNodes {
            refusals,
            peers: self.peer_counts(),
            plaintext: self.plaintext(),
            closed: self.closed(),
        };
    }

    /// Replaces the shown status.
    pub(super) fn show(&self) {
        let encrypted = self.data_plane.is_some();
        let mut problems = self.problems.list();
        if !self.nodes.is_synchronised()
            && self.mesh.as_ref().is_none_or(|mesh| mesh.peers.is_empty())
        {
            problems.push("the registry has not told the nodes yet".to_owned());
        } else if self.own_node().is_none_or(|node| node.pod_cidrs.is_empty()) {
            problems.push(format!(
                "the registry knows no Node {} with spec.podCIDRs yet",
                self.config.node_name
            ));
        }
        problems.extend(self.rotation.refused.clone());
        if self.mode == ModeDecision::Undecided {
            problems.push("the mode of this node is undecided".to_owned());
        }
        let mut obstacles = self.obstacles.list();
        let obstacles_total = obstacles.len();
        obstacles.truncate(OBSTACLES_MAX);
        let status = Status {
            api_version: API_VERSION.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.config.node_name.to_string(),
            mode: self.mode.as_str().to_owned(),
            ready: self.ready && !self.problems.forwarding.is_some(),
            problems,
            public_key: self
                .state
                .told_keys()
                .current
                .first()
                .filter(|_| encrypted)
                .map(ToString::to_string),
            key_generation: self.state.key_generation(),
            rotation: self.rotation_status(),
            epoch: self.state.epoch(),
            lanes: if encrypted { self.config.lanes } else { 0 },
            listen_port: self.config.listen_port,
            pod_cidrs: self
                .own_node()
                .map(|node| node.pod_cidrs.iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
            device: self.device_status(),
            registry: self.registry_status(),
            peers: PeerCounts {
                up: self.shown.peers_up.load(Ordering::Relaxed),
                ..self.of_nodes.peers.clone()
            },
            refusals: self.of_nodes.refusals.clone(),
            unroutable: self
                .shown
                .unroutable
                .load()
                .iter()
                .map(|(name, reason)| (name.to_string(), reason.to_string()))
                .collect(),
            plaintext: self.of_nodes.plaintext.clone(),
            closed: self.of_nodes.closed.clone(),
            obstacles,
            obstacles_total,
            cni: self.cni_status(),
            findings: self.finding_rows(),
            reconcile: self.progress.clone(),
        };
        self.shown.status.store(Arc::new(status));
    }

    fn device_status(&self) -> DeviceStatus {
        let kernel = self.shown.kernel.load();
        DeviceStatus {
            name: self.config.device.clone(),
            up: kernel.device.as_ref().is_some_and(|device| device.up),
            mtu: kernel.device.as_ref().map_or(0, |device| device.mtu),
            addresses: kernel.addresses.iter().map(ToString::to_string).collect(),
            routes: kernel.routes.len(),
            guard: if self.guarded { "installed" } else { "missing" }.to_owned(),
        }
    }

    fn registry_status(&self) -> RegistryStatus {
        RegistryStatus {
            kind: self.registry.kind().to_owned(),
            synchronised: self.nodes.is_synchronised(),
            lost: match &self.nodes.state {
                Synchronisation::Lost(loss) => Some(loss.to_string()),
                Synchronisation::Starting | Synchronisation::Synchronised => None,
            },
            nodes: self.nodes.nodes.len(),
            writes: self.registry_writes,
        }
    }

    fn peer_counts(&self) -> PeerCounts {
        let mut counts = PeerCounts::default();
        for peer in self.mesh.iter().flat_map(|mesh| mesh.peers.values()) {
            counts.total += 1;
            match &peer.pair {
                Pair::Encrypted(_) => counts.encrypted += 1,
                Pair::HostNetwork => counts.host_network += 1,
                Pair::Closed(_) => counts.closed += 1,
            }
        }
        counts
    }

    fn finding_rows(&self) -> Vec<FindingRow> {
        let findings = self.findings.things().iter();
        let row = |finding: &Finding| FindingRow {
            kind: finding.kind().as_str().to_owned(),
            message: finding.to_string(),
        };
        findings.map(row).collect()
    }

    fn plaintext(&self) -> Vec<String> {
        let peers = self.mesh.iter().flat_map(|mesh| &mesh.peers);
        peers
            .filter(|(_, peer)| peer.pair == Pair::HostNetwork)
            .map(|(name, _)| name.to_string())
            .collect()
    }

    fn closed(&self) -> BTreeMap<String, String> {
        let peers = self.mesh.iter().flat_map(|mesh| &mesh.peers);
        peers
            .filter_map(|(name, peer)| match &peer.pair {
                Pair::Closed(why) => Some((name.to_string(), why.to_string())),
                Pair::Encrypted(_) | Pair::HostNetwork => None,
            })
            .collect()
    }
}
