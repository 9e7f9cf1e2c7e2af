//! A folder in memory that only this process holds.
//!
//! It is a tmpfs that is mounted nowhere: the descriptor is the only way to it, as
//! `/proc/PID/fd/N`, from every process that may look at this one, and it is gone with the
//! process. A path inside cannot be canonicalised: its mount has no place in the tree.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// A folder in memory; it ends with this value.
#[derive(Debug)]
pub struct Scratch {
    root: OwnedFd,
}

impl Scratch {
    /// An empty folder.
    ///
    /// # Errors
    /// The kernel's, when the sandbox was not entered or the kernel is older than 5.2.
    pub fn new() -> io::Result<Self> {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        let root = fsmount(
            &context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::empty(),
        )?;
        Ok(Self { root })
    }

    /// Its path, for this and other processes, as long as this value lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.root.as_raw_fd()
        ))
    }
}
