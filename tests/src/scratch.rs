//! A folder in memory that only this process holds.
//!
//! It is a tmpfs that is mounted nowhere: the descriptor is the only way to it, as
//! `/proc/PID/fd/N`, from every process that may look at this one, and it is gone with the
//! process. A path inside cannot be canonicalised: its mount has no place in the tree.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;

use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, fsconfig_create, fsconfig_reconfigure,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick,
};

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
        Self::with("0")
    }

    /// An empty folder that holds so many bytes: a disk that can be filled.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn of_size(bytes: u32) -> io::Result<Self> {
        Self::with(&bytes.to_string())
    }

    /// Lets nobody write any more. No file in it may be open for writing.
    ///
    /// # Errors
    /// The kernel's.
    pub fn make_read_only(&self) -> io::Result<()> {
        let flags = FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH;
        let context = fspick(&self.root, "", flags)?;
        fsconfig_set_flag(&context, "ro")?;
        Ok(fsconfig_reconfigure(&context)?)
    }

    /// `size` is tmpfs's own option; 0 is no limit.
    fn with(size: &str) -> io::Result<Self> {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_string(&context, "size", size)?;
        Self::mount(&context)
    }

    /// The file system that a context of `fsopen` describes, mounted nowhere.
    pub(crate) fn mount(context: &OwnedFd) -> io::Result<Self> {
        fsconfig_create(context)?;
        let root = fsmount(
            context,
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
