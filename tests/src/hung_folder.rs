//! A folder that never answers, as one on a file server that is gone.
//!
//! It is a FUSE file system that nobody serves, mounted nowhere: every look at what is in it waits,
//! until this value ends.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use rustix::mount::{FsOpenFlags, fsconfig_set_string, fsopen};

use crate::scratch::Scratch;

/// A folder that never answers; when it ends, whoever waits for it gets an error.
#[derive(Debug)]
pub struct HungFolder {
    root: Scratch,
    /// The side that would have to answer.
    _server: File,
}

impl HungFolder {
    /// A new one.
    ///
    /// # Errors
    /// The kernel's, when it has no FUSE, the sandbox was not entered, or it is older than 5.2.
    pub fn new() -> io::Result<Self> {
        let server = File::options().read(true).write(true).open("/dev/fuse")?;
        let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let descriptor = server.as_raw_fd().to_string();
        for (option, value) in [
            ("fd", descriptor.as_str()),
            ("rootmode", "40000"),
            ("user_id", "0"),
            ("group_id", "0"),
        ] {
            fsconfig_set_string(&context, option, value)?;
        }
        let root = Scratch::mount(&context)?;
        Ok(Self {
            root,
            _server: server,
        })
    }

    /// Its path, for this and other processes, as long as this value lives. Looking at it hangs.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.root.path()
    }
}
