//! A lane: what one thread runs to completion.
//!
//! ```text
//! TUN  --handle_overlay-->  route by destination, encrypt   --> send
//! UDP  --handle_underlay--> find session, decrypt, check source --> deliver   (answers --> send)
//! time --handle_timeout-->  initiations, keepalives         --> send
//! ```

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::batch::{DeliveryBatch, OverlayBatch, UnderlayBatch};
use crate::device::Device;
use crate::icmp::IcmpLimiter;
use crate::jitter;
use crate::peer::PeerState;
use crate::peer_table::PeerTable;
use crate::session_set::{Activity, OutputFull};

mod overlay;
mod underlay;

use overlay::Overlay;
use underlay::Underlay;

/// Time between two ticks of an active session set: boringtun's clock must not stand still for
/// longer.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// Handshakes that were asked for and are started in one tick of a lane: 1,000 peers after a
/// restart are through in 8 s, at 1 % of a core, and flows do not wait for it since they start
/// their own.
const REQUESTED_PER_TICK: usize = 32;

/// One lane of the device, owned by one thread.
pub struct Lane {
    device: Arc<Device>,
    lane: usize,
    /// Peers whose session set on this lane is ticked.
    active: Vec<Arc<PeerState>>,
    /// How many of them are ticked already in the present round.
    ticked: usize,
    next_tick: Instant,
    /// When the first held initiation is due.
    pending_due: Option<Instant>,
    random: u64,
    icmp_limiter: IcmpLimiter,
}

impl Lane {
    pub(crate) fn new(device: Arc<Device>, lane: usize, now: Instant) -> Self {
        let mut random = device.seed ^ (lane as u64) << 56;
        jitter::next(&mut random);
        // The lanes' ticks, and with them their handshakes, are spread over the interval.
        let lanes = u32::try_from(device.lanes.len()).unwrap_or(1);
        let phase = TICK / lanes * u32::try_from(lane).unwrap_or(0);
        Self {
            device,
            lane,
            active: Vec::new(),
            ticked: 0,
            next_tick: now + phase,
            pending_due: None,
            random,
            icmp_limiter: IcmpLimiter::new(now),
        }
    }

    /// Inner packets from the TUN device become datagrams to send, and ICMP errors to deliver back.
    ///
    /// Consumes `packets` until none is left or an output is full: flush the outputs then and call
    /// again.
    pub fn handle_overlay(
        &mut self,
        now: Instant,
        packets: &mut OverlayBatch,
        send: &mut UnderlayBatch,
        deliver: &mut DeliveryBatch,
    ) {
        let table = self.device.table.load();
        let mut overlay = Overlay {
            device: &self.device,
            table: &table,
            now,
            lane: self.lane,
            icmp_limiter: &mut self.icmp_limiter,
            send,
            deliver,
        };
        // When an output is full, what is left stays in the batch.
        let _ = overlay.handle(packets);
    }

    /// Datagrams from the underlay become inner packets to deliver, and handshake answers to send.
    ///
    /// Consumes `datagrams` until none is left or an output is full: flush the outputs then and
    /// call again.
    ///
    /// # Panics
    /// When a datagram came in by a lane that the device does not have.
    pub fn handle_underlay(
        &mut self,
        now: Instant,
        datagrams: &mut UnderlayBatch,
        send: &mut UnderlayBatch,
        deliver: &mut DeliveryBatch,
    ) {
        let table = self.device.table.load();
        let mut underlay = Underlay {
            device: &self.device,
            table: &table,
            now,
            send,
            deliver,
        };
        // When an output is full, what is left stays in the batch.
        let _ = underlay.handle(datagrams);
    }

    /// Lets time pass. To be called when [`Self::poll_timeout`] is due, which is at most 250 ms
    /// after the last call. When it is due at once again, `send` was full.
    pub fn handle_timeout(
        &mut self,
        now: Instant,
        send: &mut UnderlayBatch,
        _deliver: &mut DeliveryBatch,
    ) {
        let table = self.device.table.load_full();
        if now < self.next_tick {
            if self.pending_due.is_some_and(|due| due <= now) {
                let _ = self.send_pending(now, &table, send);
            }
            return;
        }
        if self.ticked == 0 {
            self.open_requested(now, &table);
            self.device.lanes[self.lane].take_activated(&mut self.active);
            self.pending_due = None;
        }
        if self.tick(now, &table, send).is_err() {
            return;
        }
        self.ticked = 0;
        // In step with the phase; a thread that was held up does not make up for lost ticks.
        self.next_tick += TICK;
        if self.next_tick <= now {
            self.next_tick = now + TICK;
        }
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        self.pending_due
            .map_or(self.next_tick, |due| due.min(self.next_tick))
    }

    /// The kernel has refused a datagram as too big for the path to `endpoint`: packets that are
    /// longer than `path_mtu` (bytes, outer) leaves room for are answered with ICMP too-big from
    /// now on, until the peer's configuration changes.
    pub fn handle_path_mtu(&mut self, endpoint: SocketAddr, path_mtu: u32) {
        // The endpoint in use does not depend on time.
        self.device
            .lower_path_mtu(endpoint, path_mtu, self.next_tick);
    }

    /// Passes on requests for handshakes, a few in each tick.
    fn open_requested(&self, now: Instant, table: &PeerTable) {
        let own = &self.device.lanes[self.lane];
        for state in (0..REQUESTED_PER_TICK).map_while(|_| own.take_requested()) {
            let mut cell = state.lanes[self.lane].lock();
            cell.is_requested = false;
            let Some(peer) = table.by_state(&state) else {
                continue;
            };
            let context = self.device.context(self.lane, peer, now);
            if let Some(set) = self.device.open(&mut cell, &context) {
                set.request_handshake();
            }
        }
    }

    fn tick(
        &mut self,
        now: Instant,
        table: &PeerTable,
        send: &mut UnderlayBatch,
    ) -> Result<(), OutputFull> {
        while let Some(state) = self.active.get(self.ticked) {
            let Some(peer) = table.by_state(state) else {
                self.active.swap_remove(self.ticked);
                continue;
            };
            let mut cell = peer.state.lanes[self.lane].lock();
            let Some(set) = cell.set.as_deref_mut() else {
                drop(cell);
                self.active.swap_remove(self.ticked);
                continue;
            };
            let context = self.device.context(self.lane, peer, now);
            set.follow(&context);
            let activity = set.tick(&context, send, jitter::delay(&mut self.random))?;
            self.pending_due = earlier(self.pending_due, set.pending_due());
            if activity == Activity::Idle {
                set.is_active = false;
                drop(cell);
                self.active.swap_remove(self.ticked);
            } else {
                self.ticked += 1;
            }
        }
        Ok(())
    }

    /// Sends the held initiations that are due.
    fn send_pending(
        &mut self,
        now: Instant,
        table: &PeerTable,
        send: &mut UnderlayBatch,
    ) -> Result<(), OutputFull> {
        let mut next = None;
        for state in &self.active {
            let Some(peer) = table.by_state(state) else {
                continue;
            };
            let mut cell = peer.state.lanes[self.lane].lock();
            let Some(set) = cell.set.as_deref_mut() else {
                continue;
            };
            set.send_pending(&self.device.context(self.lane, peer, now), send)?;
            next = earlier(next, set.pending_due());
        }
        self.pending_due = next;
        Ok(())
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("lane", &self.lane)
            .finish_non_exhaustive()
    }
}
