//! What a registry tells: all Nodes at one moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use podwire_core::node::{Node, NodeName};

use crate::manifest::ManifestError;

/// All Nodes at one moment: an immutable snapshot.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    /// Every Node whose manifest can be read. A Node that did not change since the snapshot before
    /// is the same `Arc`.
    pub nodes: BTreeMap<NodeName, Arc<Node>>,
    /// What was not taken, by Node. One whose manifest was refused is not in `nodes`; one whose
    /// record or requests were refused is there without them.
    pub rejected: BTreeMap<NodeName, Rejection>,
    /// Manifests under a name that no Node can have.
    pub misnamed: BTreeSet<String>,
    /// Whether `nodes` is what the registry holds now.
    pub state: Synchronisation,
}

/// Which part of what a registry holds about a Node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The operator's or the cluster's: uid, pod CIDRs, addresses.
    Manifest,
    /// The agent's: annotations `podwire.dev/`.
    Record,
    /// The operator's requests: annotations `request.podwire.dev/`.
    Requests,
}

/// A part of a Node that was not taken, and why.
#[derive(Clone, Debug)]
pub struct Rejection {
    /// The part, the most severe one if several are bad.
    pub part: Part,
    /// Why.
    pub error: Arc<ManifestError>,
}

impl std::fmt::Display for Rejection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let part = match self.part {
            Part::Manifest => "manifest",
            Part::Record => "record",
            Part::Requests => "requests",
        };
        write!(f, "the {part} was refused: {}", self.error)?;
        let mut source = std::error::Error::source(&*self.error);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl PartialEq for Rejection {
    /// The same refusal of the same content, not merely one that reads alike.
    fn eq(&self, other: &Self) -> bool {
        self.part == other.part && Arc::ptr_eq(&self.error, &other.error)
    }
}

impl PartialEq for Nodes {
    fn eq(&self, other: &Self) -> bool {
        self.nodes == other.nodes
            && self.rejected == other.rejected
            && self.misnamed == other.misnamed
            && self.state == other.state
    }
}

/// Whether a snapshot is what its registry holds now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Synchronisation {
    /// The registry has told nothing yet: it has not been read as a whole since the start.
    #[default]
    Starting,
    /// The registry was read as a whole, and changes are followed.
    Synchronised,
    /// The registry is out of reach. The Nodes are those that it told last; it is tried again.
    Lost(Loss),
}

/// How a registry was lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// The folder is not there.
    #[error("the folder is not there: make it, mount it, or check --directory")]
    Missing,
    /// The folder is there, but it cannot be listed or watched.
    #[error("the folder cannot be read: {0}")]
    Unreadable(String),
    /// Not one manifest is left. A mesh has at least the own Node, so this is an unmounted or
    /// emptied folder, not a mesh without nodes.
    #[error("the folder holds no Node manifest (is it mounted?)")]
    Empty,
    /// The folder holds more files than any mesh needs.
    #[error("the folder holds more than {0} files: check --directory")]
    TooManyFiles(usize),
    /// The API server does not answer, or denies what is asked.
    #[error("{0}")]
    Unreachable(String),
    /// The folder came back, or another took its place, and is still being filled.
    #[error("the folder came back and is still being filled")]
    Returning,
}

impl Nodes {
    /// Whether the registry was read as a whole and changes are followed.
    #[must_use]
    pub fn is_synchronised(&self) -> bool {
        self.state == Synchronisation::Synchronised
    }
}
