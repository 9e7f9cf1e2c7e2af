//! What comes into a host for one UDP port, as far as its IP header tells.

use std::io::{ErrorKind, Read as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use socket2::{Domain, Socket, Type};

use crate::interface::{link_address, set_packet_option};
use crate::namespace::Namespace;

/// A packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sniffed {
    /// The two bits of congestion notification.
    pub ecn: usize,
    /// Of the whole packet.
    pub bytes: usize,
}

/// Sees every packet that its host takes in.
#[derive(Debug)]
pub struct Sniffer {
    socket: Socket,
    port: u16,
}

impl Sniffer {
    /// Starts to look for packets to this port.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(namespace: &Arc<Namespace>, port: u16) -> Result<Self> {
        let socket = namespace.run(|| -> Result<Socket> {
            let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
            let ignore: libc::c_int = 1;
            set_packet_option(&socket, libc::PACKET_IGNORE_OUTGOING, &ignore)?;
            socket.bind(&link_address(libc::ETH_P_ALL, 0))?;
            Ok(socket)
        })?;
        Ok(Self { socket, port })
    }

    /// The next packet.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn next(&self, deadline: Duration) -> Result<Sniffed> {
        self.find(deadline, |_| true)
    }

    /// The next packet of which this is true.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn find(&self, deadline: Duration, is_it: impl Fn(&Sniffed) -> bool) -> Result<Sniffed> {
        let start = Instant::now();
        loop {
            let left = deadline.saturating_sub(start.elapsed());
            if left.is_zero() {
                bail!("no such packet came to port {}", self.port);
            }
            self.socket.set_read_timeout(Some(left))?;
            if let Some(packet) = self.read()?.filter(&is_it) {
                return Ok(packet);
            }
        }
    }

    /// Forgets what has come.
    ///
    /// # Errors
    /// The kernel's.
    pub fn clear(&self) -> Result<()> {
        self.socket.set_nonblocking(true)?;
        let mut room = [0; 2048];
        while (&self.socket).read(&mut room).is_ok() {}
        self.socket.set_nonblocking(false)?;
        Ok(())
    }

    fn read(&self) -> Result<Option<Sniffed>> {
        let mut room = [0; 2048];
        match (&self.socket).read(&mut room) {
            Ok(length) => Ok(parse(&room[..length], self.port)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("reading a packet"),
        }
    }
}

/// Headers without options or extensions, which is what the tests send.
fn parse(packet: &[u8], port: u16) -> Option<Sniffed> {
    let (ecn, header) = match packet.first()? >> 4 {
        4 => (packet.get(1)? & 3, 20),
        6 => (packet.get(1)? >> 4 & 3, 40),
        _ => return None,
    };
    let is_for_port = packet.get(header + 2..header + 4)? == port.to_be_bytes();
    is_for_port.then_some(Sniffed {
        ecn: usize::from(ecn),
        bytes: packet.len(),
    })
}
