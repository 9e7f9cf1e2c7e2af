//! The UDP sockets of a lane: one for each family, on the lane's port.

mod port_holder;
mod receive;
mod send;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use podwire_dataplane::batch::ROOM_MIN;
use podwire_dataplane::{Datagram, UnderlayBatch};
use rustix::io::Errno;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sendto};

use self::port_holder::port_holder;
use super::offload::{Offload, OffloadsInUse};

/// Bytes that each socket may hold in each direction. With the kernel's default of 208 KiB, a burst
/// of one TCP window is cut (reference/prototype.md: 76,000 retransmissions in one run).
const SOCKET_BUFFER_BYTES: usize = 8 << 20;

/// Distance between the slots that datagrams are received into: room for the longest, and not a
/// power of two, so that the first lines of all slots do not fall into the same sets of a cache.
const SLOT_BYTES: usize = ROOM_MIN + 2048;

/// Bytes of a batch that [`Socket::receive`] fills in one call.
pub(super) const RECEIVE_ROOM: usize = SLOT_BYTES * receive::MESSAGES_MAX;

/// Descriptors of such a batch.
pub(super) const RECEIVE_MESSAGES: usize = receive::MESSAGES_MAX;

/// The longest datagram that may leave in fragments. Handshake messages are shorter. An inner
/// packet of up to 1280 bytes, IPv6's least MTU (RFC 8200 section 5), has no smaller form to be
/// told to take: it is padded to 1280 and has 32 bytes of WireGuard around it.
const FRAGMENTABLE_MAX: usize = 1280 + 32;

/// Bytes of the outer headers in front of a datagram.
const fn header_bytes(family: Family) -> usize {
    const UDP: usize = 8;
    match family {
        Family::V4 => 20 + UDP,
        Family::V6 => 40 + UDP,
    }
}

/// An address as the kernel reads and writes it: as long as the longest, `sockaddr_in6`.
#[repr(C)]
#[derive(Clone, Copy)]
union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// Both families.
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an endpoint.
    pub(super) fn of(endpoint: &SocketAddr) -> Self {
        match endpoint {
            SocketAddr::V4(_) => Self::V4,
            SocketAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Why a lane's sockets cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UdpError {
    /// Somebody else listens there.
    #[error(
        "UDP port {port} ({family}) is taken by {holder}: stop it, or choose other ports with \
         --listen-port"
    )]
    PortTaken {
        port: u16,
        family: Family,
        /// Who, in words.
        holder: String,
        #[source]
        source: Errno,
    },
    /// A port that only privileged processes may listen on.
    #[error(
        "UDP port {port} ({family}) may not be listened on: grant the capability NET_BIND_SERVICE, \
         or choose ports above 1023 with --listen-port"
    )]
    PortPrivileged {
        port: u16,
        family: Family,
        #[source]
        source: Errno,
    },
    /// The kernel has neither IPv4 nor IPv6.
    #[error("this kernel offers neither IPv4 nor IPv6 sockets: enable one of them")]
    NoFamily,
    /// Anything else.
    #[error("the {family} socket of UDP port {port} cannot be set up: {action} failed")]
    Socket {
        port: u16,
        family: Family,
        action: &'static str,
        #[source]
        source: Errno,
    },
}

/// The sockets of one lane. Any lane's thread may send by them; only the lane's own receives.
#[derive(Debug)]
pub(crate) struct LaneSockets {
    v4: Option<Socket>,
    v6: Option<Socket>,
}

impl LaneSockets {
    /// Listens on `port` with each family that the kernel has, in the current network namespace.
    ///
    /// # Errors
    /// [`UdpError`].
    pub(crate) fn bind(port: u16) -> Result<Self, UdpError> {
        let v4 = Socket::bind(Family::V4, port)?;
        let v6 = Socket::bind(Family::V6, port)?;
        if v4.is_none() && v6.is_none() {
            return Err(UdpError::NoFamily);
        }
        Ok(Self { v4, v6 })
    }

    /// The sockets of `lanes` lanes: lane i listens on `port` + i. The caller checked that the last
    /// port exists.
    ///
    /// # Errors
    /// [`UdpError`] of the first lane that fails.
    pub(crate) fn bind_lanes(port: u16, lanes: usize) -> Result<Vec<Self>, UdpError> {
        (port..=u16::MAX).take(lanes).map(Self::bind).collect()
    }

