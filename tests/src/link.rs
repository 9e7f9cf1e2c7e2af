//! A node's link to the underlay that delays, reorders and duplicates.
//!
//! The kernel's own tool for it, netem, is a module that many machines do not have. So a thread
//! carries every frame between two packet sockets, in a namespace of its own. Offload metadata
//! travels with each frame (`PACKET_VNET_HDR`): a super-frame stays one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Socket, Type};

use crate::cookie;
use crate::interface::{index, link_address, set_packet_option};
use crate::namespace::Namespace;

/// The end that the node's link leads to.
pub(crate) const NODE_END: &str = "near";

/// The end that leads to the underlay's port.
const UNDERLAY_END: &str = "far";

/// A virtio_net_hdr, a super-frame of 64 KiB and its Ethernet header.
const BUFFER_BYTES: usize = 10 + 14 + (1 << 16);

/// What may be under way on a link; more is dropped and counted, as a full router would.
const HELD_BYTES_MAX: usize = 64 << 20;

/// Frames read from one end before the other has its turn.
const BURST: usize = 64;

/// How soon the thread sees that it shall end.
const STOP_INTERVAL: Duration = Duration::from_millis(50);

/// What a link does to frames, both ways alike.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LinkQuality {
    /// Every frame takes this long.
    pub delay: Duration,
    /// And up to so much longer, each another time.
    pub jitter: Duration,
    /// This percentage of frames takes [`Self::reorder_by`] longer.
    pub reorder_percent: f64,
    /// By how much.
    pub reorder_by: Duration,
    /// This percentage of frames arrives twice.
    pub duplicate_percent: f64,
}

/// What a link did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkCount {
    /// Frames carried, copies not counted.
    pub carried: u64,
    /// Frames that took longer than others.
    pub reordered: u64,
    /// Frames that arrived twice.
    pub duplicated: u64,
    /// Frames dropped because too much was under way, or the far end refused them.
    pub dropped: u64,
}

/// A link with a thread in it; it ends with this value.
#[derive(Debug)]
pub struct Link {
    namespace: Namespace,
    shared: Arc<Shared>,
    carrier: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    quality: Mutex<LinkQuality>,
    stop: AtomicBool,
    carried: AtomicU64,
    reordered: AtomicU64,
    duplicated: AtomicU64,
    dropped: AtomicU64,
}

impl Link {
    /// Makes its namespace; the node then makes a veth to [`NODE_END`] in it.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let namespace = Namespace::new(name)?;
        // Nothing but carried frames: no router solicitations of its own.
        namespace.sysctl(&[
            ("ipv6/conf/all/disable_ipv6", "1"),
            ("ipv6/conf/default/disable_ipv6", "1"),
        ])?;
        Ok(Self {
            namespace,
            shared: Arc::default(),
            carrier: None,
        })
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Makes the underlay's port and starts to carry.
    pub(crate) fn start(&mut self, underlay: &Namespace, port: &str, mtu: u16) -> Result<()> {
        self.namespace.ip(&[
            format!(
                "link add {UNDERLAY_END} mtu {mtu} type veth peer name {port} mtu {mtu} netns {}",
                underlay.path().display()
            ),
            format!("link set {NODE_END} up"),
            format!("link set {UNDERLAY_END} up"),
        ])?;
        let ends = self
            .namespace
            .run(|| Ok::<_, io::Error>([open(NODE_END)?, open(UNDERLAY_END)?]))
            .context("opening a link's ends")?;
        let shared = Arc::clone(&self.shared);
        let carrier = thread::Builder::new().name("link".to_owned());
        self.carrier = Some(carrier.spawn(move || carry(&ends, &shared))?);
        Ok(())
    }

    pub(crate) fn set_mtu(&self, mtu: u16) -> Result<()> {
        let ends = [NODE_END, UNDERLAY_END];
        self.namespace
            .ip(&ends.map(|end| format!("link set {end} mtu {mtu}")))
    }

    /// From now on treats frames so.
    pub fn set_quality(&self, quality: LinkQuality) {
        *self
            .shared
            .quality
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = quality;
    }

