//! Interfaces and packet sockets, as far as no crate knows them.

use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd as _;
use std::ptr;

use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

/// The index of an interface in the calling thread's namespace.
pub(crate) fn index(name: &str) -> io::Result<u32> {
    // /sys shows the namespace that it was mounted in; a socket shows the thread's own.
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    rustix::net::netdevice::name_to_index(&socket, name)
        .map_err(|error| io::Error::new(io::Error::from(error).kind(), format!("no {name}")))
}

/// A link-layer address: a protocol on an interface, or on all with 0.
#[expect(
    unsafe_code,
    reason = "socket2 has no constructor for packet addresses"
)]
pub(crate) fn link_address(protocol: i32, interface: i32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of the platform's address types and all its bit patterns are
    // valid; the family and the length that are given are its own.
    unsafe {
        let address: &mut libc::sockaddr_ll = storage.view_as();
        address.sll_family = u16::try_from(libc::AF_PACKET).expect("AF_PACKET is 17");
        address.sll_protocol = u16::try_from(protocol).expect("an ethertype").to_be();
        address.sll_ifindex = interface;
        let length = length_of(address);
        SockAddr::new(storage, length)
    }
}

/// Sets an option of packet(7).
#[expect(
    unsafe_code,
    reason = "socket2 and rustix do not know the packet options"
)]
pub(crate) fn set_packet_option<T>(
    socket: &Socket,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the pointer is to a live value of the length that is given.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            ptr::from_ref(value).cast(),
            length_of(value),
        )
    };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A value's size as socket calls take it.
pub(crate) fn length_of<T>(_: &T) -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("socket options are small")
}
