//! The store's data at one time, to go back to.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{ControlPlane, Server};
use crate::until::until;

/// A process stops once each of its threads has left the kernel.
const PAUSE_DEADLINE: Duration = Duration::from_secs(20);

/// What etcd prepares for later and makes anew: 64 MiB each.
const UNUSED_EXTENSION: &str = "tmp";

/// The store's data at one time; gone with its testbed.
#[derive(Debug)]
pub struct Snapshot {
    folder: PathBuf,
}

impl ControlPlane {
    /// Copies the store's data while it is paused: what a machine would have on its disk that lost
    /// power now.
    ///
    /// # Errors
    /// The file system's, and when etcd does not run.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let folder = (1_u32..)
            .map(|number| self.layout.path(&format!("snapshot-{number}")))
            .find(|folder| !folder.exists())
            .context("numbers have an end")?;
        self.pause_server(Server::Etcd)?;
        let copied = self
            .wait_paused()
            .and_then(|()| copy(&self.layout.path("etcd"), &folder));
        self.resume_server(Server::Etcd)?;
        copied?;
        Ok(Snapshot { folder })
    }

    /// Ends all servers and starts them with the data of a snapshot: whatever came after it has
    /// not been, and the API's resource versions go back.
    ///
    /// # Errors
    /// The file system's, and as [`Self::start_server`].
    pub fn restore(&self, snapshot: &Snapshot) -> Result<()> {
        for server in Server::ALL.into_iter().rev() {
            self.forget(server);
        }
        let data = self.layout.path("etcd");
        fs::remove_dir_all(&data).with_context(|| format!("removing {}", data.display()))?;
        copy(&snapshot.folder, &data)?;
        Server::ALL
            .into_iter()
            .try_for_each(|server| self.start_server(server))
    }

    fn wait_paused(&self) -> Result<()> {
        let id = self.server_pid(Server::Etcd)?;
        until(PAUSE_DEADLINE, "etcd to be paused", || {
            for thread in fs::read_dir(format!("/proc/{id}/task"))? {
                let status = fs::read_to_string(thread?.path().join("status"))?;
                let paused = status.lines().any(|line| line.starts_with("State:\tT"));
                ensure!(paused, "a thread runs");
            }
            Ok(())
        })
    }
}

/// Copies a folder and all that is in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type()?.is_dir() {
            copy(&source, &target)?;
        } else if source.extension().is_none_or(|it| it != UNUSED_EXTENSION) {
            fs::copy(&source, &target).with_context(|| format!("copying {}", source.display()))?;
        }
    }
    Ok(())
}
