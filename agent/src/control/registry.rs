//! Opening the registry that this node was told to use, and following it.

use std::convert::Infallible;

use podwire_core::node::NodeName;
use podwire_registry::directory::Directory;
use podwire_registry::kubernetes::{Known, Kubernetes};
use podwire_registry::registry::Registry;
use tokio::task::JoinHandle;
use tracing::debug;

use crate::config::{Config, RegistryConfig};
use crate::state::State;

/// A registry that is being followed.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) registry: Registry,
    pub(super) watcher: JoinHandle<Infallible>,
    /// Must be over before anything is written.
    pub(super) tidying: Option<JoinHandle<()>>,
}

/// Opens it. Whether it can be reached is told by what it tells.
///
/// # Errors
/// When the kernel grants no inotify instance.
pub(super) fn open(config: &Config, state: &State) -> anyhow::Result<Opened> {
    match &config.registry {
        RegistryConfig::Directory(path) => {
            let (directory, watcher) = Directory::open(path)?;
            let tidying = remove_leftovers(directory.clone(), config.node_name.clone());
            Ok(Opened {
                registry: Registry::Directory(directory),
                watcher: tokio::spawn(watcher.run()),
                tidying: Some(tidying),
            })
        }
        RegistryConfig::Kubernetes(access) => {
            let known = Known {
                nodes: state.snapshot().nodes,
                is_fresh: state.ran_lately(),
            };
            let own = config.node_name.clone();
            let (kubernetes, follower) = Kubernetes::open(access.clone(), own, known);
            Ok(Opened {
                registry: Registry::Kubernetes(kubernetes),
                watcher: tokio::spawn(follower.run()),
                tidying: None,
            })
        }
    }
}

/// Clears the registry of what a predecessor left half-written. The start does not wait for it: the
/// folder may be on a network.
fn remove_leftovers(directory: Directory, own: NodeName) -> JoinHandle<()> {
    tokio::task::spawn_blocking(move || {
        if let Err(error) = directory.remove_leftovers(&own) {
            debug!(%error, "cannot look for half-written records");
        }
    })
}
