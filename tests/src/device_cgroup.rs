//! A control group whose processes may not open the TUN device, as a container runtime makes one:
//! an eBPF program of type `BPF_PROG_TYPE_CGROUP_DEVICE`, attached in the unified hierarchy. It
//! takes real root and a hierarchy that may be written.

use std::ffi::CString;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::fs::{Mode, OFlags};

use crate::cookie;

/// `bpf(2)`'s commands and types (`linux/bpf.h`).
const PROGRAM_LOAD: libc::c_long = 5;
const PROGRAM_ATTACH: libc::c_long = 8;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_DEVICE: u32 = 6;

/// The device number of `/dev/net/tun`.
const MAJOR: u64 = 10;
const MINOR: u64 = 200;

/// `struct bpf_cgroup_dev_ctx` is access type, major, minor, of four bytes each. Each instruction
/// is code, registers, offset and immediate value, from the lowest byte on.
const PROGRAM: [u64; 8] = [
    // r2 = major; if it is another, allow
    0x61 | 0x12 << 8 | 4 << 16,
    0x55 | 0x02 << 8 | 4 << 16 | MAJOR << 32,
    // r2 = minor; if it is another, allow
    0x61 | 0x12 << 8 | 8 << 16,
    0x55 | 0x02 << 8 | 2 << 16 | MINOR << 32,
    // return 0: EPERM
    0xb7,
    0x95,
    // return 1
    0xb7 | 1 << 32,
    0x95,
];

/// The control group; removed with this value, by when its processes must have ended.
#[derive(Debug)]
pub(crate) struct DeviceCgroup {
    path: PathBuf,
}

impl DeviceCgroup {
    /// Makes it; none where this machine does not let it be made.
    ///
    /// # Errors
    /// Any other reason: a test that is confined by something else than it says shows nothing.
    pub(crate) fn new() -> Result<Option<Self>> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let Some(unified) = unified_hierarchy(&mounts) else {
            return Ok(None);
        };
        match Self::make(unified) {
            Err(error) if is_forbidden(&error) => Ok(None),
            made => made.map(Some),
        }
    }

    fn make(unified: &str) -> Result<Self> {
        let name = format!("podwire-testbed-{:016x}", cookie::random_number());
        let path = PathBuf::from(unified).join(name);
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        let cgroup = Self { path };
        let folder = fs::File::open(&cgroup.path)?;
        let program = load().context("loading an eBPF program")?;
        attach(&folder, &program).context("attaching an eBPF program")?;
        Ok(cgroup)
    }

    /// The child joins it.
    #[expect(
        unsafe_code,
        reason = "std offers no other way to act between fork and exec"
    )]
    pub(crate) fn confine(&self, command: &mut Command) -> Result<()> {
        let members = CString::new(self.path.join("cgroup.procs").as_os_str().as_bytes())?;
        // SAFETY: two system calls on a path that was made before: no allocation.
        unsafe {
            command.pre_exec(move || {
                let flags = OFlags::WRONLY | OFlags::CLOEXEC;
                let file = rustix::fs::open(members.as_c_str(), flags, Mode::empty())?;
                fs::File::from(file).write_all(b"0")
            });
        }
        Ok(())
    }
}

/// Where it is mounted.
fn unified_hierarchy(mounts: &str) -> Option<&str> {
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .map(|fields| fields[1])
}

/// Whether the kernel says that this user, or this container, may not.
fn is_forbidden(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<io::Error>();
    let number = error.and_then(io::Error::raw_os_error);
    matches!(number, Some(libc::EPERM | libc::EACCES | libc::EROFS))
}

impl Drop for DeviceCgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// The start of `union bpf_attr` for loading a program.
#[repr(C)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: *const u64,
    license: *const libc::c_char,
    log: [u64; 3],
}

/// The start of `union bpf_attr` for attaching one.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

#[expect(unsafe_code, reason = "there is no safe form of bpf(2)")]
fn load() -> io::Result<OwnedFd> {
    let request = Load {
        program_type: TYPE_CGROUP_DEVICE,
        instruction_count: PROGRAM.len().try_into().map_err(io::Error::other)?,
        instructions: PROGRAM.as_ptr(),
        license: c"Apache-2.0".as_ptr(),
        log: [0; 3],
    };
    // SAFETY: the kernel reads the request, and the program and license that it points to.
    let made = unsafe { libc::syscall(libc::SYS_bpf, PROGRAM_LOAD, &request, size_of::<Load>()) };
    let made = i32::try_from(made).map_err(io::Error::other)?;
    if made < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for this call.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

#[expect(unsafe_code, reason = "there is no safe form of bpf(2)")]
fn attach(folder: &fs::File, program: &OwnedFd) -> io::Result<()> {
    let number = |fd: i32| u32::try_from(fd).map_err(io::Error::other);
    let request = Attach {
        target: number(folder.as_raw_fd())?,
        program: number(program.as_raw_fd())?,
        kind: ATTACH_DEVICE,
        flags: 0,
    };
    // SAFETY: the kernel reads the request, which is integers alone.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, PROGRAM_ATTACH, &request, size_of::<Attach>()) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(number: i32) -> anyhow::Error {
        let made: Result<(), _> = Err(io::Error::from_raw_os_error(number));
        let made = made.context("making it");
        made.expect_err("it is an error")
    }

    #[test]
    fn only_what_is_forbidden_lets_something_else_confine() {
        for number in [libc::EPERM, libc::EACCES, libc::EROFS] {
            assert!(is_forbidden(&failed(number)), "{number}");
        }
        for number in [libc::EINVAL, libc::ENOENT, libc::ENOSPC, libc::E2BIG] {
            assert!(!is_forbidden(&failed(number)), "{number}");
        }
        assert!(!is_forbidden(&anyhow::anyhow!("no error of the kernel")));
    }

    #[test]
    fn the_unified_hierarchy_is_told_from_the_others() {
        let old = "cgroup /sys/fs/cgroup/devices cgroup rw,devices 0 0\n";
        assert_eq!(unified_hierarchy(old), None);
        let both = format!("{old}cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n");
        assert_eq!(unified_hierarchy(&both), Some("/sys/fs/cgroup/unified"));
    }
}
