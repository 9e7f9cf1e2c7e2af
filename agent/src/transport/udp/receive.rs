//! `recvmmsg(2)`, which no safe interface offers.
#![expect(unsafe_code, reason = "message headers hold pointers")]

use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// Datagrams of one call. More gains nothing measurable: the cost of a call is spread already.
pub(super) const MESSAGES_MAX: usize = 32;

/// One received datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    /// The slot that holds its bytes, from the first on.
    pub(super) slot: usize,
    pub(super) length: usize,
    /// It did not fit its slot: the rest is lost.
    pub(super) truncated: bool,
    pub(super) from: SocketAddr,
}

/// Where the kernel writes a sender's address: as long as the longest, `sockaddr_in6`.
#[repr(C)]
#[derive(Clone, Copy)]
union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

/// Receives what is there, at most [`MESSAGES_MAX`] datagrams, each into a slot of `stride` bytes
/// of `room`, and tells `each` in order. Never waits.
///
/// # Errors
/// `AGAIN` when there is nothing.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    room: &mut [u8],
    stride: usize,
    mut each: impl FnMut(Message),
) -> Result<usize, Errno> {
    let mut names = [MaybeUninit::<Name>::uninit(); MESSAGES_MAX];
    // SAFETY: `iovec` is a pointer and a length, of which zeros are a value.
    let mut slices: [libc::iovec; MESSAGES_MAX] = unsafe { mem::zeroed() };
    // SAFETY: `mmsghdr` is made of integers and pointers, of which zeros are a value.
    let mut headers: [libc::mmsghdr; MESSAGES_MAX] = unsafe { mem::zeroed() };
    let slots = room.chunks_exact_mut(stride).take(MESSAGES_MAX);
    let mut count = 0;
    for (((slot, header), slice), name) in slots.zip(&mut headers).zip(&mut slices).zip(&mut names)
    {
        *slice = libc::iovec {
            iov_base: slot.as_mut_ptr().cast(),
            iov_len: slot.len(),
        };
        header.msg_hdr.msg_name = name.as_mut_ptr().cast();
        header.msg_hdr.msg_namelen = V6_LENGTH;
        header.msg_hdr.msg_iov = slice;
        header.msg_hdr.msg_iovlen = 1;
        count += 1;
    }
    // SAFETY: the first `count` headers point to their own name and slice, and each slice to a slot
    // of `room` that nothing else refers to; all of them outlive the call, and the lengths are
    // theirs.
    let received = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
        )
    };
    let Ok(received) = usize::try_from(received) else {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    };
    for (slot, (header, name)) in headers.iter().zip(&names).take(received).enumerate() {
        // SAFETY: the kernel wrote the sender's address of this datagram, of the length it says.
        let from = unsafe { address(name, header.msg_hdr.msg_namelen) };
        // A datagram without a sender cannot be answered and is of no use.
        let Some(from) = from else { continue };
        each(Message {
            slot,
            length: header.msg_len as usize,
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            from,
        });
    }
    Ok(received)
}

#[expect(clippy::cast_possible_truncation, reason = "16 bytes")]
const V4_LENGTH: libc::socklen_t = size_of::<libc::sockaddr_in>() as libc::socklen_t;
#[expect(clippy::cast_possible_truncation, reason = "28 bytes")]
const V6_LENGTH: libc::socklen_t = size_of::<libc::sockaddr_in6>() as libc::socklen_t;

/// # Safety
/// The first `length` bytes of `name` are a socket address that the kernel wrote.
unsafe fn address(name: &MaybeUninit<Name>, length: libc::socklen_t) -> Option<SocketAddr> {
    if length < V4_LENGTH {
        return None;
    }
    // SAFETY: all of a `sockaddr_in` was written, by the check above, and the union starts with it.
    let v4 = unsafe { name.as_ptr().cast::<libc::sockaddr_in>().read() };
    if i32::from(v4.sin_family) == libc::AF_INET {
        let ip = Ipv4Addr::from_bits(u32::from_be(v4.sin_addr.s_addr));
        return Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into());
    }
    if i32::from(v4.sin_family) != libc::AF_INET6 || length < V6_LENGTH {
        return None;
    }
    // SAFETY: all of a `sockaddr_in6` was written, by the check above.
    let v6 = unsafe { name.as_ptr().cast::<libc::sockaddr_in6>().read() };
    let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
    // The flow label is a matter of one packet, not of the endpoint.
    Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
}
