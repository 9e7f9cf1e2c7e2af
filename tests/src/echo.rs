//! Echo servers over TCP, UDP and ICMP that tell which source address they saw.
//!
//! A payload starts with its number and room for an address. TCP and UDP servers write the
//! peer's address there and send everything back. ICMP echo is answered by the kernel, so raw
//! sockets witness the requests beside it. All servers of a testbed share one small runtime: a
//! socket stays in the namespace where it was made.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::{Handle, Runtime};
use tokio::task::{AbortHandle, JoinHandle};

use crate::namespace::Namespace;

/// Where every host answers, TCP and UDP.
pub const ECHO_PORT: u16 = 7;

/// A payload's number.
pub(crate) const NUMBER_BYTES: usize = 8;

/// Room for the address that a server saw, IPv4 mapped into IPv6.
pub(crate) const SEEN_BYTES: usize = 16;

/// A payload's own header; what follows is the cookie, repeated.
pub(crate) const HEADER_BYTES: usize = NUMBER_BYTES + SEEN_BYTES;

/// The longest message of the TCP server: it keeps one in memory for each connection.
pub(crate) const TCP_MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Enough for the longest UDP payload of either version.
const DATAGRAM_BYTES: usize = 1 << 16;

/// ICMP witnesses that nobody asked for are forgotten at this number.
const WITNESSES_MAX: usize = 1 << 16;

const ICMP_ECHO_REQUEST: u8 = 8;
const ICMPV6_ECHO_REQUEST: u8 = 128;

/// Makes echo servers; one for a testbed.
#[derive(Debug, Clone)]
pub(crate) struct EchoServers {
    runtime: Handle,
    witness: Witness,
}

/// Which ICMP echo requests arrived anywhere, and from which source.
#[derive(Debug, Clone, Default)]
pub(crate) struct Witness(Arc<Mutex<HashMap<u64, IpAddr>>>);

impl Witness {
    /// The source of the request with this number, once it has been read.
    pub(crate) fn take(&self, number: u64) -> Option<IpAddr> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&number)
    }

    fn add(&self, number: u64, source: IpAddr) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= WITNESSES_MAX {
            seen.clear();
        }
        seen.insert(number, source);
    }
}

/// One host's servers; they end with this value.
#[derive(Debug)]
pub(crate) struct EchoServer {
    tasks: Vec<JoinHandle<()>>,
    runtime: Handle,
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        for task in self.tasks.drain(..) {
            // Waited for, so that its socket and port are free again.
            let _ = self.runtime.block_on(task);
        }
    }
}

impl EchoServers {
    pub(crate) fn new(runtime: &Runtime) -> Self {
        Self {
            runtime: runtime.handle().clone(),
            witness: Witness::default(),
        }
    }

    pub(crate) fn witness(&self) -> &Witness {
        &self.witness
    }

    /// Starts TCP and UDP servers at every address and one ICMP witness for each version.
    pub(crate) fn start(&self, namespace: &Namespace, addresses: &[IpAddr]) -> Result<EchoServer> {
        let mut server = EchoServer {
            tasks: Vec::new(),
            runtime: self.runtime.clone(),
        };
        for address in addresses {
            let address = SocketAddr::new(*address, ECHO_PORT);
            let (tcp, udp) = namespace
                .run(|| Ok::<_, io::Error>((listen_tcp(address)?, bind_udp(address)?)))
                .with_context(|| format!("serving {address} in {}", namespace.name()))?;
            let _inside = self.runtime.enter();
            let tcp = TcpListener::from_std(tcp.into())?;
            let udp = UdpSocket::from_std(udp.into())?;
            server.tasks.push(self.runtime.spawn(serve_tcp(tcp)));
            server.tasks.push(self.runtime.spawn(serve_udp(udp)));
        }
        for is_ipv4 in [true, false] {
            if addresses.iter().any(|address| address.is_ipv4() == is_ipv4) {
                let socket = namespace
                    .run(|| raw_icmp(is_ipv4))
                    .context("opening raw ICMP")?;
                let _inside = self.runtime.enter();
                // Only its recvfrom(2) is used, which is the same for raw sockets.
                let socket = UdpSocket::from_std(socket.into())?;
                let witness = self.witness.clone();
                server
                    .tasks
                    .push(self.runtime.spawn(witness_icmp(socket, is_ipv4, witness)));
            }
        }
        Ok(server)
    }
}

