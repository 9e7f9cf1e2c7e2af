//! The device: own lanes, the peer table and everything that the lane threads share.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use podwire_core::node::NodeName;

use crate::counters::LaneCounters;
use crate::drop_reason::DropReason;
use crate::endpoint::Endpoint;
use crate::handshake_limiter::HandshakeLimiter;
use crate::lane::Lane;
use crate::one_sided::OneSided;
use crate::own_epoch::OwnEpoch;
use crate::own_keys::{Fate, KeyRing, OwnKeys};
use crate::peer::{Peer, PeerConfig, PeerLane, PeerState};
use crate::peer_table::PeerTable;
use crate::receiver_index::ReceiverIndices;
use crate::session_set::{Context, SessionSet};
use crate::status::{HandshakeCounts, LaneStatus, PeerChanges, PeerState as State, PeerStatus};

/// The most lanes that a node may have.
pub const LANES_MAX: usize = 8;

/// The largest process generation: 4 bits.
pub const PROCESS_GENERATION_MAX: u8 = 15;

/// What a device is made of.
#[allow(missing_debug_implementations)] // holds private keys
pub struct DeviceConfig {
    /// Own keys, of 1 to [`LANES_MAX`] lanes.
    pub keys: OwnKeys,
    /// 4 bits that tell the processes of this node apart: the upper bits of every receiver index.
    pub process_generation: u8,
    /// Own device addresses (informational).
    pub addresses: Vec<IpAddr>,
    /// Handshake limit of the whole node, normally
    /// [`HANDSHAKES_PER_SECOND`](crate::handshake_limiter::HANDSHAKES_PER_SECOND).
    pub handshakes_per_second: u32,
    /// Nobody can reach this node unasked: it asks every peer that can be reached, and again
    /// whenever it has not heard from one for long.
    pub keeps_open: bool,
    /// Seed of the slot permutation and of jitter; from the operating system's random source.
    pub seed: u64,
}

/// Why a device cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// Not 1 to 8 lanes.
    #[error("a device has 1 to {LANES_MAX} lanes, not {0}: set the number of lanes accordingly")]
    Lanes(usize),
    /// So many keys, and not one for each of so many lanes.
    #[error("{0} keys for {1} lanes: give each lane its own")]
    Keys(usize, usize),
    /// Two lanes have one key: an initiation for one could be replayed to the other.
    #[error("lanes {0} and {1} have the same private key: give each lane its own")]
    SameKey(usize, usize),
    /// Not 4 bits.
    #[error("the process generation is 0 to {PROCESS_GENERATION_MAX}, not {0}")]
    ProcessGeneration(u8),
}

/// What belongs to one own lane.
pub(crate) struct OwnLane {
    pub(crate) counters: LaneCounters,
    /// Peers whose session set on this lane has become active, for the lane's thread to tick.
    activated: Mutex<Vec<Arc<PeerState>>>,
    /// Peers with which a handshake is asked for on this lane.
    requested: Mutex<VecDeque<Arc<PeerState>>>,
}

impl OwnLane {
    /// Hands the newly active peers to the lane's thread.
    pub(crate) fn take_activated(&self, list: &mut Vec<Arc<PeerState>>) {
        list.append(&mut self.activated.lock());
    }

    /// Asks for a handshake with a peer whose lane is `cell`, unless it waits for one already: the
    /// queue is never longer than the table, and those that are new do not wait behind copies.
    fn request(&self, cell: &mut PeerLane, state: &Arc<PeerState>) {
        if !std::mem::replace(&mut cell.is_requested, true) {
            self.requested.lock().push_back(Arc::clone(state));
        }
    }

    /// The next peer with which a handshake is asked for. Its lane says so until it is asked.
    pub(crate) fn take_requested(&self) -> Option<Arc<PeerState>> {
        self.requested.lock().pop_front()
    }
}

/// The WireGuard device of this node and all its peers.
pub struct Device {
    pub(crate) lanes: Box<[OwnLane]>,
    pub(crate) indices: ReceiverIndices,
    pub(crate) limiter: HandshakeLimiter,
    pub(crate) table: ArcSwap<PeerTable>,
    /// Of the table.
    peers: AtomicU32,
    pub(crate) seed: u64,
    keeps_open: bool,
    pub(crate) own_epoch: OwnEpoch,
    /// Held while the table is replaced.
    writer: Mutex<OneSided>,
    addresses: Vec<IpAddr>,
}

