//! The wire of one node in the hands of somebody else: what passes is read, and whatever he likes
//! is put on it.

use std::io::{ErrorKind, Read as _};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};
use socket2::{Domain, Socket, Type};

use crate::capture::frame;
use crate::interface::{index, link_address};
use crate::namespace::Namespace;
use crate::testbed::{Testbed, WIREGUARD_PORTS};
use crate::underlay::port;
use crate::until::until;

/// Frames that wait to be read; what does not fit is not seen, which a reader must allow for.
const BUFFER_BYTES: usize = 8 << 20;

/// A super-frame of 64 KiB and its Ethernet header.
const FRAME_BYTES: usize = (1 << 16) + 14;

/// A locally administered address that no device has.
const STRANGER: [u8; 6] = [0x02, 0, 0, 0, 0x66, 0x66];

/// A datagram on a WireGuard port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it came from.
    pub source: SocketAddr,
    /// Where it went.
    pub destination: SocketAddr,
    /// The WireGuard message.
    pub bytes: Vec<u8>,
}

impl Message {
    /// 1 initiation, 2 response, 3 cookie reply, 4 data.
    #[must_use]
    pub fn kind(&self) -> u8 {
        self.bytes.first().copied().unwrap_or(0)
    }
}

/// The underlay's end of a node's link.
#[derive(Debug)]
pub struct Wire {
    socket: Socket,
    /// The Ethernet header of a frame to the node, without its type.
    header: [u8; 12],
}

impl Wire {
    /// Begins to read. What is put on the wire comes to the node from here, so that the capture,
    /// which counts what nodes send, does not see it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn tap(bed: &Testbed, node: u8) -> Result<Self> {
        let mut header = [0; 12];
        header[..6].copy_from_slice(&hardware_address(bed.node(node).namespace(), "eth0")?);
        header[6..].copy_from_slice(&STRANGER);
        let socket = open(bed.underlay().namespace(), &port(node))?;
        socket.set_recv_buffer_size(BUFFER_BYTES)?;
        Ok(Self { socket, header })
    }

    /// The WireGuard messages to and from the node since the last call.
    ///
    /// # Errors
    /// The kernel's.
    pub fn messages(&self) -> Result<Vec<Message>> {
        let mut frame = vec![0; FRAME_BYTES];
        let mut messages = Vec::new();
        loop {
            match (&self.socket).read(&mut frame) {
                Ok(length) => messages.extend(message(&frame[..length])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(messages),
                Err(error) => return Err(error).context("reading a wire"),
            }
        }
    }

    /// Waits until a message that `is_wanted` passes.
    ///
    /// # Errors
    /// At the deadline.
    pub fn wait_for(
        &self,
        what: &str,
        deadline: Duration,
        is_wanted: impl Fn(&Message) -> bool,
    ) -> Result<Message> {
        until(deadline, what, || {
            let mut messages = self.messages()?.into_iter();
            messages.find(&is_wanted).context("it did not pass")
        })
    }

    /// Puts an IP packet on the wire, to the node.
    ///
    /// # Errors
    /// The kernel's.
    pub fn put(&self, packet: &[u8]) -> Result<()> {
        let ethertype = ethertype(packet)?.to_be_bytes();
        let frame = [&self.header[..], &ethertype, packet].concat();
        self.socket.send(&frame).context("writing to a wire")?;
        Ok(())
    }
}

/// Hands a packet to a device that has no link-layer header, such as a TUN, as if routing had: past
/// every rule and every check of its node.
///
/// # Errors
/// The kernel's.
pub fn put_into_device(namespace: &Namespace, device: &str, packet: &[u8]) -> Result<()> {
    let ethertype = i32::from(ethertype(packet)?);
    namespace.run(|| {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        let address = link_address(ethertype, i32::try_from(index(device)?)?);
        socket.send_to(packet, &address)?;
        Ok(())
    })
}

fn open(namespace: &Namespace, interface: &str) -> Result<Socket> {
    namespace.run(|| {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        let index = i32::try_from(index(interface)?)?;
        socket.bind(&link_address(libc::ETH_P_ALL, index))?;
        Ok(socket)
    })
}

fn hardware_address(namespace: &Namespace, interface: &str) -> Result<[u8; 6]> {
    let text = namespace.output("ip", &["-j", "link", "show", interface], "")?;
    let links: serde_json::Value = serde_json::from_str(&text)?;
    let address = links[0]["address"].as_str().context("no address")?;
    let bytes: Vec<u8> = address
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()?;
    bytes
        .as_slice()
        .try_into()
        .context("not an Ethernet address")
}

fn ethertype(packet: &[u8]) -> Result<u16> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => Ok(u16::try_from(libc::ETH_P_IP)?),
        Some(6) => Ok(u16::try_from(libc::ETH_P_IPV6)?),
        _ => anyhow::bail!("not an IP packet"),
    }
}

fn message(bytes: &[u8]) -> Option<Message> {
    let parsed = frame::parse(bytes);
    let (layer, datagram) = (parsed.layers.first()?, parsed.udp?);
    let ports = [datagram.source_port, datagram.destination_port];
    ports
        .iter()
        .any(|port| WIREGUARD_PORTS.contains(port))
        .then(|| Message {
            source: SocketAddr::new(layer.source, datagram.source_port),
            destination: SocketAddr::new(layer.destination, datagram.destination_port),
            bytes: datagram.payload.to_vec(),
        })
}
