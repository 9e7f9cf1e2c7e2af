//! The ioctls of `/dev/net/tun` (linux/if_tun.h), which no safe interface offers.
#![expect(
    unsafe_code,
    reason = "an ioctl's argument has a type that only its number tells"
)]

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Opcode, Setter, Updater, ioctl, opcode};

const TUNSETIFF: Opcode = opcode::write::<libc::c_int>(b'T', 202);
const TUNSETPERSIST: Opcode = opcode::write::<libc::c_int>(b'T', 203);
const TUNSETOFFLOAD: Opcode = opcode::write::<libc::c_uint>(b'T', 208);
const TUNSETVNETHDRSZ: Opcode = opcode::write::<libc::c_int>(b'T', 216);

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

/// Sets the length of the header in front of each packet. A device keeps what it was once set to.
pub(super) fn set_header_length(queue: BorrowedFd<'_>, length: libc::c_int) -> Result<(), Errno> {
    // SAFETY: TUNSETVNETHDRSZ reads one integer.
    let set = unsafe { Setter::<TUNSETVNETHDRSZ, libc::c_int>::new(length) };
    // SAFETY: the opcode is that of a TUN file; any other file answers ENOTTY.
    unsafe { ioctl(queue, set) }
}

/// Sets what the kernel may leave undone of packets that it gives us (`TUN_F_*`).
pub(super) fn set_offload(queue: BorrowedFd<'_>, flags: libc::c_uint) -> Result<(), Errno> {
    // SAFETY: TUNSETOFFLOAD takes an integer by value.
    let set = unsafe { IntegerSetter::<TUNSETOFFLOAD>::new_usize(flags as usize) };
    // SAFETY: the opcode is that of a TUN file; any other file answers ENOTTY.
    unsafe { ioctl(queue, set) }
}