    /// Lets the kernel join datagrams on receipt, if that is wanted and it can.
    pub(super) fn join_datagrams(&self, offloads: &OffloadsInUse) {
        for socket in [&self.v4, &self.v6].into_iter().flatten() {
            socket.join_datagrams(offloads);
        }
    }

    /// The socket of a family, if the kernel has it.
    pub(super) fn socket(&self, family: Family) -> Option<&Socket> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }
}

/// What became of the datagrams given to [`Socket::send`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// The kernel took so many, at least one.
    Taken(usize),
    /// The socket's buffer is full.
    Blocked,
    /// The kernel refused the first one.
    Refused(Errno),
}

/// One UDP socket.
#[derive(Debug)]
pub(super) struct Socket {
    family: Family,
    socket: OwnedFd,
    /// Held while the socket lets datagrams be fragmented: two lanes may send by one socket.
    fragmenting: Mutex<()>,
}

impl Socket {
    fn bind(family: Family, port: u16) -> Result<Option<Self>, UdpError> {
        let fail = |action, source| UdpError::Socket {
            port,
            family,
            action,
            source,
        };
        let (address_family, any) = match family {
            Family::V4 => (
                AddressFamily::INET,
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
            ),
            Family::V6 => (
                AddressFamily::INET6,
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
            ),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::socket_with(address_family, SocketType::DGRAM, flags, None)
        {
            Ok(socket) => socket,
            Err(Errno::AFNOSUPPORT) => return Ok(None),
            Err(source) => return Err(fail("creating it", source)),
        };
        if family == Family::V6 {
            sockopt::set_ipv6_v6only(&socket, true).map_err(|e| fail("IPV6_V6ONLY", e))?;
        }
        let socket = Self {
            family,
            socket,
            fragmenting: Mutex::new(()),
        };
        socket
            .set_fragmenting(false)
            .map_err(|e| fail("IP_MTU_DISCOVER", e))?;
        socket
            .set_buffers()
            .map_err(|e| fail("setting its buffers", e))?;
        receive::ask_for_ecn(socket.as_fd(), family).map_err(|e| fail("asking for ECN", e))?;
        match rustix::net::bind(&socket.socket, &any) {
            Ok(()) => Ok(Some(socket)),
            Err(Errno::ADDRNOTAVAIL) if family == Family::V6 => Ok(None),
            Err(source @ Errno::ADDRINUSE) => Err(UdpError::PortTaken {
                port,
                family,
                holder: port_holder(port),
                source,
            }),
            Err(source @ Errno::ACCESS) => Err(UdpError::PortPrivileged {
                port,
                family,
                source,
            }),
            Err(source) => Err(fail("binding it", source)),
        }
    }

    /// Beyond the system's limits where the kernel allows that (NET_ADMIN over the host), else up
    /// to them.
    fn set_buffers(&self) -> Result<(), Errno> {
        let bytes = SOCKET_BUFFER_BYTES;
        if sockopt::set_socket_recv_buffer_size_force(&self.socket, bytes).is_err() {
            sockopt::set_socket_recv_buffer_size(&self.socket, bytes)?;
        }
        if sockopt::set_socket_send_buffer_size_force(&self.socket, bytes).is_err() {
            sockopt::set_socket_send_buffer_size(&self.socket, bytes)?;
        }
        Ok(())
    }

    /// Whether datagrams may be fragmented, here and on their way. If not, they carry DF, and one
    /// that is longer than what the kernel knows of the path is refused with EMSGSIZE.
    fn set_fragmenting(&self, allowed: bool) -> Result<(), Errno> {
        match (self.family, allowed) {
            (Family::V4, true) => {
                sockopt::set_ip_mtu_discover(&self.socket, Ipv4PathMtuDiscovery::DONT)
            }
            (Family::V4, false) => {
                sockopt::set_ip_mtu_discover(&self.socket, Ipv4PathMtuDiscovery::DO)
            }
            (Family::V6, true) => {
                sockopt::set_ipv6_mtu_discover(&self.socket, Ipv6PathMtuDiscovery::DONT)
            }
            (Family::V6, false) => {
                sockopt::set_ipv6_mtu_discover(&self.socket, Ipv6PathMtuDiscovery::DO)
            }
        }
    }

    /// Lets the kernel join datagrams on receipt, if that is wanted and it can.
    fn join_datagrams(&self, offloads: &OffloadsInUse) {
        if !offloads.has(Offload::UdpGro) {
            return;
        }
        if let Err(error) = receive::ask_for_trains(self.as_fd()) {
            offloads.give_up(Offload::UdpGro, error);
        }
    }

    /// Receives what is there into an empty batch of [`RECEIVE_ROOM`] bytes. Returns how many
    /// datagrams came and how many of them were cut off, which are left out.
    ///
    /// # Errors
    /// `AGAIN` when there is nothing.
    pub(super) fn receive(
        &self,
        lane: usize,
        batch: &mut UnderlayBatch,
    ) -> Result<Received, Errno> {
        let room_start = batch.room_start();
        let mut received = Received::default();
        let mut messages = [None; receive::MESSAGES_MAX];
        let mut slots = messages.iter_mut();
        received.messages =
            receive::receive(self.socket.as_fd(), batch.room(), SLOT_BYTES, |message| {
                if let Some(slot) = slots.next() {
                    *slot = Some(message);
                }
            })?;
        for message in messages.into_iter().flatten() {
            if message.truncated {
                received.truncated += 1;
                continue;
            }
            let segment_size = message.segment_size.unwrap_or(message.length);
            let segment_size = segment_size.min(message.length);
            received.datagrams += message.length.div_ceil(segment_size.max(1)).max(1);
            received.bytes += message.length;
            batch.commit(Datagram {
                lane,
                endpoint: message.from,
                start: room_start + message.slot * SLOT_BYTES,
                length: message.length,
                segment_size,
                ecn: message.ecn,
            });
        }
        Ok(received)
    }

    /// Sends datagrams in order, as many as one call takes, and says how many the kernel took.
    pub(super) fn send<'a>(
        &self,
        datagrams: impl Iterator<Item = (&'a Datagram, &'a [u8])>,
    ) -> Sent {
        match send::send(self.as_fd(), datagrams) {
            Ok(count) => Sent::Taken(count),
            Err(Errno::AGAIN) => Sent::Blocked,
            Err(error) => Sent::Refused(error),
        }
    }

