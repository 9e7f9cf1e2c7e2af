//! The ioctls of `/dev/net/tun` (linux/if_tun.h), which no safe interface offers.
#![expect(
    unsafe_code,
    reason = "an ioctl's argument has a type that only its number tells"
)]

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Opcode, Updater, ioctl, opcode};

const TUNSETIFF: Opcode = opcode::write::<libc::c_int>(b'T', 202);
const TUNSETPERSIST: Opcode = opcode::write::<libc::c_int>(b'T', 203);

/// Makes `queue` a queue of the device of this name, which is created if there is none. The kernel
/// puts a number in the place of `%d`. The caller checked that the name is shorter than IFNAMSIZ.
pub(super) fn set_interface(queue: BorrowedFd<'_>, name: &str, flags: i16) -> Result<(), Errno> {
    // SAFETY: `ifreq` is made of integers, arrays of them and pointers: all zeros is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays the final zero.
    let room = libc::IFNAMSIZ - 1;
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(room)) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, and keeps no pointer to it.
    let update = unsafe { Updater::<TUNSETIFF, libc::ifreq>::new(&mut request) };
    // SAFETY: the opcode is that of a TUN file; any other file answers ENOTTY.
    unsafe { ioctl(queue, update) }
}

/// Lets the device of `queue` outlive its last queue.
pub(super) fn set_persistent(queue: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: TUNSETPERSIST takes an integer by value.
    let set = unsafe { IntegerSetter::<TUNSETPERSIST>::new_usize(1) };
    // SAFETY: the opcode is that of a TUN file; any other file answers ENOTTY.
    unsafe { ioctl(queue, set) }
}
