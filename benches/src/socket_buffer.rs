//! Receive buffers of sockets, as large as this machine lets them be.

use std::io;
use std::os::fd::AsFd;

use rustix::net::sockopt::{
    set_socket_recv_buffer_size, set_socket_recv_buffer_size_force, socket_recv_buffer_size,
};

/// What Podwire asks for of each UDP socket.
pub(crate) const SOCKET_BUFFER: usize = 8 << 20;

/// Raises it to [`SOCKET_BUFFER`]: beyond `net.core.rmem_max` for root of the machine only. Returns
/// what there is, as the kernel counts it: twice what the socket holds.
///
/// # Errors
/// The kernel's.
pub(crate) fn raise(socket: impl AsFd) -> io::Result<u64> {
    let socket = socket.as_fd();
    if set_socket_recv_buffer_size_force(socket, SOCKET_BUFFER).is_err() {
        set_socket_recv_buffer_size(socket, SOCKET_BUFFER)?;
    }
    Ok(u64::try_from(socket_recv_buffer_size(socket)?).unwrap_or(u64::MAX))
}