impl Device {
    /// Makes a device without peers.
    ///
    /// # Errors
    /// When the number of lanes, their keys or the process generation are not acceptable.
    pub fn new(config: DeviceConfig) -> Result<Arc<Self>, DeviceError> {
        let DeviceConfig {
            keys,
            process_generation,
            addresses,
            handshakes_per_second,
            keeps_open,
            seed,
        } = config;
        let lanes = keys.base.len();
        let own = KeyRing::new(keys)?;
        if process_generation > PROCESS_GENERATION_MAX {
            return Err(DeviceError::ProcessGeneration(process_generation));
        }
        let own_lane = |_| OwnLane {
            counters: LaneCounters::new(),
            activated: Mutex::new(Vec::new()),
            requested: Mutex::new(VecDeque::new()),
        };
        Ok(Arc::new(Self {
            lanes: (0..lanes).map(own_lane).collect(),
            indices: ReceiverIndices::new(process_generation, seed),
            limiter: HandshakeLimiter::new(handshakes_per_second),
            peers: AtomicU32::new(0),
            table: ArcSwap::from_pointee(PeerTable::new(Arc::new(own))),
            seed,
            keeps_open,
            own_epoch: OwnEpoch::default(),
            writer: Mutex::default(),
            addresses,
        }))
    }

    /// Another process of this node, with the same keys, has just ended: peers may still send under
    /// its sessions.
    pub fn succeed(&self, now: Instant) {
        self.writer.lock().succeed(now);
    }

    /// The addresses of the device, as configured.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Replaces the peer table by one atomic pointer. State, sessions and counters of peers whose
    /// configuration is equal are untouched; a changed one keeps its counters, and its sessions
    /// make before they break; one that is gone, or has another uid now, loses all its sessions.
    ///
    /// One that comes back, and any one that is added soon after [`Self::succeed`], is asked for
    /// handshakes.
    pub fn set_peers(&self, peers: &BTreeMap<NodeName, PeerConfig>, now: Instant) -> PeerChanges {
        let mut one_sided = self.writer.lock();
        let (table, replaced) = self.table.load().next(peers, self.lanes.len());
        if replaced.changes == PeerChanges::default() {
            return replaced.changes;
        }
        self.table.store(Arc::new(table));
        let count = u32::try_from(peers.len()).unwrap_or(u32::MAX);
        self.peers.store(count, Ordering::Relaxed);
        for (before, after) in &replaced.changed {
            let is_moved = before.config.pair.endpoints != after.config.pair.endpoints;
            for (lane, cell) in after.state.lanes.iter().enumerate() {
                let mut cell = cell.lock();
                let Some(set) = cell.set.as_mut() else {
                    continue;
                };
                if lane < after.lanes {
                    set.follow(&self.context(lane, after, now));
                } else {
                    set.close(&self.indices, now);
                }
                if is_moved {
                    set.reset_endpoint(&before.config.pair, &self.context(lane, after, now));
                }
                if set.take_cut() {
                    self.lanes[lane].request(&mut cell, &after.state);
                }
            }
        }
        one_sided.expire(now);
        for peer in &replaced.removed {
            if self.close(peer, now) {
                one_sided.cut(&peer.name, now);
            }
        }
        let asked = replaced
            .added
            .iter()
            .filter(|name| one_sided.may_have(name));
        asked.for_each(|name| self.request_handshake(name));
        if self.keeps_open {
            self.open_ways();
        }
        replaced.changes
    }

    /// Replaces the own keys. Sessions of those that stay are untouched; `fate` says what becomes
    /// of the others.
    ///
    /// # Errors
    /// When the keys are not acceptable: then nothing has changed.
    pub fn set_keys(&self, keys: OwnKeys, fate: Fate, now: Instant) -> Result<(), DeviceError> {
        let _writer = self.writer.lock();
        let before = self.table.load();
        let table = before.with_own_keys(before.own().next(keys, fate)?);
        self.table.store(Arc::new(table));
        for peer in self.table.load().peers() {
            for (lane, cell) in peer.state.lanes.iter().enumerate().take(peer.lanes) {
                let mut cell = cell.lock();
                let Some(set) = cell.set.as_mut() else {
                    continue;
                };
                set.follow(&self.context(lane, peer, now));
                if set.take_cut() {
                    self.lanes[lane].request(&mut cell, &peer.state);
                }
            }
        }
        Ok(())
    }

