//! Traffic that waits for nobody: the same packets go out whatever becomes of them.
//!
//! A check for plaintext proves nothing about a path on which nobody sends. These send on through
//! every fault: datagrams from one socket, connections that are tried again and again.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Socket, Type};

use crate::cookie::{self, Cookie};
use crate::echo::{ECHO_PORT, HEADER_BYTES};
use crate::namespace::Namespace;
use crate::probe::Protocol;
use crate::until::until;

/// Header and more than one whole cookie.
const MESSAGE_BYTES: usize = 96;

/// A datagram goes out in every round, a connection is tried in every tenth: each is a new socket.
const ROUNDS_PER_CONNECTION: u64 = 10;

/// What one sender did.
#[derive(Debug, Default)]
struct Done {
    rounds: AtomicU64,
    taken: AtomicU64,
    refused: AtomicU64,
}

/// A host that sends to some addresses at a steady rate, until it is dropped.
#[derive(Debug)]
pub struct Sender {
    name: String,
    done: Arc<Done>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    pub(crate) fn start(
        from: &Arc<Namespace>,
        targets: &[IpAddr],
        protocols: &[Protocol],
        per_second: u32,
        cookie: &Cookie,
    ) -> Result<Self> {
        let flows: Vec<Flow> = targets
            .iter()
            .flat_map(|target| protocols.iter().map(|protocol| (*target, *protocol)))
            .map(|(target, protocol)| Flow {
                target: SocketAddr::new(target, ECHO_PORT),
                protocol,
                socket: None,
            })
            .collect();
        let done = Arc::new(Done::default());
        let stop = Arc::new(AtomicBool::new(false));
        let interval = Duration::from_secs(1) / per_second.max(1);
        let thread = thread::Builder::new().name("sender".to_owned()).spawn({
            let (from, cookie) = (Arc::clone(from), cookie.clone());
            let (done, stop) = (Arc::clone(&done), Arc::clone(&stop));
            move || from.run(|| send(flows, interval, &cookie, &done, &stop))
        })?;
        Ok(Self {
            name: from.name().to_owned(),
            done,
            stop,
            thread: Some(thread),
        })
    }

    /// Packets that the host's kernel took.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.done.taken.load(Ordering::Relaxed)
    }

    /// Packets that it refused at once, as it does where the sender's own node knows no way.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.done.refused.load(Ordering::Relaxed)
    }

    /// Both together.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        self.taken() + self.refused()
    }

    /// How often it has sent to every address.
    #[must_use]
    pub fn rounds(&self) -> u64 {
        self.done.rounds.load(Ordering::Relaxed)
    }

    /// Waits until it has sent to every address this many times more.
    ///
    /// # Errors
    /// At the deadline.
    pub fn wait_for_more(&self, rounds: u64, deadline: Duration) -> Result<()> {
        self.wait_for(self.rounds() + rounds, deadline)
    }

    /// Waits until it has sent to every address this many times in all.
    ///
    /// # Errors
    /// At the deadline.
    pub fn wait_for(&self, rounds: u64, deadline: Duration) -> Result<()> {
        let what = format!("{} to have sent {rounds} times", self.name);
        until(deadline, &what, || {
            ensure!(self.rounds() >= rounds, "{self:?}");
            Ok(())
        })
        .context("a sender that waits for nobody stands still")
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One address and protocol.
struct Flow {
    target: SocketAddr,
    protocol: Protocol,
    /// That of all datagrams, or that of the connection that was tried last.
    socket: Option<Socket>,
}

fn send(mut flows: Vec<Flow>, interval: Duration, cookie: &Cookie, done: &Done, stop: &AtomicBool) {
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let round = done.rounds.load(Ordering::Relaxed);
        for flow in &mut flows {
            let sent = match flow.protocol {
                Protocol::Tcp if !round.is_multiple_of(ROUNDS_PER_CONNECTION) => continue,
                Protocol::Tcp => flow.connect(),
                Protocol::Udp | Protocol::Icmp => flow.send(cookie),
            };
            let count = if sent.is_ok() {
                &done.taken
            } else {
                &done.refused
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
        done.rounds.fetch_add(1, Ordering::Relaxed);
        due = (due + interval).max(Instant::now());
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

impl Flow {
    fn open(&self, kind: Type) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.target), kind, None)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// One datagram. The socket is not connected, so that no answer, good or bad, is ever seen.
    fn send(&mut self, cookie: &Cookie) -> io::Result<()> {
        if self.socket.is_none() {
            self.socket = Some(self.open(Type::DGRAM)?);
        }
        let number = cookie::next_number();
        let mut message = number.to_be_bytes().to_vec();
        message.resize(HEADER_BYTES, 0);
        message.extend(cookie.payload(number, MESSAGE_BYTES - HEADER_BYTES));
        match &self.socket {
            Some(socket) => socket.send_to(&message, &self.target.into()).map(drop),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The first packet of a connection; the one before is given up.
    fn connect(&mut self) -> io::Result<()> {
        let socket = self.open(Type::STREAM)?;
        let begun = match socket.connect(&self.target.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(()),
            other => other,
        };
        self.socket = Some(socket);
        begun
    }
}
