//! A wall clock of its own for the agent of a node: libfaketime, preloaded.
//!
//! Only the wall clock is false. `CLOCK_MONOTONIC` and `CLOCK_BOOTTIME` stay the kernel's, as they
//! do when somebody sets the clock of a machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::Node;
use crate::empty_folder::empty_folder;

/// Where Debian and Ubuntu keep the library: in a folder named for the architecture.
const LIBRARIES: &str = "/usr/lib";
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

impl Node {
    /// Sets the wall clock of the agent off from the machine's by so many seconds: from its next
    /// start, and at once where it was started with a clock of its own before.
    ///
    /// # Errors
    /// The file system's.
    pub fn set_clock(&self, seconds: i64) -> Result<()> {
        let file = self.folders.run.with_extension("clock");
        let next = file.with_extension("clock.next");
        // libfaketime reads the file at every look at the clock: it must never be half-written.
        fs::write(&next, format!("{seconds:+}"))
            .and_then(|()| fs::rename(&next, &file))
            .with_context(|| format!("writing {}", file.display()))?;
        self.lock().agent.clock = Some(file);
        Ok(())
    }
}

/// Makes the child look at the clock that `file` sets.
pub(super) fn use_clock(command: &mut Command, file: &Path) -> Result<()> {
    command
        .env("LD_PRELOAD", library()?)
        .env("FAKETIME_TIMESTAMP_FILE", file)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    // It leaves a semaphore there for each process that is killed.
    empty_folder(command, c"/dev/shm");
    Ok(())
}

fn library() -> Result<PathBuf> {
    let folders = fs::read_dir(LIBRARIES).with_context(|| format!("reading {LIBRARIES}"))?;
    folders
        .filter_map(|entry| Some(entry.ok()?.path().join(LIBRARY)))
        .find(|path| path.is_file())
        .context("libfaketime is missing: run `apt-get install faketime`")
}
