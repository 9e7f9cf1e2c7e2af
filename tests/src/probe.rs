//! One question and its answer between two hosts, over TCP, UDP or ICMP.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::ptr;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};

use crate::cookie::{self, Cookie};
use crate::echo::{self, ECHO_PORT, HEADER_BYTES, NUMBER_BYTES, Witness};
use crate::interface::length_of;
use crate::namespace::Namespace;
use crate::until::until;

/// Long against any round trip, also of a machine that does ten other things.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);

/// Header and more than one whole cookie.
const DEFAULT_BYTES: usize = 96;

/// A request is read by its witness soon after the kernel has answered it.
const WITNESS_DEADLINE: Duration = Duration::from_secs(2);

/// What the question travels in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A connection, a message of any length there and back.
    Tcp,
    /// A datagram there and back.
    Udp,
    /// An echo request, answered by the kernel.
    Icmp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Icmp];
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Icmp => "ICMP",
        })
    }
}

/// A question to ask. Made by [`crate::Testbed::probe`].
#[derive(Debug, Clone)]
pub struct Probe<'a> {
    namespace: &'a Namespace,
    protocol: Protocol,
    target: IpAddr,
    cookie: Cookie,
    witness: Witness,
    source: Option<IpAddr>,
    bytes: usize,
    dont_fragment: bool,
    hears_errors: bool,
    timeout: Duration,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The address that the question was sent from.
    pub source: IpAddr,
    /// The address that the target saw: another one where something translated.
    pub source_seen: IpAddr,
    /// From the question's first byte, the connection's set-up included, to the answer's last.
    pub round_trip: Duration,
}

