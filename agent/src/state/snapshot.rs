//! The last known mesh: what the guards need at a boot before the registry can be reached.
//!
//! A lost or damaged snapshot costs time, not safety: the guards cover the whole cluster CIDR
//! anyhow.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use podwire_core::mesh::{Incumbent, Incumbents};
use podwire_core::node::{Node, NodeName};
use podwire_registry::atomic_file;
use serde::{Deserialize, Serialize};

use super::error::StateError;
use super::folder::{self, FILE_MODE};

/// Name of the file.
pub(super) const FILE: &str = "snapshot.json";

/// Version of the form that is written, and the newest that is read.
const VERSION: u64 = 1;

/// Largest file: a few KiB for each of more nodes than a cluster has.
const SIZE_MAX: u64 = 64 * 1024 * 1024;

/// The last known mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// All Nodes that the registry told, the own one among them.
    pub(crate) nodes: BTreeMap<NodeName, Arc<Node>>,
    /// Which claims a handshake has confirmed.
    pub(crate) incumbents: Incumbents,
}

/// As it is on disk.
#[derive(Serialize, Deserialize)]
struct SnapshotFile {
    version: u64,
    nodes: BTreeMap<String, NodeEntry>,
    incumbents: BTreeMap<String, IncumbentEntry>,
}

#[derive(Serialize, Deserialize)]
struct NodeEntry {
    uid: String,
    created: i64,
    pod_cidrs: Vec<String>,
    addresses: Vec<IpAddr>,
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    is_record_unread: bool,
}

#[derive(Serialize, Deserialize)]
struct IncumbentEntry {
    uid: String,
    public_key: String,
    other_lanes: Vec<String>,
    pod_cidrs: Vec<String>,
}

impl Snapshot {
    /// Reads the snapshot of the folder; an empty one when there is none.
    pub(super) fn read(folder: &Path) -> Result<Self, StateError> {
        let path = folder.join(FILE);
        let Some(bytes) = folder::read(&path, SIZE_MAX)? else {
            return Ok(Self::default());
        };
        let file: SnapshotFile = folder::parse(&path, &bytes, VERSION)?;
        Self::from_file(file).map_err(|source| StateError::Damaged { path, source })
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), StateError> {
        let path = folder.join(FILE);
        let text = serde_json::to_vec(&self.to_file())
            .map_err(|error| StateError::damaged(&path, error))?;
        Ok(atomic_file::replace(&path, &text, FILE_MODE)?)
    }

    fn to_file(&self) -> SnapshotFile {
        let node = |node: &Node| NodeEntry {
            uid: node.uid.clone(),
            created: node.created,
            pod_cidrs: node.pod_cidrs.iter().map(ToString::to_string).collect(),
            addresses: node.addresses.clone(),
            annotations: node.annotations.clone(),
            is_record_unread: node.is_record_unread,
        };
        let incumbent = |incumbent: &Incumbent| IncumbentEntry {
            uid: incumbent.uid.clone(),
            public_key: incumbent.public_key.to_string(),
            other_lanes: incumbent
                .other_lanes
                .iter()
                .map(ToString::to_string)
                .collect(),
            pod_cidrs: incumbent
                .pod_cidrs
                .iter()
                .map(ToString::to_string)
                .collect(),
        };
        SnapshotFile {
            version: VERSION,
            nodes: self
                .nodes
                .iter()
                .map(|(name, of)| (name.to_string(), node(of)))
                .collect(),
            incumbents: self
                .incumbents
                .iter()
                .map(|(name, of)| (name.to_string(), incumbent(of)))
                .collect(),
        }
    }

    fn from_file(file: SnapshotFile) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut snapshot = Self::default();
        for (name, entry) in file.nodes {
            let name: NodeName = name.parse()?;
            let pod_cidrs = entry
                .pod_cidrs
                .iter()
                .map(|cidr| cidr.parse())
                .collect::<Result<_, _>>()?;
            let node = Node {
                name: name.clone(),
                uid: entry.uid,
                created: entry.created,
                pod_cidrs,
                addresses: entry.addresses,
                annotations: entry.annotations,
                is_record_unread: entry.is_record_unread,
            };
            snapshot.nodes.insert(name, Arc::new(node));
        }
        for (name, entry) in file.incumbents {
            let incumbent = Incumbent {
                uid: entry.uid,
                public_key: entry.public_key.parse()?,
                other_lanes: entry
                    .other_lanes
                    .iter()
                    .map(|key| key.parse())
                    .collect::<Result<_, _>>()?,
                pod_cidrs: entry
                    .pod_cidrs
                    .iter()
                    .map(|cidr| cidr.parse())
                    .collect::<Result<_, _>>()?,
            };
            snapshot.incumbents.insert(name.parse()?, incumbent);
        }
        Ok(snapshot)
    }
}
