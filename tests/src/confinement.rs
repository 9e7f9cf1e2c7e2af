//! What is kept from an agent: capabilities, system calls, the TUN device.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Result, bail};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

use crate::device_cgroup::DeviceCgroup;
use crate::tun::{TunFile, replace_tun_device};

/// One thing that is kept from an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confinement {
    /// The capability NET_ADMIN.
    NetAdmin,
    /// Netfilter sockets: `socket(2)` fails so. `PERM` is what a profile says, `PROTONOSUPPORT` a
    /// kernel that has none.
    Netfilter(Errno),
    /// The TUN driver's device file.
    TunFile(TunFile),
    /// The right to open the TUN device, by the device control group.
    TunDevice,
}

/// What holds it for as long as the agent runs, and how it was brought about, in words.
#[derive(Debug)]
pub(crate) struct Confined {
    _cgroup: Option<DeviceCgroup>,
    pub(crate) means: &'static str,
}

impl Confinement {
    /// Confines the child of this command.
    pub(crate) fn apply(self, command: &mut Command) -> Result<Confined> {
        let confined = |means| {
            let _cgroup = None;
            Ok(Confined { _cgroup, means })
        };
        match self {
            Self::NetAdmin => {
                without_capabilities(command, CapabilitySet::NET_ADMIN);
                confined("dropped from the bounding set")
            }
            Self::Netfilter(errno) => {
                let Ok(call) = u32::try_from(libc::SYS_socket) else {
                    bail!("no number of socket(2)");
                };
                let netlink = (0, libc::AF_NETLINK.cast_unsigned());
                let netfilter = (2, libc::NETLINK_NETFILTER.cast_unsigned());
                refuse(command, call, [netlink, netfilter], errno);
                confined("seccomp: `socket(2)` refuses netfilter sockets with that errno")
            }
            Self::TunFile(file) => {
                if file == TunFile::Unreadable {
                    let overriding = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
                    without_capabilities(command, overriding);
                }
                replace_tun_device(command, file);
                confined("a mount namespace with another `/dev/net`")
            }
            Self::TunDevice => match DeviceCgroup::new()? {
                Some(cgroup) => {
                    cgroup.confine(command)?;
                    Ok(Confined {
                        _cgroup: Some(cgroup),
                        means: "the device control group itself (eBPF, unified hierarchy)",
                    })
                }
                None => {
                    let Ok(call) = u32::try_from(libc::SYS_openat) else {
                        bail!("no number of openat(2)");
                    };
                    // The flags with which the agent opens this file alone.
                    let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
                    let flags = (2, flags.cast_unsigned());
                    refuse(command, call, [flags, flags], Errno::PERM);
                    confined(
                        "seccomp, as this machine lets no device control group be made: \
                         `openat(2)` with the agent's flags refuses with EPERM",
                    )
                }
            },
        }
    }
}

#[expect(
    unsafe_code,
    reason = "std offers no other way to act between fork and exec"
)]
fn without_capabilities(command: &mut Command, capabilities: CapabilitySet) {
    // SAFETY: prctl(2) with integers: async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            for capability in capabilities.iter() {
                remove_capability_from_bounding_set(capability)?;
            }
            Ok(())
        });
    }
}

/// Makes a system call fail whose arguments (by their number) have these values.
#[expect(
    unsafe_code,
    reason = "std offers no other way to act between fork and exec"
)]
fn refuse(command: &mut Command, call: u32, arguments: [(u32, u32); 2], errno: Errno) {
    let [first, second] = arguments;
    // `struct seccomp_data`: number, architecture, instruction pointer, arguments of 8 bytes each.
    let argument = |number: u32| 16 + 8 * number + if cfg!(target_endian = "big") { 4 } else { 0 };
    let refused = libc::SECCOMP_RET_ERRNO | errno.raw_os_error().cast_unsigned();
    let mut program = [
        load(0),
        skip_unless(call, 5),
        load(argument(first.0)),
        skip_unless(first.1, 3),
        load(argument(second.0)),
        skip_unless(second.1, 1),
        answer(refused),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    // SAFETY: prctl(2) copies the program, which the closure owns: async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            let filter = libc::sock_fprog {
                len: 8,
                filter: program.as_mut_ptr(),
            };
            let mode = libc::SECCOMP_MODE_FILTER;
            if libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

/// Loads four bytes of the call's data.
const fn load(offset: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, offset)
}

/// Skips so many statements unless what was loaded has this value.
const fn skip_unless(value: u32, statements: u8) -> libc::sock_filter {
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    statement(equal, statements, value)
}

const fn answer(value: u32) -> libc::sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, 0, value)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "codes of instructions are of 16 bits"
)]
const fn statement(code: u32, skip_if_not: u8, value: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: skip_if_not,
        k: value,
    }
}
