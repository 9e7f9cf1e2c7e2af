//! `recvmmsg(2)` with the size of segments and congestion notifications, which no safe interface
//! offers.
#![expect(unsafe_code, reason = "message headers hold pointers")]

use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use podwire_dataplane::Ecn;
use rustix::io::Errno;

use super::{Family, Name};

/// Datagrams of one call, each of which may be a train of many. More gains nothing measurable: the
/// cost of a call is spread already.
pub(super) const MESSAGES_MAX: usize = 32;

/// Room for the control messages of one datagram: the size of its segments (an integer) and the
/// congestion notification (a byte or an integer).
const CONTROL_BYTES: usize = 64;

/// Control messages as the kernel writes them: aligned like their header.
#[repr(C)]
#[derive(Clone, Copy)]
union Control {
    bytes: [u8; CONTROL_BYTES],
    _aligned: libc::cmsghdr,
}

/// One received datagram, or several of one size behind each other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    /// The slot that holds its bytes, from the first on.
    pub(super) slot: usize,
    pub(super) length: usize,
    /// It did not fit its slot: the rest is lost.
    pub(super) truncated: bool,
    pub(super) from: SocketAddr,
    /// Bytes of each segment, if there are several.
    pub(super) segment_size: Option<usize>,
    pub(super) ecn: Ecn,
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
    let mut controls = [Control {
        bytes: [0; CONTROL_BYTES],
    }; MESSAGES_MAX];
    let slots = room.chunks_exact_mut(stride).take(MESSAGES_MAX);
    let places = headers
        .iter_mut()
        .zip(&mut slices)
        .zip(&mut names)
        .zip(&mut controls);
    let mut count = 0;
    for (slot, (((header, slice), name), control)) in slots.zip(places) {
        *slice = libc::iovec {
            iov_base: slot.as_mut_ptr().cast(),
            iov_len: slot.len(),
        };
        header.msg_hdr.msg_name = name.as_mut_ptr().cast();
        header.msg_hdr.msg_namelen = V6_LENGTH;
        header.msg_hdr.msg_iov = slice;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_control = (&raw mut *control).cast();
        header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
        count += 1;
    }
    // SAFETY: the first `count` headers point to their own name, slice and control buffer, and each
    // slice to a slot of `room` that nothing else refers to; all of them outlive the call, and the
    // lengths are theirs.
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
        // SAFETY: the kernel wrote the control messages of this datagram, and their length.
        let (segment_size, ecn) = unsafe { control(&header.msg_hdr) };
        each(Message {
            slot,
            length: header.msg_len as usize,
            truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            from,
            segment_size,
            ecn,
        });
    }
    Ok(received)
}

/// What the kernel tells beside a datagram: the size of its segments, if it is several, and its
/// congestion notification.
///
/// # Safety
/// The kernel wrote the header's control messages, or nothing, and their length.
unsafe fn control(header: &libc::msghdr) -> (Option<usize>, Ecn) {
    let (mut segment_size, mut ecn) = (None, Ecn::default());
    // SAFETY: by the caller's word, as with each further step.
    let mut place = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !place.is_null() {
        // SAFETY: `place` points to a whole control message.
        let (message, data) = unsafe { (&*place, libc::CMSG_DATA(place)) };
        match (message.cmsg_level, message.cmsg_type) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                // SAFETY: UDP_GRO's message is an integer.
                let size = unsafe { data.cast::<libc::c_int>().read_unaligned() };
                segment_size = usize::try_from(size).ok().filter(|size| *size > 0);
            }
            // A byte.
            (libc::IPPROTO_IP, libc::IP_TOS) => {
                // SAFETY: IP_TOS's message is a byte.
                ecn = Ecn::from_bits(unsafe { data.read() });
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                // SAFETY: IPV6_TCLASS's message is an integer.
                let class = unsafe { data.cast::<libc::c_int>().read_unaligned() };
                ecn = Ecn::from_bits(class.to_le_bytes()[0]);
            }
            _ => {}
        }
        // SAFETY: as above.
        place = unsafe { libc::CMSG_NXTHDR(header, place) };
    }
    (segment_size, ecn)
}

/// Asks the kernel to tell the congestion notification of each datagram.
pub(super) fn ask_for_ecn(socket: BorrowedFd<'_>, family: Family) -> Result<(), Errno> {
    match family {
        Family::V4 => switch(socket, libc::IPPROTO_IP, libc::IP_RECVTOS),
        Family::V6 => switch(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
    }
}

/// Asks the kernel for datagrams of one size in one piece.
pub(super) fn ask_for_trains(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    switch(socket, libc::SOL_UDP, libc::UDP_GRO)
}

fn switch(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int) -> Result<(), Errno> {
    let on: libc::c_int = 1;
    #[expect(clippy::cast_possible_truncation, reason = "four bytes")]
    let length = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the pointer is to a live integer of the length that is given.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            length,
        )
    };
    if outcome == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

#[expect(clippy::cast_possible_truncation, reason = "16 bytes")]
pub(super) const V4_LENGTH: libc::socklen_t = size_of::<libc::sockaddr_in>() as libc::socklen_t;
#[expect(clippy::cast_possible_truncation, reason = "28 bytes")]
pub(super) const V6_LENGTH: libc::socklen_t = size_of::<libc::sockaddr_in6>() as libc::socklen_t;

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