impl Answer {
    /// Whether nothing on the way changed the source.
    #[must_use]
    pub fn source_kept(&self) -> bool {
        self.source == self.source_seen
    }
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nothing came back in time.
    #[error("no answer in time")]
    Timeout,
    /// A TCP reset, or ICMP "port unreachable".
    #[error("refused")]
    Refused,
    /// No route, or an ICMP unreachable of another kind.
    #[error("unreachable: {0}")]
    Unreachable(#[source] io::Error),
    /// The packet may not be fragmented and is longer than the path takes.
    #[error("too long for a path of {path_mtu} bytes")]
    TooLong {
        /// What the kernel of the asking host knows of the path, bytes of IP; 0 if nothing.
        path_mtu: u32,
    },
    /// An answer came, and it was not to this question.
    #[error("the answer was altered")]
    Altered,
    /// The kernel answered an echo request that no witness read.
    #[error("the echo request was answered by another host")]
    NotWitnessed,
    /// Anything else.
    #[error("{0}")]
    Io(#[source] io::Error),
}

impl<'a> Probe<'a> {
    pub(crate) fn new(
        namespace: &'a Namespace,
        protocol: Protocol,
        target: IpAddr,
        cookie: Cookie,
        witness: Witness,
    ) -> Self {
        Self {
            namespace,
            protocol,
            target,
            cookie,
            witness,
            source: None,
            bytes: DEFAULT_BYTES,
            dont_fragment: false,
            hears_errors: false,
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// Payload bytes, at least 24: 65,507 is the most of UDP and ICMP over IPv4, 65,527 over IPv6.
    #[must_use]
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes.max(HEADER_BYTES);
        self
    }

    /// Sends from this address, not from the one that the kernel would choose.
    #[must_use]
    pub fn source(mut self, source: IpAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// Lets nobody fragment the packet, the sender neither: then it may be
    /// [`ProbeError::TooLong`]. For UDP and ICMP; TCP never lets anybody.
    #[must_use]
    pub fn dont_fragment(mut self) -> Self {
        self.dont_fragment = true;
        self
    }

    /// Hears of every ICMP error (`IP_RECVERR`). Else the kernel keeps some from UDP sockets, such
    /// as "host unreachable" over IPv4, which a TCP connection is told.
    #[must_use]
    pub fn hear_errors(mut self) -> Self {
        self.hears_errors = true;
        self
    }

    /// How long to wait for the answer.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Asks once.
    ///
    /// # Errors
    /// [`ProbeError`]; whether it is worth another try is the caller's to know.
    pub fn ask(&self) -> Result<Answer, ProbeError> {
        let number = cookie::next_number();
        let mut payload = number.to_be_bytes().to_vec();
        payload.resize(HEADER_BYTES, 0);
        payload.extend(self.cookie.payload(number, self.bytes - HEADER_BYTES));
        let start = Instant::now();
        let socket = self
            .namespace
            .run(|| self.open())
            .map_err(|error| self.typed(error, None))?;
        let exchanged = match self.protocol {
            Protocol::Tcp => self.ask_tcp(&socket, &payload),
            Protocol::Udp => self.ask_datagram(&socket, &payload, 0),
            Protocol::Icmp => self.ask_icmp(&socket, &payload),
        };
        let (source, reply) = exchanged.map_err(|error| self.typed(error, Some(&socket)))?;
        let round_trip = start.elapsed();
        let source_seen = match self.protocol {
            Protocol::Tcp | Protocol::Udp => {
                echo::seen_address(&reply).ok_or(ProbeError::Altered)?
            }
            Protocol::Icmp => until(WITNESS_DEADLINE, "the witness", || {
                self.witness
                    .take(number)
                    .ok_or_else(|| anyhow::anyhow!("not seen"))
            })
            .map_err(|_| ProbeError::NotWitnessed)?,
        };
        let same = reply.len() == payload.len()
            && reply[..NUMBER_BYTES] == payload[..NUMBER_BYTES]
            && reply[HEADER_BYTES..] == payload[HEADER_BYTES..];
        if same {
            Ok(Answer {
                source,
                source_seen,
                round_trip,
            })
        } else {
            Err(ProbeError::Altered)
        }
    }

    fn open(&self) -> io::Result<Socket> {
        let domain = if self.target.is_ipv4() {
            Domain::IPV4
        } else {
            Domain::IPV6
        };
        let (kind, protocol) = match self.protocol {
            Protocol::Tcp => (Type::STREAM, None),
            Protocol::Udp => (Type::DGRAM, None),
            Protocol::Icmp if self.target.is_ipv4() => (Type::DGRAM, Some(SocketProtocol::ICMPV4)),
            Protocol::Icmp => (Type::DGRAM, Some(SocketProtocol::ICMPV6)),
        };
        let socket = Socket::new(domain, kind, protocol)?;
        if let Some(source) = self.source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        if self.protocol != Protocol::Tcp {
            if self.dont_fragment {
                forbid_fragmentation(&socket, self.target.is_ipv4())?;
            }
            if self.hears_errors {
                ask_for_errors(&socket, self.target.is_ipv4())?;
            }
            // Twice the longest datagram, so that it goes out in one piece.
            socket.set_send_buffer_size(1 << 18)?;
            socket.set_recv_buffer_size(1 << 18)?;
        }
        socket.set_read_timeout(Some(self.timeout))?;
        socket.set_write_timeout(Some(self.timeout))?;
        Ok(socket)
    }

    fn ask_tcp(&self, socket: &Socket, payload: &[u8]) -> io::Result<(IpAddr, Vec<u8>)> {
        socket.connect_timeout(
            &SocketAddr::new(self.target, ECHO_PORT).into(),
            self.timeout,
        )?;
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let mut stream = socket;
        // The server answers only when it has the whole message, so writing first cannot block
        // both sides.
        stream.write_all(&length.to_be_bytes())?;
        stream.write_all(payload)?;
        let mut reply = vec![0; 4 + payload.len()];
        stream.read_exact(&mut reply)?;
        Ok((local_address(socket)?, reply.split_off(4)))
    }

    /// Sends and receives a datagram whose payload has `header` bytes before the number.
    fn ask_datagram(
        &self,
        socket: &Socket,
        datagram: &[u8],
        header: usize,
    ) -> io::Result<(IpAddr, Vec<u8>)> {
        let port = if self.protocol == Protocol::Udp {
            ECHO_PORT
        } else {
            0
        };
        socket.connect(&SocketAddr::new(self.target, port).into())?;
        socket.send(datagram)?;
        let deadline = Instant::now() + self.timeout;
        let mut buffer = vec![0; 1 << 16];
        let mut stream = socket;
        loop {
            let length = stream.read(&mut buffer)?;
            let reply = &buffer[..length];
            if reply.get(header..).and_then(echo::number) == echo::number(&datagram[header..]) {
                return Ok((
                    local_address(socket)?,
                    reply.get(header..).unwrap_or(&[]).to_vec(),
                ));
            }
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    fn ask_icmp(&self, socket: &Socket, payload: &[u8]) -> io::Result<(IpAddr, Vec<u8>)> {
        // The kernel fills in the checksum and the identifier, which is the socket's port.
        let kind = if self.target.is_ipv4() { 8 } else { 128 };
        let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 1];
        message.extend(payload);
        self.ask_datagram(socket, &message, 8)
    }

    fn typed(&self, error: io::Error, socket: Option<&Socket>) -> ProbeError {
        match (error.kind(), error.raw_os_error()) {
            (_, Some(libc::EMSGSIZE)) => ProbeError::TooLong {
                path_mtu: socket.map_or(0, |socket| path_mtu(socket, self.target.is_ipv4())),
            },
            (io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut, _) => ProbeError::Timeout,
            (io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset, _) => {
                ProbeError::Refused
            }
            (io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable, _)
            | (_, Some(libc::EACCES | libc::EPERM | libc::ENOPROTOOPT)) => {
                ProbeError::Unreachable(error)
            }
            _ => ProbeError::Io(error),
        }
    }
}

/// The socket's own address, as the kernel chose it.
fn local_address(socket: &Socket) -> io::Result<IpAddr> {
    let address = socket.local_addr()?.as_socket().map(|address| address.ip());
    Ok(address.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED)))
}

fn forbid_fragmentation(socket: &Socket, is_ipv4: bool) -> io::Result<()> {
    if is_ipv4 {
        sockopt::set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DO)?;
    } else {
        sockopt::set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DO)?;
    }
    Ok(())
}

#[expect(unsafe_code, reason = "socket2 and rustix do not know this option")]
fn ask_for_errors(socket: &Socket, is_ipv4: bool) -> io::Result<()> {
    let (level, option) = if is_ipv4 {
        (libc::IPPROTO_IP, libc::IP_RECVERR)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
    };
    let on: libc::c_int = 1;
    // SAFETY: the pointer is to a live value of the length that is given.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(&on).cast(),
            length_of(&on),
        )
    };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What the kernel knows of the path of a connected socket.
fn path_mtu(socket: &Socket, is_ipv4: bool) -> u32 {
    let known = if is_ipv4 {
        sockopt::ip_mtu(socket)
    } else {
        sockopt::ipv6_mtu(socket)
    };
    known.unwrap_or(0)
}
