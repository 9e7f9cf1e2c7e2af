//! A folder of the machine that one child sees empty.

use std::ffi::CStr;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;

use crate::sandbox::unshare;

/// Makes the child see an empty folder of its own at `path`, in a mount namespace of its own.
#[expect(
    unsafe_code,
    reason = "std offers no other way to act between fork and exec"
)]
pub(crate) fn empty_folder(command: &mut Command, path: &'static CStr) {
    // SAFETY: unshare(2) and mount(2) with constant arguments: async-signal-safe, no allocation.
    unsafe {
        command.pre_exec(move || {
            unshare(UnshareFlags::NEWNS)?;
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change(c"/", private)?;
            mount(c"tmpfs", path, c"tmpfs", MountFlags::empty(), None).map_err(io::Error::from)
        });
    }
}
