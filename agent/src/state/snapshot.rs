//! The last known mesh: what the guards need at a boot before the registry can be reached.
//!
//! A lost or damaged snapshot costs time, not safety: the guards cover the whole cluster CIDR
//! anyhow.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use podwire_core::mesh::{Incumbent, Incumbents};
use podwire_core::node::{Node, NodeName};
use podwire_registry::atomic_file;
use serde::{Deserialize, Serialize, Serializer};

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

/// As it is read from disk.
#[derive(Deserialize)]
struct SnapshotFile {
    #[serde(rename = "version")]
    _version: u64,
    nodes: BTreeMap<String, NodeEntry<'static>>,
    incumbents: BTreeMap<String, IncumbentEntry<'static>>,
}

/// As it is written: entries are made one by one, for thousands of them at once are half as much
/// memory as the mesh itself.
#[derive(Serialize)]
struct WrittenFile<'a> {
    version: u64,
    #[serde(serialize_with = "node_entries")]
    nodes: &'a BTreeMap<NodeName, Arc<Node>>,
    #[serde(serialize_with = "incumbent_entries")]
    incumbents: &'a Incumbents,
}

#[derive(Serialize, Deserialize)]
struct NodeEntry<'a> {
    uid: Cow<'a, str>,
    created: i64,
    pod_cidrs: Vec<String>,
    addresses: Cow<'a, [IpAddr]>,
    annotations: Cow<'a, BTreeMap<String, String>>,
    #[serde(default)]
    is_record_unread: bool,
}

#[derive(Serialize, Deserialize)]
struct IncumbentEntry<'a> {
    uid: Cow<'a, str>,
    public_key: String,
    other_lanes: Vec<String>,
    pod_cidrs: Vec<String>,
}

impl<'a> From<&'a Node> for NodeEntry<'a> {
    fn from(node: &'a Node) -> Self {
        Self {
            uid: Cow::Borrowed(&node.uid),
            created: node.created,
            pod_cidrs: texts(&node.pod_cidrs),
            addresses: Cow::Borrowed(&node.addresses),
            annotations: Cow::Borrowed(&node.annotations),
            is_record_unread: node.is_record_unread,
        }
    }
}

impl<'a> From<&'a Incumbent> for IncumbentEntry<'a> {
    fn from(incumbent: &'a Incumbent) -> Self {
        Self {
            uid: Cow::Borrowed(&incumbent.uid),
            public_key: incumbent.public_key.to_string(),
            other_lanes: texts(&incumbent.other_lanes),
            pod_cidrs: texts(&incumbent.pod_cidrs),
        }
    }
}

fn node_entries<S: Serializer>(
    nodes: &&BTreeMap<NodeName, Arc<Node>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let entries = nodes.iter();
    serializer.collect_map(entries.map(|(name, of)| (name.as_str(), NodeEntry::from(&**of))))
}

fn incumbent_entries<S: Serializer>(
    incumbents: &&Incumbents,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let entries = incumbents.iter();
    serializer.collect_map(entries.map(|(name, of)| (name.as_str(), IncumbentEntry::from(of))))
}

fn texts(values: &[impl ToString]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
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
        let file = WrittenFile {
            version: VERSION,
            nodes: &self.nodes,
            incumbents: &self.incumbents,
        };
        let text = serde_json::to_vec(&file).map_err(|error| StateError::damaged(&path, error))?;
        Ok(atomic_file::replace(&path, &text, FILE_MODE)?)
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
                uid: entry.uid.into_owned(),
                created: entry.created,
                pod_cidrs,
                addresses: entry.addresses.into_owned(),
                annotations: entry.annotations.into_owned(),
                is_record_unread: entry.is_record_unread,
            };
            snapshot.nodes.insert(name, Arc::new(node));
        }
        for (name, entry) in file.incumbents {
            let incumbent = Incumbent {
                uid: entry.uid.into_owned(),
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
