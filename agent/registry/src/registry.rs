//! The registry that a process was told to use.

use std::collections::BTreeMap;
use std::sync::Arc;

use podwire_core::node::NodeName;
use tokio::sync::watch;

use crate::directory::{self, Directory};
use crate::kubernetes::{self, Kubernetes};
use crate::nodes::Nodes;

/// The registry in use. An enum, not a trait: all registries are known here.
#[derive(Clone, Debug)]
pub enum Registry {
    /// A folder of Node manifests.
    Directory(Directory),
    /// Nodes of an API server.
    Kubernetes(Kubernetes),
}

/// What publishing a record did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// The registry held exactly this already: nothing was written.
    Unchanged,
    /// The record was written.
    Written,
}

/// Something about a node that its operator shall find where Nodes are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Why, in one word of a small set.
    pub reason: &'static str,
    /// What, in a sentence.
    pub note: String,
    /// Whether an operator has to look.
    pub is_warning: bool,
}

/// Why a record could not be published; trying again later is always right.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The directory registry refused.
    #[error(transparent)]
    Directory(#[from] directory::PublishError),
    /// The Kubernetes registry refused.
    #[error(transparent)]
    Kubernetes(#[from] kubernetes::PublishError),
}

impl Registry {
    /// A word for status and metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Directory(_) => "directory",
            Self::Kubernetes(_) => "kubernetes",
        }
    }

    /// The Nodes, now and after each change.
    #[must_use]
    pub fn nodes(&self) -> watch::Receiver<Arc<Nodes>> {
        match self {
            Self::Directory(directory) => directory.nodes(),
            Self::Kubernetes(kubernetes) => kubernetes.nodes(),
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
            Self::Kubernetes(kubernetes) => Ok(kubernetes.publish(own, uid, annotations).await?),
        }
    }

    /// Tells of the Node `own` with this `uid`. A folder has no place for it: log, status and
    /// metrics tell it there.
    ///
    /// # Errors
    /// The registry's. It need not be told again: log, status and metrics have it, too.
    pub async fn tell(&self, own: &NodeName, uid: &str, event: &Event) -> Result<(), PublishError> {
        match self {
            Self::Directory(_) => Ok(()),
            Self::Kubernetes(kubernetes) => Ok(kubernetes.tell(own, uid, event).await?),
        }
    }

    /// Whether the own Node is said to have a network; `None` while that is unknown. A folder says
    /// nothing of it.
    #[must_use]
    pub fn is_network_available(&self) -> Option<bool> {
        match self {
            Self::Directory(_) => None,
            Self::Kubernetes(kubernetes) => kubernetes.is_network_available(),
        }
    }

    /// Says of the Node `own` that it has a network, if it is not said.
    ///
    /// # Errors
    /// The registry's; trying again later is always right.
    pub async fn set_network_available(&self, own: &NodeName) -> Result<(), PublishError> {
        match self {
            Self::Directory(_) => Ok(()),
            Self::Kubernetes(kubernetes) => Ok(kubernetes.set_network_available(own).await?),
        }
    }
}
