//! One long-lived TCP connection with full-size segments.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::{ECHO_PORT, Host, Testbed};

/// TCP's own retransmissions come again well within this; a black hole does not end.
const STALL: Duration = Duration::from_secs(30);

/// What the echo server overwrites at the start of a message.
const STAMPED: usize = 24;

/// A connection to a host's echo server.
pub(crate) struct Bulk {
    stream: TcpStream,
    message: Vec<u8>,
}

impl Bulk {
    /// Connects; each exchange then carries `bytes` there and back.
    pub(crate) fn connect(
        bed: &Testbed,
        from: &Host,
        target: IpAddr,
        bytes: usize,
    ) -> Result<Self> {
        let address = SocketAddr::new(target, ECHO_PORT);
        let stream = from
            .namespace()
            .run(|| TcpStream::connect_timeout(&address, STALL))
            .with_context(|| format!("connecting {} to {address}", from.name()))?;
        stream.set_read_timeout(Some(STALL))?;
        stream.set_write_timeout(Some(STALL))?;
        let message = bed
            .secret()
            .bytes()
            .iter()
            .copied()
            .cycle()
            .take(bytes)
            .collect();
        Ok(Self { stream, message })
    }

    /// Sends the message and compares what comes back, byte by byte.
    pub(crate) fn exchange(&mut self) -> Result<()> {
        let length = u32::try_from(self.message.len())?;
        let mut reply = vec![0; 4 + self.message.len()];
        self.stream
            .write_all(&length.to_be_bytes())
            .context("sending the length")?;
        self.stream
            .write_all(&self.message)
            .context("sending the message")?;
        self.receive(&mut reply).context("receiving the message")?;
        let same =
            reply[..4] == length.to_be_bytes() && reply[4 + STAMPED..] == self.message[STAMPED..];
        ensure!(same, "the message came back altered");
        Ok(())
    }

    /// A path that loses full segments still trickles: each read comes in time, all do not.
    fn receive(&mut self, mut room: &mut [u8]) -> Result<()> {
        let start = Instant::now();
        while !room.is_empty() {
            ensure!(
                start.elapsed() < STALL,
                "{} bytes are still missing",
                room.len()
            );
            let read = self.stream.read(room)?;
            ensure!(read > 0, "the connection was closed");
            room = &mut std::mem::take(&mut room)[read..];
        }
        Ok(())
    }
}