    /// Asks every peer that is not asked already and can be.
    fn open_ways(&self) {
        for peer in self.table.load().peers() {
            if peer.config.pair.endpoints.is_empty() {
                continue;
            }
            for (own, cell) in self.lanes.iter().zip(&peer.state.lanes).take(peer.lanes) {
                let mut cell = cell.lock();
                if !cell.set.as_ref().is_some_and(|set| set.is_active) {
                    own.request(&mut cell, &peer.state);
                }
            }
        }
    }

    /// Ends every session with a peer that is gone; whether there was one.
    fn close(&self, peer: &Peer, now: Instant) -> bool {
        let mut had_session = false;
        for cell in &peer.state.lanes {
            let mut cell = cell.lock();
            cell.is_closed = true;
            if let Some(mut set) = cell.set.take() {
                had_session |= set.members() > 0;
                set.close(&self.indices, now);
            }
        }
        had_session
    }

    /// Lane number `lane` of this device, for one thread.
    ///
    /// # Panics
    /// When the device has no such lane.
    #[must_use]
    pub fn lane(self: &Arc<Self>, lane: usize, now: Instant) -> Lane {
        assert!(
            lane < self.lanes.len(),
            "lane {lane} of {}",
            self.lanes.len()
        );
        Lane::new(Arc::clone(self), lane, now)
    }

    /// A snapshot of every peer, by name.
    #[must_use]
    pub fn peers(&self, now: Instant) -> Vec<PeerStatus> {
        self.table
            .load()
            .peers()
            .map(|peer| self.peer_status(peer, now))
            .collect()
    }

    /// The same of those with a session, or a handshake on its way, alone: in a large mesh they
    /// are few.
    #[must_use]
    pub fn peers_in_use(&self, now: Instant) -> Vec<PeerStatus> {
        let table = self.table.load();
        let is_in_use = |peer: &&Arc<Peer>| {
            let mut lanes = peer.state.lanes.iter();
            lanes.any(|lane| lane.lock().set.is_some())
        };
        let in_use = table.peers().filter(is_in_use);
        in_use.map(|peer| self.peer_status(peer, now)).collect()
    }

    fn peer_status(&self, peer: &Peer, now: Instant) -> PeerStatus {
        let lanes: Vec<_> = (0..peer.lanes)
            .map(|lane| {
                let context = self.context(lane, peer, now);
                let cell = peer.state.lanes[lane].lock();
                lane_status(cell.set.as_deref(), &context)
            })
            .collect();
        let first = lanes.first();
        let state = match first {
            Some(lane) if lane.confirmed => State::Connected,
            Some(lane) if lane.handshaking => State::Handshaking,
            Some(_) | None => State::Idle,
        };
        PeerStatus {
            name: peer.name.clone(),
            state,
            lanes,
        }
    }

