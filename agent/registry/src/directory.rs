//! The directory registry: a folder of Node manifests.
//!
//! ```text
//! NODE.yaml          the operator's: metadata, spec.podCIDRs, status.addresses
//! NODE.podwire.yaml  the agent's: annotations podwire.dev/
//! NODE.request.yaml  the operator's requests: annotations request.podwire.dev/
//! ```
//! Each is replaced atomically; names with a leading dot are nobody's. So a Node's own name cannot
//! end in `.podwire` or `.request` here. The folder travels by any means that moves files, so it
//! may vanish, and be found empty or half-filled: [`contents`] decides what counts.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use podwire_core::node::NodeName;
use podwire_core::record::ANNOTATION_PREFIX;
use tokio::sync::watch;

use crate::atomic_file::{self, ReplaceError};
use crate::manifest::{self, Annotated};
use crate::nodes::{Loss, Nodes, Part};
use crate::registry::Published;
use folder::{Files, Suspects};

mod contents;
mod folder;
mod operator;
mod watcher;

pub use operator::{ChangeError, change_requests, labelled, user_name};
pub use watcher::Watcher;

/// Mode of a published record: every agent that shares the folder may read it.
const RECORD_MODE: u32 = 0o644;

/// Reads the folder once, as it is now: for whoever looks at it and goes. A folder that is being
/// copied tells half of its Nodes so.
///
/// # Errors
/// When the folder cannot be read as a whole, or holds no manifest.
pub fn read(path: &Path) -> Result<Nodes, Loss> {
    let (folder, _) = folder::open(path)?;
    contents::once(folder::list(&folder, &Files::new(), &Suspects::All)?)
}

/// Removes a Node's record from the folder `path`, when it leaves the mesh for good. Whether there
/// was one.
///
/// # Errors
/// The file system's.
pub fn withdraw(path: &Path, own: &NodeName) -> io::Result<bool> {
    match std::fs::remove_file(path.join(folder::file_name(own, Part::Record))) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A folder of Node manifests.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
    nodes: watch::Receiver<Arc<Nodes>>,
}

/// Why the folder cannot be watched at all.
#[derive(Debug, thiserror::Error)]
#[error("cannot watch files: is fs.inotify.max_user_instances reached?")]
pub struct OpenError(#[source] io::Error);

/// Why a record could not be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The folder is not there now.
    #[error("the registry's folder {} is not there", .0.display())]
    NoFolder(PathBuf),
    /// An annotation that is not the agent's to write.
    #[error("{0:?} does not begin with {ANNOTATION_PREFIX}: it is not an agent's to publish")]
    ForeignAnnotation(String),
    /// The record cannot be put into YAML.
    #[error("cannot write the record as YAML")]
    Yaml(#[source] Box<serde_saphyr::ser_error::Error>),
    /// The process is ending.
    #[error("the process is ending")]
    Stopping,
    /// The file system refused.
    #[error("cannot publish the record")]
    Replace(#[source] ReplaceError),
}

impl Directory {
    /// Prepares to read the folder `path`, which need not be there yet. Nothing is read before
    /// [`Watcher::run`] runs. Must be called within a Tokio runtime with I/O and time.
    ///
    /// # Errors
    /// When the kernel grants no inotify instance.
    pub fn open(path: impl Into<PathBuf>) -> Result<(Self, Watcher), OpenError> {
        let path = path.into();
        let (sender, nodes) = watch::channel(Arc::default());
        let watcher = Watcher::new(path.clone(), sender).map_err(OpenError)?;
        Ok((Self { path, nodes }, watcher))
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The Nodes, now and after each change.
    #[must_use]
    pub fn nodes(&self) -> watch::Receiver<Arc<Nodes>> {
        self.nodes.clone()
    }

    /// Removes what an agent of this Node that was killed left half-written. It is the only one
    /// that writes those files.
    ///
    /// # Errors
    /// The file system's; it may block for long.
    pub fn remove_leftovers(&self, own: &NodeName) -> io::Result<()> {
        atomic_file::remove_leftovers(&self.path.join(folder::file_name(own, Part::Record)))
    }

    /// Publishes the own record, as [`crate::registry::Registry::publish`].
    ///
    /// # Errors
    /// Typed; nothing is half-written then.
    pub async fn publish(
        &self,
        own: &NodeName,
        uid: &str,
        annotations: &BTreeMap<String, String>,
    ) -> Result<Published, PublishError> {
        if let Some(key) = annotations
            .keys()
            .find(|key| !key.starts_with(ANNOTATION_PREFIX))
        {
            return Err(PublishError::ForeignAnnotation(key.clone()));
        }
        let record = Annotated {
            uid: uid.to_owned(),
            annotations: annotations.clone(),
        };
        let text = manifest::write_annotated(own, record)
            .map_err(|error| PublishError::Yaml(Box::new(error)))?;
        let path = self.path.join(folder::file_name(own, Part::Record));
        // Syncing to disk may take long: not on the thread that keeps the mesh in repair.
        let written = tokio::task::spawn_blocking(move || replace_if_different(&path, &text));
        match written.await {
            Ok(Ok(published)) => Ok(published),
            Ok(Err(ReplaceError::NoFolder { .. })) => {
                Err(PublishError::NoFolder(self.path.clone()))
            }
            Ok(Err(error)) => Err(PublishError::Replace(error)),
            Err(stopped) => match stopped.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(PublishError::Stopping),
            },
        }
    }
}

fn replace_if_different(path: &Path, text: &str) -> Result<Published, ReplaceError> {
    // Whatever hinders reading it, writing it anew is the answer.
    if folder::read_file(path).is_ok_and(|found| found == text.as_bytes()) {
        return Ok(Published::Unchanged);
    }
    atomic_file::replace(path, text.as_bytes(), RECORD_MODE)?;
    Ok(Published::Written)
}

#[cfg(test)]
mod tests;
