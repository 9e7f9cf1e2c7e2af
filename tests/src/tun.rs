//! A node whose `/dev/net/tun` is not what it should be.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mknodat, open};

use crate::empty_folder::empty_folder;

/// What an agent finds in place of the TUN driver's device file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunFile {
    /// Nothing.
    Missing,
    /// A file that no permission lets it open.
    Unreadable,
    /// A device file that no driver is behind, as without the module. Only real root can make it.
    NoDriver,
    /// An ordinary file.
    Regular,
}

/// A minor number of miscellaneous devices (major 10) that no driver has.
const UNUSED_MINOR: u32 = 254;

/// Makes the child see this file, in a mount namespace of its own.
#[expect(
    unsafe_code,
    reason = "std offers no other way to act between fork and exec"
)]
pub(crate) fn replace_tun_device(command: &mut Command, file: TunFile) {
    empty_folder(command, c"/dev/net");
    // SAFETY: system calls with constant arguments alone: async-signal-safe, no allocation.
    unsafe {
        command.pre_exec(move || make(file));
    }
}

fn make(file: TunFile) -> io::Result<()> {
    let path = c"/dev/net/tun";
    let mode = match file {
        TunFile::Missing => return Ok(()),
        TunFile::NoDriver => {
            let mode = Mode::from_raw_mode(0o666);
            let device = makedev(10, UNUSED_MINOR);
            return Ok(mknodat(CWD, path, FileType::CharacterDevice, mode, device)?);
        }
        TunFile::Unreadable => Mode::empty(),
        TunFile::Regular => Mode::from_raw_mode(0o666),
    };
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    open(path, flags, mode).map(drop)?;
    Ok(())
}