    /// What it did so far.
    #[must_use]
    pub fn count(&self) -> LinkCount {
        LinkCount {
            carried: self.shared.carried.load(Ordering::Relaxed),
            reordered: self.shared.reordered.load(Ordering::Relaxed),
            duplicated: self.shared.duplicated.load(Ordering::Relaxed),
            dropped: self.shared.dropped.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(carrier) = self.carrier.take() {
            let _ = carrier.join();
        }
    }
}

/// A frame on its way; the heap's order is by time, then by arrival.
type Held = Reverse<(Instant, u64, usize, Vec<u8>)>;

#[derive(Debug, Default)]
struct Queue {
    held: BinaryHeap<Held>,
    bytes: usize,
    arrivals: u64,
}

impl Queue {
    /// False when there is no room.
    fn push(&mut self, due: Instant, to: usize, frame: Vec<u8>) -> bool {
        if self.bytes + frame.len() > HELD_BYTES_MAX {
            return false;
        }
        self.bytes += frame.len();
        self.arrivals += 1;
        self.held.push(Reverse((due, self.arrivals, to, frame)));
        true
    }

    fn next_due(&self) -> Option<Instant> {
        self.held.peek().map(|Reverse((due, ..))| *due)
    }

    fn pop_due(&mut self, now: Instant) -> Option<(usize, Vec<u8>)> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse((_, _, to, frame)) = self.held.pop()?;
        self.bytes -= frame.len();
        Some((to, frame))
    }
}

/// The carrying thread.
fn carry(ends: &[Socket; 2], shared: &Shared) {
    let mut queue = Queue::default();
    let mut chance = Chance(cookie::random_number() | 1);
    let mut buffer = vec![0; BUFFER_BYTES];
    while !shared.stop.load(Ordering::Relaxed) {
        wait(ends, queue.next_due());
        for from in 0..ends.len() {
            take_in(ends, from, &mut buffer, &mut queue, &mut chance, shared);
        }
        while let Some((to, frame)) = queue.pop_due(Instant::now()) {
            if ends[to].send(&frame).is_err() {
                shared.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn take_in(
    ends: &[Socket; 2],
    from: usize,
    buffer: &mut [u8],
    queue: &mut Queue,
    chance: &mut Chance,
    shared: &Shared,
) {
    let quality = *shared
        .quality
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    for _ in 0..BURST {
        let Ok(length) = io::Read::read(&mut &ends[from], buffer) else {
            return;
        };
        shared.carried.fetch_add(1, Ordering::Relaxed);
        let mut due = Instant::now() + quality.delay + chance.part_of(quality.jitter);
        if chance.happens(quality.reorder_percent) {
            shared.reordered.fetch_add(1, Ordering::Relaxed);
            due += quality.reorder_by;
        }
        let mut copies = 1;
        if chance.happens(quality.duplicate_percent) {
            shared.duplicated.fetch_add(1, Ordering::Relaxed);
            copies = 2;
        }
        for _ in 0..copies {
            if !queue.push(due, 1 - from, buffer[..length].to_vec()) {
                shared.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Until a frame comes or one is due.
fn wait(ends: &[Socket; 2], due: Option<Instant>) {
    let longest = due.map_or(STOP_INTERVAL, |due| {
        due.saturating_duration_since(Instant::now())
            .min(STOP_INTERVAL)
    });
    let timeout = Timespec::try_from(longest).ok();
    let mut ready = ends
        .each_ref()
        .map(|end| PollFd::from_borrowed_fd(end.as_fd(), PollFlags::IN));
    let _ = poll(&mut ready, timeout.as_ref());
}

fn open(interface: &str) -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    let on: libc::c_int = 1;
    set_packet_option(&socket, libc::PACKET_VNET_HDR, &on)?;
    set_packet_option(&socket, libc::PACKET_IGNORE_OUTGOING, &on)?;
    // Limited by net.core.rmem_max in a user namespace: then bursts are shorter.
    socket.set_recv_buffer_size(8 << 20)?;
    socket.set_nonblocking(true)?;
    let index = i32::try_from(index(interface)?).map_err(io::Error::other)?;
    socket.bind(&link_address(libc::ETH_P_ALL, index))?;
    debug_assert!(socket.as_raw_fd() >= 0);
    Ok(socket)
}

/// xorshift64: fast and good enough to choose frames.
struct Chance(u64);

impl Chance {
    fn happens(&mut self, percent: f64) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "10,000 values of a percentage")]
        let drawn = (self.draw() % 10_000) as f64;
        drawn < percent * 100.0
    }

    /// Any time up to the whole.
    fn part_of(&mut self, whole: Duration) -> Duration {
        let parts = u32::try_from(self.draw() % 10_000).unwrap_or(0);
        whole * parts / 10_000
    }

    fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
