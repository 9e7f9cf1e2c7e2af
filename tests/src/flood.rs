//! Datagrams at a steady rate, from one address or from many: what an attacker sends.
//!
//! The attackers are behind the router, at the host outside: all their addresses are its own
//! ([`attackers`]), so that what is answered really arrives.

mod initiation;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::address::{self, IpVersion};
use crate::namespace::Namespace;
use crate::testbed::Testbed;
use crate::underlay::Underlay;
use initiation::{COOKIE_BYTES, Initiation};

/// Whatever happens to its test, a flood ends.
const DURATION_MAX: Duration = Duration::from_secs(60);

/// How often datagrams are sent that have become due.
const TICK: Duration = Duration::from_millis(1);

/// A thread that was held up makes up for this part of a second at most: more would be a burst and
/// no flood.
const BURSTS_PER_SECOND: u64 = 10;

/// What each datagram is.
#[derive(Debug, Clone)]
pub enum Attack {
    /// A handshake initiation whose mac1 is not the receiver's.
    Forged,
    /// A handshake initiation with a mac1 for the receiver's public key, in base64.
    Sealed(String),
    /// The same, with the cookie that its source was sent, if it was.
    WithCookie(String),
    /// These bytes.
    Payload(Vec<u8>),
}

/// What is sent to whom.
#[derive(Debug, Clone)]
pub struct FloodPlan {
    /// Addresses of the sender's namespace, used in turn; none for the one that the kernel chooses.
    pub sources: Vec<IpAddr>,
    /// The victim.
    pub target: SocketAddr,
    /// Datagrams a second, of all sources together.
    pub per_second: u32,
    /// What they are.
    pub attack: Attack,
}

/// What a flood did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FloodCount {
    /// Datagrams that the kernel took.
    pub sent: u64,
    /// Datagrams that it did not take.
    pub refused: u64,
    /// Cookies that came back and were opened.
    pub cookies: u64,
    /// For how long it was sent.
    pub duration: Duration,
}

impl FloodCount {
    /// What was really sent in a second.
    #[must_use]
    pub fn per_second(&self) -> u64 {
        let milliseconds = u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX);
        self.sent * 1000 / milliseconds.max(1)
    }
}

/// A running flood. Ends when it is dropped, and after a minute.
#[derive(Debug)]
pub struct Flood {
    start: Instant,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
    refused: AtomicU64,
    cookies: AtomicU64,
}

/// One address with its socket and its message.
struct Source {
    socket: UdpSocket,
    message: Message,
}

enum Message {
    Fixed(Vec<u8>),
    WithCookie(Box<Initiation>),
}

impl Flood {
    /// Starts to send from a namespace.
    ///
    /// # Errors
    /// The kernel's, and for a key that is none.
    pub fn start(from: &Namespace, plan: &FloodPlan) -> Result<Self> {
        let addresses = if plan.sources.is_empty() {
            vec![address::unspecified(plan.target.ip())]
        } else {
            plan.sources.clone()
        };
        let sources = from
            .run(|| -> Result<VecDeque<Source>> {
                let one = |address| Source::new(address, plan);
                addresses.into_iter().map(one).collect()
            })
            .with_context(|| format!("a flood from {}", from.name()))?;
        let shared = Arc::new(Shared::default());
        let (start, per_second) = (Instant::now(), plan.per_second);
        let thread = thread::Builder::new().name("flood".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || send(sources, per_second, start, &shared)
        })?;
        Ok(Self {
            start,
            shared,
            thread: Some(thread),
        })
    }

    /// What it did so far.
    #[must_use]
    pub fn count(&self) -> FloodCount {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FloodCount {
            sent: read(&self.shared.sent),
            refused: read(&self.shared.refused),
            cookies: read(&self.shared.cookies),
            duration: self.start.elapsed().min(DURATION_MAX),
        }
    }

    /// Ends it.
    #[must_use]
    pub fn stop(mut self) -> FloodCount {
        let count = self.count();
        self.end();
        count
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say that its counters do not.
            let _ = thread.join();
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.end();
    }
}

impl Source {
    fn new(address: IpAddr, plan: &FloodPlan) -> Result<Self> {
        let socket = UdpSocket::bind((address, 0)).with_context(|| format!("at {address}"))?;
        socket.connect(plan.target)?;
        socket.set_nonblocking(true)?;
        let message = match &plan.attack {
            Attack::Forged => Message::Fixed(Initiation::forged().bytes().to_vec()),
            Attack::Sealed(key) => Message::Fixed(Initiation::sealed(key)?.bytes().to_vec()),
            Attack::WithCookie(key) => Message::WithCookie(Box::new(Initiation::sealed(key)?)),
            Attack::Payload(bytes) => Message::Fixed(bytes.clone()),
        };
        Ok(Self { socket, message })
    }

    fn send(&mut self, shared: &Shared) {
        let bytes = match &mut self.message {
            Message::Fixed(bytes) => bytes.as_slice(),
            Message::WithCookie(initiation) => {
                if receive_cookie(&self.socket, initiation) {
                    shared.cookies.fetch_add(1, Ordering::Relaxed);
                }
                initiation.bytes()
            }
        };
        let counter = match self.socket.send(bytes) {
            Ok(_) => &shared.sent,
            // A full buffer, or what ICMP said about an earlier one.
            Err(_) => &shared.refused,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn receive_cookie(socket: &UdpSocket, initiation: &mut Initiation) -> bool {
    let mut reply = [0; COOKIE_BYTES + 1];
    let received: io::Result<usize> = socket.recv(&mut reply);
    received.is_ok_and(|length| initiation.take_cookie(&reply[..length]))
}

fn send(mut sources: VecDeque<Source>, per_second: u32, start: Instant, shared: &Shared) {
    let burst = u64::from(per_second).div_ceil(BURSTS_PER_SECOND);
    let mut next = 0_u64;
    while !shared.stop.load(Ordering::Relaxed) && start.elapsed() < DURATION_MAX {
        let due = start.elapsed().as_micros() * u128::from(per_second) / 1_000_000;
        let due = u64::try_from(due).unwrap_or(u64::MAX);
        for _ in next..due.min(next + burst) {
            if let Some(source) = sources.front_mut() {
                source.send(shared);
            }
            sources.rotate_left(1);
        }
        next = due;
        thread::sleep(TICK);
    }
}

/// Gives the host outside so many further addresses, to which the router knows the way, and returns
/// them. In IPv6 each is in a network of its own, as one who commands many hosts has them.
///
/// # Errors
/// ip's.
pub fn attackers(bed: &Testbed, version: IpVersion, count: u16) -> Result<Vec<IpAddr>> {
    let underlay: &Underlay = bed.underlay();
    let (network, gateway) = (address::attackers(version), address::outside_host(version));
    let outside = underlay.outside();
    outside.ip(&[format!("route replace local {network} dev lo")])?;
    if version == IpVersion::V6 {
        // IPv4 takes a local route for leave to bind, IPv6 does not.
        outside.sysctl(&[("ipv6/ip_nonlocal_bind", "1")])?;
    }
    let route = format!("route replace {network} via {gateway}");
    underlay.namespace().ip(&[route])?;
    Ok((1..=count)
        .map(|number| address::attacker(version, number))
        .collect())
}
