//! A node whose view of the registry's folder can stand still.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::Node;

impl Node {
    /// From its next start the agent finds the registry's folder by a link of its own, so that its
    /// view can be frozen.
    ///
    /// # Errors
    /// The file system's.
    pub fn use_own_view(&self) -> Result<()> {
        let view = self.view();
        point(&view, self.directory.path())?;
        self.lock().agent.view = Some(view);
        Ok(())
    }

    /// The agent sees the folder as it is now, whatever becomes of it, and nobody sees what the
    /// agent writes. It must have a view of its own.
    ///
    /// # Errors
    /// The file system's.
    pub fn freeze_view(&self) -> Result<()> {
        let frozen = self.frozen();
        fs::create_dir(&frozen).with_context(|| format!("making {}", frozen.display()))?;
        for entry in fs::read_dir(self.directory.path())? {
            let entry = entry?;
            fs::copy(entry.path(), frozen.join(entry.file_name()))?;
        }
        point(&self.view(), &frozen)
    }

    /// The agent sees the folder as it is again.
    ///
    /// # Errors
    /// The file system's.
    pub fn thaw_view(&self) -> Result<()> {
        point(&self.view(), self.directory.path())?;
        // It looks at once at what happens in the folder that it has open, which then is another.
        let frozen = self.frozen();
        fs::remove_dir_all(&frozen).with_context(|| format!("removing {}", frozen.display()))
    }

    fn view(&self) -> PathBuf {
        self.folders.run.with_extension("registry")
    }

    fn frozen(&self) -> PathBuf {
        self.folders.run.with_extension("frozen")
    }
}

/// Makes a link lead elsewhere, at once.
fn point(link: &Path, folder: &Path) -> Result<()> {
    let next = link.with_extension("next");
    symlink(folder, &next)
        .and_then(|()| fs::rename(&next, link))
        .with_context(|| format!("linking {}", link.display()))
}