    /// Dropped packets and datagrams since the start, every reason listed.
    #[must_use]
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        let total = |reason| {
            self.lanes
                .iter()
                .map(|lane| lane.counters.drops(reason))
                .sum::<u64>()
        };
        DropReason::ALL
            .iter()
            .map(|reason| (*reason, total(*reason)))
            .collect()
    }

    /// Handshake messages since the start.
    #[must_use]
    pub fn handshakes(&self) -> HandshakeCounts {
        let lanes = self.lanes.iter().map(|lane| lane.counters.handshakes());
        lanes.fold(HandshakeCounts::default(), |sum, lane| sum + lane)
    }

    /// Asks for a handshake with a peer on every lane that it has in common with us. The lane
    /// threads start them at their next [`Lane::handle_timeout`], spread at random.
    pub fn request_handshake(&self, name: &NodeName) {
        let table = self.table.load();
        let Some(peer) = table.by_name(name) else {
            return;
        };
        for (own, cell) in self.lanes.iter().zip(&peer.state.lanes).take(peer.lanes) {
            own.request(&mut cell.lock(), &peer.state);
        }
    }

    /// Initiations sent since the start: when it has moved, so has the highest stamp.
    #[must_use]
    pub fn initiations_sent(&self) -> u64 {
        self.handshakes().initiations_sent
    }

    /// The latest stamp that an initiation had since [`Self::begin_epoch`], in nanoseconds since
    /// the Unix epoch. It does not follow a clock that is set.
    #[must_use]
    pub fn highest_stamp(&self) -> u64 {
        self.own_epoch.highest_stamp()
    }

    /// The clock was set back behind stamps that peers have seen. From here on every handshake is
    /// started by a tunnel made under the present clock; those of before still carry traffic until
    /// one has completed. To be called before peers learn the next epoch: a late stamp that came
    /// to them after that would lock this node out again.
    pub fn begin_epoch(&self, now: Instant) {
        let _writer = self.writer.lock();
        self.own_epoch.begin();
        for peer in self.table.load().peers() {
            for (lane, cell) in peer.state.lanes.iter().enumerate().take(peer.lanes) {
                if let Some(set) = cell.lock().set.as_mut() {
                    set.follow(&self.context(lane, peer, now));
                }
            }
        }
    }

    pub(crate) fn context<'a>(&'a self, lane: usize, peer: &'a Peer, now: Instant) -> Context<'a> {
        let counters = &self.lanes[lane].counters;
        Context {
            now,
            lane,
            peer,
            peers: self.peers.load(Ordering::Relaxed),
            indices: &self.indices,
            own_epoch: &self.own_epoch,
            counters,
            keeps_open: self.keeps_open && !peer.config.pair.endpoints.is_empty(),
        }
    }

    /// The session set of a locked peer lane, made if need be, followed and put on its thread's
    /// list. None when the peer is gone.
    pub(crate) fn open<'a>(
        &self,
        cell: &'a mut PeerLane,
        context: &Context<'_>,
    ) -> Option<&'a mut SessionSet> {
        if cell.is_closed {
            return None;
        }
        if cell.set.is_none() {
            cell.set = Some(Box::new(SessionSet::new(context)?));
        }
        let set = cell.set.as_deref_mut()?;
        set.follow(context);
        if !set.is_active {
            set.is_active = true;
            self.lanes[context.lane]
                .activated
                .lock()
                .push(Arc::clone(&context.peer.state));
        }
        Some(set)
    }

    /// Takes note of a path MTU that the kernel has reported for an endpoint.
    pub(crate) fn lower_path_mtu(&self, endpoint: SocketAddr, path_mtu: u32, now: Instant) {
        let table = self.table.load();
        for peer in table.by_endpoint(endpoint) {
            peer.lower_path_mtu(path_mtu);
        }
        let roaming = table
            .peers()
            .filter(|peer| peer.config.pair.endpoints.is_empty());
        for peer in roaming {
            let is_there = |lane: usize| {
                let context = self.context(lane, peer, now);
                let cell = peer.state.lanes[lane].lock();
                let here = cell.set.as_ref().and_then(|set| set.endpoint(&context));
                here.is_some_and(|here| here.ip() == endpoint.ip())
            };
            if (0..peer.lanes).any(is_there) {
                peer.lower_path_mtu(path_mtu);
            }
        }
    }
}

fn lane_status(set: Option<&SessionSet>, context: &Context<'_>) -> LaneStatus {
    let first = || Endpoint::default().current(&context.peer.config.pair, context.lane);
    let confirmed_key = set.and_then(|set| set.confirmed_key(context.now));
    LaneStatus {
        last_handshake: set
            .and_then(SessionSet::last_handshake)
            .map(|at| context.now.saturating_duration_since(at)),
        confirmed: confirmed_key.is_some(),
        confirmed_key,
        is_on_newer: set.is_some_and(|set| set.is_on_newer(context.lane, context.now)),
        handshaking: set.is_some_and(SessionSet::is_handshaking),
        endpoint: set.map_or_else(first, |set| set.endpoint(context)),
        sessions: set.map_or(0, SessionSet::members),
        queued: set.map_or(0, SessionSet::queued),
        traffic: set.map(|set| set.traffic).unwrap_or_default(),
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device")
            .field("lanes", &self.lanes.len())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(feature = "sim")))]
mod tests;
