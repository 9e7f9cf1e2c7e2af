//! Why the state folder cannot be used. Each message names the file, the cause and the remedy.

use std::io;
use std::path::{Path, PathBuf};

use podwire_registry::atomic_file::ReplaceError;

/// Why the state folder, or a file in it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error(
        "cannot use the state folder {}: it must be a folder on a disk that this process may write; \
         see --state-dir", .path.display()
    )]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the state folder {} is locked by another podwire-agent{}: one agent a node; stop that one, or \
         give this one another --state-dir", .path.display(), process(*.pid)
    )]
    Locked { path: PathBuf, pid: Option<u32> },
    #[error("cannot read {}: check its owner, its permissions and its disk", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} holds private keys, but others may read or write it (owner {owner}, mode {mode:03o}): give it \
         to user {expected_owner} with mode 600 if nobody has read it; otherwise {}",
        .path.display(), new_node(.path)
    )]
    Exposed {
        path: PathBuf,
        owner: u32,
        expected_owner: u32,
        mode: u32,
    },
    #[error(
        "{} is damaged: restore it from a backup, or {}", .path.display(), new_node(.path)
    )]
    Damaged {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "{} was written by a newer podwire-agent (version {found} of the file; this agent reads {known}): \
         start that one, or {}", .path.display(), new_node(.path)
    )]
    FutureVersion {
        path: PathBuf,
        found: u64,
        known: u64,
    },
    #[error(
        "{} is missing, but other files of this node are there: restore it from a backup, or {}",
        .path.display(), new_node(.path)
    )]
    Missing { path: PathBuf },
    #[error("{} was changed by somebody else while this agent was running: start it again", .path.display())]
    Changed { path: PathBuf },
    #[error("cannot keep this node's state")]
    Write(#[from] ReplaceError),
    #[error("the kernel gives no random bytes for a new key")]
    Random(#[source] io::Error),
}

impl StateError {
    /// Whether a file's contents or permissions are what is wrong, and so what to mend is here, as
    /// with a flag; a disk that is full or broken is another matter.
    pub(crate) fn is_bad_value(&self) -> bool {
        match self {
            Self::Exposed { .. }
            | Self::Damaged { .. }
            | Self::FutureVersion { .. }
            | Self::Missing { .. } => true,
            Self::Folder { .. }
            | Self::Locked { .. }
            | Self::Read { .. }
            | Self::Changed { .. }
            | Self::Write(_)
            | Self::Random(_) => false,
        }
    }

    pub(super) fn damaged(
        path: &Path,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            source: source.into(),
        }
    }
}

fn process(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

fn new_node(file: &Path) -> String {
    let folder = file.parent().unwrap_or(file);
    format!(
        "remove everything in {} to begin with new keys",
        folder.display()
    )
}
