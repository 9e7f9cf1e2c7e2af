//! The always-on plaintext check: a capture of everything that enters the underlay.
//!
//! It sees each frame once, where a node's, the outside's or the router's link enters the
//! underlay, and before any impairment can drop it. A report is complete: it waits for a marker
//! frame that was sent after everything that it must count, and is an error when the kernel lost
//! a single frame.

pub(crate) mod frame;
mod pcap;
mod ring;
mod tally;

use std::io;
use std::net::IpAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use ipnet::IpNet;
use socket2::{Domain, Socket, Type};

use crate::cookie::{self, Cookie};
use crate::interface;
use crate::namespace::Namespace;
use pcap::Pcap;
use ring::{Captured, Control, Ring};
use tally::Tally;

pub use tally::{CaptureReport, Count, Offence, Offender, WireguardCount};

/// The two ends of the link that markers travel.
const MARKER_LINK: [&str; 2] = ["marker0", "marker1"];

/// How long a marker may take: the machine may be busy, but not that busy.
const MARKER_DEADLINE: Duration = Duration::from_secs(20);

/// A marker may be lost like any frame; then another is sent.
const MARKER_INTERVAL: Duration = Duration::from_millis(250);

/// How soon the draining thread sees that it shall end.
const STOP_INTERVAL: Duration = Duration::from_millis(50);

/// A running capture; it ends with this value.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    control: Control,
    excluded: Vec<u32>,
    marker: Socket,
    lost: Mutex<u64>,
    drain: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
    whole_frames: AtomicBool,
    stop: AtomicBool,
}

#[derive(Debug)]
struct Progress {
    tally: Tally,
    marker_seen: u64,
    pcap: Option<Pcap>,
    failure: Option<io::Error>,
}

impl Capture {
    /// Starts to capture what enters any interface of `namespace` but those in `excluded`, which
    /// would show a frame for a second time: bridges.
    ///
    /// # Errors
    /// The kernel's, for want of CAP_NET_RAW or memory.
    pub fn start(
        namespace: &Namespace,
        excluded: &[&str],
        pod_cidrs: Vec<IpNet>,
        wireguard_ports: Range<u16>,
    ) -> Result<Self> {
        let [sender, receiver] = MARKER_LINK;
        namespace.ip(&[
            format!("link add {sender} type veth peer name {receiver}"),
            // Without link-local addresses nothing but markers is on this link.
            format!("link set {sender} up addrgenmode none"),
            format!("link set {receiver} up addrgenmode none"),
        ])?;
        let (ring, marker, excluded) = namespace
            .run(|| {
                let excluded = excluded
                    .iter()
                    .map(|name| interface::index(name))
                    .collect::<io::Result<Vec<_>>>()?;
                let marker = Socket::new(Domain::PACKET, Type::RAW, None)?;
                let index = i32::try_from(interface::index(sender)?)?;
                marker.bind(&interface::link_address(0, index))?;
                anyhow::Ok((Ring::open(&excluded)?, marker, excluded))
            })
            .context("opening the capture of the underlay")?;
        let shared = Arc::new(Shared {
            progress: Mutex::new(Progress {
                tally: Tally::new(pod_cidrs, wireguard_ports),
                marker_seen: 0,
                pcap: None,
                failure: None,
            }),
            changed: Condvar::new(),
            whole_frames: AtomicBool::new(true),
            stop: AtomicBool::new(false),
        });
        let control = ring.control()?;
        let drain = thread::Builder::new().name("capture".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || drain(ring, &shared)
        })?;
        Ok(Self {
            shared,
            control,
            excluded,
            marker,
            lost: Mutex::new(0),
            drain: Some(drain),
        })
    }

    /// From now on counts frames with this cookie anywhere.
    pub fn search_for(&self, cookie: &Cookie) {
        self.progress().tally.search_for(cookie);
    }

    /// From now on frames between a pod and one of these hosts are no offence.
    pub(crate) fn excuse(&self, hosts: &[IpAddr]) {
        self.progress().tally.excuse(hosts);
    }

    /// Searches whole frames for cookies, which is the default, or reads headers only: for
    /// measurements of speed, which the search would share a processor with, and for bulk traffic
    /// that nothing encrypts, with which it would not keep up.
    ///
    /// # Errors
    /// The kernel's.
    pub fn search_payloads(&self, whole: bool) -> Result<()> {
        self.shared.whole_frames.store(whole, Ordering::Relaxed);
        self.control
            .take_whole_frames(whole, &self.excluded)
            .context("changing the capture")
    }

    /// Stops to listen, or begins again: a capture costs each frame a moment, which a measurement
    /// of speed would pay. What passes meanwhile is in no report.
    ///
    /// # Errors
    /// The kernel's.
    pub fn suspend(&self, suspended: bool) -> Result<()> {
        self.control
            .listen(!suspended)
            .context("suspending the capture")
    }

    /// Also writes every frame from now on to a pcap file.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn record(&self, path: &Path) -> Result<()> {
        let pcap = Pcap::create(path).with_context(|| format!("making {}", path.display()))?;
        self.progress().pcap = Some(pcap);
        Ok(())
    }

    /// What was seen up to now.
    ///
    /// # Errors
    /// When the capture is not complete: frames were lost, or it does not see its own markers.
    pub fn report(&self) -> Result<CaptureReport> {
        let progress = self.catch_up()?;
        Ok(progress.tally.report())
    }

    /// What was seen up to now, counting from nothing afterwards.
    ///
    /// # Errors
    /// As [`Self::report`].
    pub fn take_report(&self) -> Result<CaptureReport> {
        let mut progress = self.catch_up()?;
        let report = progress.tally.report();
        progress.tally.forget();
        Ok(report)
    }

    /// Waits until every frame that was sent before this call is counted.
    fn catch_up(&self) -> Result<MutexGuard<'_, Progress>> {
        let number = cookie::next_number();
        let frame = marker_frame(number);
        let start = Instant::now();
        let mut progress = self.progress();
        while progress.marker_seen < number {
            if let Some(error) = progress.failure.take() {
                return Err(error).context("the capture stopped");
            }
            ensure!(
                start.elapsed() < MARKER_DEADLINE,
                "the capture is blind: it did not see its own marker in {} s",
                MARKER_DEADLINE.as_secs()
            );
            self.marker
                .send(&frame)
                .context("sending the capture's marker")?;
            progress = self
                .shared
                .changed
                .wait_timeout(progress, MARKER_INTERVAL)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        *lost += self
            .control
            .take_lost()
            .context("reading the capture's statistics")?;
        if *lost > 0 {
            bail!("the capture lost {lost} frames: what it did not see proves nothing");
        }
        if let Some(pcap) = &mut progress.pcap {
            pcap.flush().context("writing the pcap file")?;
        }
        Ok(progress)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.shared
            .progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(drain) = self.drain.take() {
            let _ = drain.join();
        }
    }
}

