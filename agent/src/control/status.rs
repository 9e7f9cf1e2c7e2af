//! What the agent tells about itself: served on the admin socket, printed by `podwire-agent
//! status`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the JSON form.
pub(crate) const API_VERSION: &str = "podwire.dev/v1";

/// The state of one agent, replaced as a whole after each reconcile.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) struct Status {
    pub(crate) api_version: String,
    pub(crate) version: String,
    pub(crate) node: String,
    /// `encrypted`, `host-network`, or `closed` (encrypted without a usable device), or
    /// `undecided`.
    pub(crate) mode: String,
    pub(crate) ready: bool,
    /// Why the node is not ready, or what an operator should look at.
    pub(crate) problems: Vec<String>,
    pub(crate) public_key: Option<String>,
    pub(crate) key_generation: u64,
    #[serde(default)]
    pub(crate) rotation: RotationStatus,
    pub(crate) epoch: u64,
    pub(crate) lanes: usize,
    pub(crate) listen_port: u16,
    pub(crate) pod_cidrs: Vec<String>,
    pub(crate) device: DeviceStatus,
    pub(crate) registry: RegistryStatus,
    pub(crate) peers: PeerCounts,
    /// Nodes that are no peers, or of which a part does not count, and why.
    pub(crate) refusals: BTreeMap<String, Refused>,
    /// Peers whose packets have no way to go, and why.
    pub(crate) unroutable: BTreeMap<String, String>,
    /// Peers with which traffic is declared plaintext.
    pub(crate) plaintext: Vec<String>,
    /// Peers with which there is no traffic by a decision, and why.
    #[serde(default)]
    pub(crate) closed: BTreeMap<String, String>,
    /// Routes and rules of others that stand in the way of pod traffic: the first of them.
    pub(crate) obstacles: Vec<String>,
    /// How many there are.
    pub(crate) obstacles_total: usize,
    /// The CNI configuration, where this agent writes it.
    #[serde(default)]
    pub(crate) cni: Option<CniStatus>,
    /// What keeps pods of this host from working, with its remedy; it is not touched.
    #[serde(default)]
    pub(crate) findings: Vec<FindingRow>,
    pub(crate) reconcile: ReconcileStatus,
}

/// Why a node is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refused {
    /// A word: see [`podwire_registry::refusals::Reason`].
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// Where the rotation of the own keys stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RotationStatus {
    /// `settled`, `announced`, `promoted confirmed=N/M` as of the promotion, `withdrawn` or
    /// `revoked`.
    pub(crate) phase: String,
    /// When the keys in force were made, RFC 3339.
    pub(crate) key_created: String,
    /// Lane 0's public key that peers have yet to come to, if they have.
    pub(crate) newer_public_key: Option<String>,
    /// Peers that use the newer keys.
    pub(crate) confirmed: usize,
    /// Peers with a session that do not: the first of them. One without an agent needs the newer
    /// public key in its configuration.
    pub(crate) waiting: Vec<String>,
    /// How many there are.
    pub(crate) waiting_total: usize,
    /// What the Node's annotations ask for.
    pub(crate) asked_at_node: Option<String>,
    /// The request that counts, and what it comes to.
    pub(crate) request: Option<String>,
    /// Why a request is not done.
    pub(crate) refused: Option<String>,
    /// Seconds from the last announcement to the end of the keys before.
    pub(crate) last_seconds: Option<u64>,
}

/// The CNI configuration that this agent writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CniStatus {
    /// Path of its symbolic link.
    pub(crate) configuration: String,
    pub(crate) in_place: bool,
    pub(crate) plugin: String,
    /// What links of pods get, once that is decided.
    pub(crate) mtu: Option<u32>,
}

/// Something that is found at the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FindingRow {
    /// A word: see [`podwire_core::finding::Kind`].
    pub(crate) kind: String,
    pub(crate) message: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct DeviceStatus {
    pub(crate) name: String,
    pub(crate) up: bool,
    pub(crate) mtu: u32,
    pub(crate) addresses: Vec<String>,
    pub(crate) routes: usize,
    pub(crate) guard: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct RegistryStatus {
    pub(crate) kind: String,
    pub(crate) synchronised: bool,
    pub(crate) lost: Option<String>,
    pub(crate) nodes: usize,
    pub(crate) writes: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct PeerCounts {
    pub(crate) total: usize,
    pub(crate) encrypted: usize,
    pub(crate) host_network: usize,
    pub(crate) closed: usize,
    /// Encrypted peers with a live session.
    pub(crate) up: usize,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ReconcileStatus {
    pub(crate) runs: u64,
    pub(crate) errors: u64,
    /// Changes made to the kernel since start.
    pub(crate) kernel_changes: u64,
    /// Peers added, changed and removed in the data plane since start.
    pub(crate) peer_changes: u64,
    pub(crate) last_error: Option<String>,
    /// Milliseconds that the longest reconcile took.
    pub(crate) longest_ms: u64,
}

/// One peer as `podwire-agent peers` shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PeerRow {
    pub(crate) node: String,
    /// `encrypted`, `host-network` or `closed`.
    pub(crate) mode: String,
    /// `up`, `handshaking`, `idle`, `down`; `plaintext` or `closed` for the other modes.
    pub(crate) state: String,
    pub(crate) public_key: Option<String>,
    /// Where lane 0 sends.
    pub(crate) endpoint: Option<String>,
    /// Where each lane sends: one that has met a fault of one family may be on the other.
    #[serde(default)]
    pub(crate) lane_endpoints: Vec<Option<String>>,
    pub(crate) pod_cidrs: Vec<String>,
    /// Seconds since the last completed handshake.
    pub(crate) latest_handshake_seconds: Option<u64>,
    pub(crate) lanes_up: usize,
    pub(crate) lanes: usize,
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) received_packets: u64,
    pub(crate) sent_packets: u64,
    pub(crate) handshakes: u64,
}

/// One row of `podwire-agent drops`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DropRow {
    pub(crate) reason: String,
    pub(crate) packets: u64,
}