    /// Sends one datagram.
    pub(super) fn send_one(&self, endpoint: &SocketAddr, bytes: &[u8]) -> Result<(), Errno> {
        sendto(&self.socket, bytes, SendFlags::DONTWAIT, endpoint).map(drop)
    }

    /// Sends once more what the kernel refused as too long for the path: in fragments if it may,
    /// whole if it fits `path_mtu` after all.
    pub(super) fn send_again(
        &self,
        endpoint: &SocketAddr,
        bytes: &[u8],
        path_mtu: Option<u32>,
    ) -> Result<(), Errno> {
        if bytes.len() <= FRAGMENTABLE_MAX {
            return self.send_fragmented(endpoint, bytes);
        }
        let packet_bytes = bytes.len() + header_bytes(self.family);
        match path_mtu {
            Some(path_mtu) if packet_bytes <= path_mtu as usize => self.send_one(endpoint, bytes),
            _ => Err(Errno::MSGSIZE),
        }
    }

    fn send_fragmented(&self, endpoint: &SocketAddr, bytes: &[u8]) -> Result<(), Errno> {
        // What is protected is the kernel's setting, which each holder sets anew.
        let _held = self
            .fragmenting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.set_fragmenting(true)?;
        let sent = self.send_one(endpoint, bytes);
        self.set_fragmenting(false)?;
        sent
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What one call of [`Socket::receive`] brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Received {
    /// What the kernel counts: a train is one.
    pub(super) messages: usize,
    pub(super) datagrams: usize,
    pub(super) bytes: usize,
    pub(super) truncated: usize,
}

/// Whether a datagram of this length must fit the path in one piece.
pub(super) const fn must_fit(length: usize) -> bool {
    length > FRAGMENTABLE_MAX
}

/// Whether a datagram of this length fits the path to an endpoint in one piece.
pub(super) fn fits_path(endpoint: &SocketAddr, length: usize) -> bool {
    let bytes = length + header_bytes(Family::of(endpoint));
    path_mtu(endpoint).is_some_and(|path_mtu| bytes <= path_mtu as usize)
}

/// What the kernel knows of the path to an endpoint: its MTU in bytes. Only a connected socket
/// tells, so one is made and thrown away; `None` when there is no path.
pub(super) fn path_mtu(endpoint: &SocketAddr) -> Option<u32> {
    let family = match endpoint {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None).ok()?;
    rustix::net::connect(&socket, endpoint).ok()?;
    match endpoint {
        SocketAddr::V4(_) => sockopt::ip_mtu(&socket).ok(),
        SocketAddr::V6(_) => sockopt::ipv6_mtu(&socket).ok(),
    }
}
