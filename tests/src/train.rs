//! Datagrams of one size that leave a host in one piece, as QUIC sends them.

use std::io;
use std::mem;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;

/// Sends all of `bytes` to `target` with one call, in datagrams of `size` bytes; the last may be
/// shorter.
///
/// # Errors
/// The kernel's: at most 64 datagrams and 65,507 bytes go in one call.
#[expect(unsafe_code, reason = "socket2 and rustix do not know the option")]
pub fn send(socket: &UdpSocket, target: SocketAddr, bytes: &[u8], size: usize) -> io::Result<()> {
    let size = libc::c_int::try_from(size).map_err(io::Error::other)?;
    // SAFETY: the pointer is to a live integer of the length that is given.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const size).cast(),
            libc::socklen_t::try_from(mem::size_of_val(&size)).map_err(io::Error::other)?,
        )
    };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    let sent = socket.send_to(bytes, target)?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}