/// The address as it is written into a payload.
fn seen_bytes(address: IpAddr) -> [u8; SEEN_BYTES] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// The address that a server wrote into a payload.
pub(crate) fn seen_address(payload: &[u8]) -> Option<IpAddr> {
    let bytes: [u8; SEEN_BYTES] = payload.get(NUMBER_BYTES..HEADER_BYTES)?.try_into().ok()?;
    Some(Ipv6Addr::from(bytes).to_canonical())
}

/// The number at a payload's start.
pub(crate) fn number(payload: &[u8]) -> Option<u64> {
    payload
        .first_chunk()
        .map(|bytes| u64::from_be_bytes(*bytes))
}

fn stamp(payload: &mut [u8], source: IpAddr) {
    if let Some(room) = payload.get_mut(NUMBER_BYTES..HEADER_BYTES) {
        room.copy_from_slice(&seen_bytes(source));
    }
}

fn listen_tcp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    // A node's address may come later than its server.
    set_freebind(&socket, address)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    Ok(socket)
}

fn bind_udp(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    set_freebind(&socket, address)?;
    socket.set_nonblocking(true)?;
    // Without room for a few of the longest datagrams, their fragments are dropped.
    socket.set_recv_buffer_size(16 * DATAGRAM_BYTES)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn set_freebind(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv4() {
        socket.set_freebind_v4(true)
    } else {
        socket.set_freebind_v6(true)
    }
}

fn raw_icmp(is_ipv4: bool) -> io::Result<Socket> {
    let (domain, protocol) = if is_ipv4 {
        (Domain::IPV4, SocketProtocol::ICMPV4)
    } else {
        (Domain::IPV6, SocketProtocol::ICMPV6)
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

async fn serve_tcp(listener: TcpListener) {
    // Connections end with their server, as with a real process.
    let mut connections: Vec<Connection> = Vec::new();
    while let Ok((stream, peer)) = listener.accept().await {
        connections.retain(|connection| !connection.0.is_finished());
        let task = tokio::spawn(serve_connection(stream, peer.ip()));
        connections.push(Connection(task.abort_handle()));
    }
}

/// Ends a connection's task when it is dropped.
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Answers messages of a four-byte length and that many bytes until the peer closes.
async fn serve_connection(mut stream: TcpStream, peer: IpAddr) {
    let _ = stream.set_nodelay(true);
    let mut message = Vec::new();
    while let Ok(length) = stream.read_u32().await {
        let length = length as usize;
        if length > TCP_MESSAGE_BYTES_MAX {
            return;
        }
        message.resize(4 + length, 0);
        if stream.read_exact(&mut message[4..]).await.is_err() {
            return;
        }
        message[..4].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        stamp(&mut message[4..], peer);
        if stream.write_all(&message).await.is_err() {
            return;
        }
    }
}

async fn serve_udp(socket: UdpSocket) {
    let mut datagram = vec![0; DATAGRAM_BYTES];
    loop {
        // ICMP errors of earlier answers come back as errors here: the next datagram counts.
        let Ok((length, peer)) = socket.recv_from(&mut datagram).await else {
            continue;
        };
        stamp(&mut datagram[..length], peer.ip());
        let _ = socket.send_to(&datagram[..length], peer).await;
    }
}

async fn witness_icmp(socket: UdpSocket, is_ipv4: bool, witness: Witness) {
    let mut packet = vec![0; DATAGRAM_BYTES];
    loop {
        let Ok((length, source)) = socket.recv_from(&mut packet).await else {
            continue;
        };
        let message = &packet[..length];
        // Raw IPv4 sockets see the IP header, IPv6 ones do not.
        let message = if is_ipv4 {
            let header = message
                .first()
                .map_or(0, |byte| usize::from(byte & 0x0f) * 4);
            message.get(header..).unwrap_or_default()
        } else {
            message
        };
        let request = if is_ipv4 {
            ICMP_ECHO_REQUEST
        } else {
            ICMPV6_ECHO_REQUEST
        };
        if message.first() == Some(&request)
            && let Some(number) = message.get(8..).and_then(number)
        {
            witness.add(number, source.ip());
        }
    }
}
