//! The registry that a process was told to use.

use std::collections::BTreeMap;
use std::sync::Arc;

use podwire_core::node::NodeName;
use tokio::sync::watch;

use crate::directory::{self, Directory};
use crate::nodes::Nodes;

/// The registry in use. An enum, not a trait: all registries are known here.
#[derive(Clone, Debug)]
pub enum Registry {
    /// A folder of Node manifests.
    Directory(Directory),
}

/// What publishing a record did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// The registry held exactly this already: nothing was written.
    Unchanged,
    /// The record was written.
    Written,
}

/// Why a record could not be published; trying again later is always right.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The directory registry refused.
    #[error(transparent)]
    Directory(#[from] directory::PublishError),
}

impl Registry {
    /// A word for status and metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Directory(_) => "directory",
        }
    }

    /// The Nodes, now and after each change.
    #[must_use]
    pub fn nodes(&self) -> watch::Receiver<Arc<Nodes>> {
        match self {
            Self::Directory(directory) => directory.nodes(),
        }
    }

    /// Publishes the own record: `annotations` (`podwire.dev/` keys) replace all that the agent
    /// published before for the Node `own` with this `uid`. Writes nothing when nothing differs.
    ///
    /// # Errors
    /// The registry's; nothing is half-written then.
    pub async fn publish(
        &self,
        own: &NodeName,
        uid: &str,
        annotations: &BTreeMap<String, String>,
    ) -> Result<Published, PublishError> {
        match self {
            Self::Directory(directory) => Ok(directory.publish(own, uid, annotations).await?),
        }
    }
}