/// The draining thread.
fn drain(mut ring: Ring, shared: &Shared) {
    while !shared.stop.load(Ordering::Relaxed) {
        if let Err(error) = ring.wait(STOP_INTERVAL) {
            lock(shared).failure = Some(error);
            return;
        }
        let whole = shared.whole_frames.load(Ordering::Relaxed);
        loop {
            let mut progress = lock(shared);
            let more = ring.visit_block(|captured| progress.count(&captured, whole));
            shared.changed.notify_all();
            if !more {
                break;
            }
        }
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, Progress> {
    shared
        .progress
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

impl Progress {
    fn count(&mut self, captured: &Captured<'_>, whole: bool) {
        if let Some(number) = marker_number(captured.bytes) {
            self.marker_seen = self.marker_seen.max(number);
            return;
        }
        let Captured {
            bytes,
            wire_bytes,
            time,
        } = *captured;
        self.tally.count(bytes, wire_bytes, time, whole);
        if let Some(pcap) = &mut self.pcap
            && let Err(error) = pcap.write(captured.time, captured.bytes, captured.wire_bytes)
        {
            self.failure = Some(error);
            self.pcap = None;
        }
    }
}

/// A frame of the local experimental ethertype, to nobody, with a number.
fn marker_frame(number: u64) -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend([0x02, 0, 0, 0, 0, 1]);
    bytes.extend(frame::ETHERTYPE_MARKER.to_be_bytes());
    bytes.extend(number.to_be_bytes());
    // Ethernet's least payload.
    bytes.resize(60, 0);
    bytes
}

fn marker_number(bytes: &[u8]) -> Option<u64> {
    let parsed = frame::parse(bytes);
    if parsed.ethertype != frame::ETHERTYPE_MARKER {
        return None;
    }
    parsed
        .body
        .first_chunk()
        .map(|number| u64::from_be_bytes(*number))
}
