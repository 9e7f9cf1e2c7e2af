//! `sendmmsg(2)` with segmentation and congestion notification, which no safe interface offers.
#![expect(unsafe_code, reason = "message headers hold pointers")]

use std::mem::{self, MaybeUninit};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use podwire_dataplane::Datagram;
use rustix::io::Errno;

use super::Name;

/// Datagrams of one call, each of which may be a train of many. More gains nothing measurable.
pub(super) const MESSAGES_MAX: usize = 32;

/// Bytes of the control messages of one datagram: the size of segments, and the congestion
/// notification.
const CONTROL_BYTES: usize =
    control_space(size_of::<u16>()) + control_space(size_of::<libc::c_int>());

/// Control messages as the kernel reads them: aligned like their header.
#[repr(C)]
union Control {
    bytes: [u8; CONTROL_BYTES],
    _aligned: libc::cmsghdr,
}

#[expect(clippy::cast_possible_truncation, reason = "a few bytes")]
const fn control_space(length: usize) -> usize {
    // SAFETY: CMSG_SPACE computes with its argument only.
    unsafe { libc::CMSG_SPACE(length as libc::c_uint) as usize }
}

/// Sends datagrams in order, at most [`MESSAGES_MAX`], without waiting; returns how many the kernel
/// took.
///
/// # Errors
/// Of the first datagram.
pub(super) fn send<'a>(
    socket: BorrowedFd<'_>,
    datagrams: impl Iterator<Item = (&'a Datagram, &'a [u8])>,
) -> Result<usize, Errno> {
    let mut names = [MaybeUninit::<Name>::uninit(); MESSAGES_MAX];
    // SAFETY: bytes, of which zeros are a value; so with the next two, which are made of integers
    // and pointers.
    let mut controls: [Control; MESSAGES_MAX] = unsafe { mem::zeroed() };
    // SAFETY: as above.
    let mut slices: [libc::iovec; MESSAGES_MAX] = unsafe { mem::zeroed() };
    // SAFETY: as above.
    let mut headers: [libc::mmsghdr; MESSAGES_MAX] = unsafe { mem::zeroed() };
    let places = headers
        .iter_mut()
        .zip(&mut slices)
        .zip(&mut names)
        .zip(&mut controls);
    let mut count = 0;
    for ((datagram, bytes), (((header, slice), name), control)) in datagrams.zip(places) {
        *slice = libc::iovec {
            // The kernel only reads what is sent.
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        let header = &mut header.msg_hdr;
        let (name, name_length) = write_name(name, &datagram.endpoint);
        header.msg_name = name;
        header.msg_namelen = name_length;
        header.msg_iov = slice;
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut *control).cast();
        header.msg_controllen = CONTROL_BYTES as _;
        // SAFETY: the header's control buffer is `control`, zeroed and of the length it says.
        header.msg_controllen = unsafe { write_control(header, datagram) } as _;
        count += 1;
    }
    // SAFETY: the first `count` headers point to their own name, slice and control messages, and
    // each slice to the bytes of a datagram; all of them outlive the call.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            count,
            libc::MSG_DONTWAIT,
        )
    };
    usize::try_from(sent)
        .map_err(|_| Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

#[expect(clippy::cast_possible_truncation, reason = "2")]
const FAMILY_V4: libc::sa_family_t = libc::AF_INET as libc::sa_family_t;
#[expect(clippy::cast_possible_truncation, reason = "10")]
const FAMILY_V6: libc::sa_family_t = libc::AF_INET6 as libc::sa_family_t;

/// Writes an address as the kernel reads it; returns where it is and its length.
fn write_name(
    name: &mut MaybeUninit<Name>,
    endpoint: &SocketAddr,
) -> (*mut libc::c_void, libc::socklen_t) {
    let length = match endpoint {
        SocketAddr::V4(endpoint) => {
            name.write(Name {
                v4: libc::sockaddr_in {
                    sin_family: FAMILY_V4,
                    sin_port: endpoint.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: endpoint.ip().to_bits().to_be(),
                    },
                    sin_zero: [0; 8],
                },
            });
            super::receive::V4_LENGTH
        }
        SocketAddr::V6(endpoint) => {
            name.write(Name {
                v6: libc::sockaddr_in6 {
                    sin6_family: FAMILY_V6,
                    sin6_port: endpoint.port().to_be(),
                    sin6_flowinfo: endpoint.flowinfo(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: endpoint.ip().octets(),
                    },
                    sin6_scope_id: endpoint.scope_id(),
                },
            });
            super::receive::V6_LENGTH
        }
    };
    (name.as_mut_ptr().cast(), length)
}

/// Writes what the kernel is to do with a datagram; returns the bytes that it takes.
///
/// # Safety
/// `header` has a control buffer of [`CONTROL_BYTES`] zeros, aligned for `cmsghdr`.
unsafe fn write_control(header: &libc::msghdr, datagram: &Datagram) -> usize {
    let mut used = 0;
    // SAFETY: by the caller's word.
    let mut place = unsafe { libc::CMSG_FIRSTHDR(header) };
    if datagram.length > datagram.segment_size {
        let size = u16::try_from(datagram.segment_size).unwrap_or(u16::MAX);
        // SAFETY: the buffer has room for this message at its front.
        unsafe { write_message(place, libc::SOL_UDP, libc::UDP_SEGMENT, size) };
        used += control_space(size_of::<u16>());
        // SAFETY: the buffer's length has room for the second message behind the first.
        place = unsafe { libc::CMSG_NXTHDR(header, place) };
    }
    if datagram.ecn.bits() != 0 {
        let (level, kind) = match datagram.endpoint {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TOS),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
        };
        let class = libc::c_int::from(datagram.ecn.bits());
        // SAFETY: the buffer has room for this message behind the first, or at its front.
        unsafe { write_message(place, level, kind, class) };
        used += control_space(size_of::<libc::c_int>());
    }
    used
}

/// # Safety
/// `place` points to a control message's header with room for `value` behind it.
unsafe fn write_message<T>(
    place: *mut libc::cmsghdr,
    level: libc::c_int,
    kind: libc::c_int,
    value: T,
) {
    #[expect(clippy::cast_possible_truncation, reason = "a few bytes")]
    let length = size_of::<T>() as libc::c_uint;
    // SAFETY: by the caller's word.
    unsafe {
        (*place).cmsg_level = level;
        (*place).cmsg_type = kind;
        (*place).cmsg_len = libc::CMSG_LEN(length) as _;
        libc::CMSG_DATA(place).cast::<T>().write_unaligned(value);
    }
}
