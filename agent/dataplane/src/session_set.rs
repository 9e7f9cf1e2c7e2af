//! The session set of one lane of one peer: receive on any member, send on the one that was
//! confirmed last.
//!
//! Another key of the peer or of this node, another epoch of either is one more member. Members
//! that were replaced receive for [`REPLACED_LIFETIME`] more, so that nothing that is on its way is
//! lost, and send as long as none is confirmed after them: make before break.
//!
//! While keys change, either end may have two or three at once, and may know more or less of the
//! other's. Each end starts handshakes for the one identity that it wants, and answers those for
//! any that both have: so whoever is behind is met where it is.
//!
//! A member that is dropped takes with it the highest stamp that it has seen: the next one accepts
//! a copy of an old initiation. That costs one handshake and gives its sender nothing, since a
//! session counts only once it is confirmed. And a member stamps its initiations by the wall clock
//! of its own creation (see [`crate::own_epoch`]): when that has gone back, the peer refuses them
//! until the record tells a new epoch.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use podwire_core::key::PublicKey;
use podwire_core::mesh::EncryptedPair;

use crate::batch::UnderlayBatch;
use crate::counters::LaneCounters;
use crate::drop_reason::DropReason;
use crate::ecn::Ecn;
use crate::endpoint::Endpoint;
use crate::message::{DATA_OVERHEAD, INITIATION_LENGTH};
use crate::noise::{HANDSHAKE_ROOM, LaneKey, Received, Tunnel};
use crate::own_epoch::OwnEpoch;
use crate::own_keys::KeyRing;
use crate::packet_queue::{AllQueues, PacketQueue};
use crate::peer::Peer;
use crate::receiver_index::{Owner, ReceiverIndices, Slot};
use crate::status::Traffic;
use crate::timers::REJECT_AFTER_TIME;

mod handshake;
mod identity;
mod keys;
mod tick;

pub(crate) use handshake::Ends;
use identity::{Identity, PeerKeys};
pub(crate) use tick::Activity;

/// Members of a set at most. When both ends change their keys at once there are four identities,
/// and each may have a member that only receives beside its successor.
const MEMBERS_MAX: usize = 8;
/// Time for which a replaced member still receives: as long as a session lives.
const REPLACED_LIFETIME: Duration = REJECT_AFTER_TIME;
/// Unanswered initiations after which a lane above 0 leaves its flows to lane 0.
const LANE_ATTEMPTS: u32 = 2;

/// There is no room left in an output: flush it and call again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutputFull;

/// What a session set works with.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) now: Instant,
    /// The lane of both nodes.
    pub(crate) lane: usize,
    pub(crate) peer: &'a Peer,
    pub(crate) indices: &'a ReceiverIndices,
    pub(crate) own_epoch: &'a OwnEpoch,
    pub(crate) counters: &'a LaneCounters,
    pub(crate) queues: &'a AllQueues,
    /// Peers of this node: the mesh is as large.
    pub(crate) peers: u32,
    /// The peer cannot reach this node unless this node asks it first.
    pub(crate) keeps_open: bool,
}

/// One `Tunn` with its own slot.
struct Member {
    tunnel: Tunnel,
    identity: Identity,
    own_key: Arc<LaneKey>,
    slot: Slot,
    replaced: Option<Instant>,
    /// Replaced by keys that the peer has taken up without losing its sessions: nothing is lost
    /// while these last, so their successor waits for its turn or for their own rekey.
    is_unhurried: bool,
}

impl Member {
    /// The time at which a replaced member is dropped.
    fn is_over(&self, now: Instant) -> bool {
        self.replaced.is_some_and(|at| {
            now.saturating_duration_since(at) >= REPLACED_LIFETIME || !self.tunnel.has_session(now)
        })
    }
}

/// An initiation that is held back at random.
struct Pending {
    due: Instant,
    slot: Slot,
    message: [u8; INITIATION_LENGTH],
    attempt: u32,
}

/// A session of ours of which the peer may not know yet that we have it.
struct Confirmation {
    /// Our receiver index in it.
    receiver: u32,
    /// When it is confirmed again.
    due: Instant,
    /// The time after that.
    pause: Duration,
}

/// All sessions of one lane of one peer, and what waits for one.
pub(crate) struct SessionSet {
    version: u64,
    /// The own epoch that the members which are not replaced are of.
    own_epoch: u64,
    own: Arc<KeyRing>,
    theirs: PeerKeys,
    /// Whom handshakes are started for.
    wanted: Identity,
    /// When the wanted identity is asked for although there is a session of another; none before
    /// that is known.
    wanted_due: Option<Instant>,
    /// For how long it is not asked for again after it was confirmed.
    turn_after: Duration,
    /// Which of the identities is wanted that the peer may know: not the first while nobody answers
    /// to it.
    turn: usize,
    /// The own key by which the peer has shown to know this node.
    seen_on: Option<PublicKey>,
    /// Live sessions were closed since their keys are revoked.
    is_cut: bool,
    /// In the order in which they were confirmed last, or else made.
    members: Vec<Member>,
    queue: PacketQueue,
    endpoint: Endpoint,
    pub(crate) traffic: Traffic,
    /// On the list of its lane's thread.
    pub(crate) is_active: bool,
    is_requested: bool,
    /// The peer's initiation was left without an answer, since ours goes first.
    is_passed_over: bool,
    pending: Option<Box<Pending>>,
    /// Whose initiation of ours went out last, and when, until it is answered.
    asked: Option<(Slot, Instant)>,
    confirmation: Option<Confirmation>,
    /// When the peer's initiation was accepted that holds ours back: the first since we sent one or
    /// confirmed a session.
    accepted: Option<Instant>,
    confirmed: Option<Instant>,
    sent: Option<Instant>,
    /// When anything authentic came from the peer.
    heard: Option<Instant>,
    /// Handshakes of this lane came to nothing: when the next is tried. Its sessions, if any are
    /// left, are not trusted until one has succeeded.
    retry_at: Option<Instant>,
}

impl SessionSet {
    /// An empty set; none when the peer does not have the lane.
    pub(crate) fn new(context: &Context<'_>) -> Option<Self> {
        let theirs = PeerKeys::of(&context.peer.config.pair, context.lane)?;
        let (own, own_epoch) = (Arc::clone(&context.peer.own), context.own_epoch.number());
        let wanted = Identity {
            own: *own.lane(context.lane).base.public_key(),
            peer: theirs.choices()[0],
            epoch: theirs.epoch,
            own_epoch,
        };
        Some(Self {
            version: context.peer.version,
            own_epoch,
            own,
            theirs,
            wanted,
            wanted_due: None,
            turn_after: keys::TURN_AFTER,
            turn: 0,
            seen_on: None,
            is_cut: false,
            members: Vec::new(),
            queue: PacketQueue::new(context.queues),
            endpoint: Endpoint::default(),
            traffic: Traffic::default(),
            is_active: false,
            is_requested: false,
            is_passed_over: false,
            pending: None,
            asked: None,
            confirmation: None,
            accepted: None,
            confirmed: None,
            sent: None,
            heard: None,
            retry_at: None,
        })
    }

    /// There are other endpoints than `before`, or in another order. A peer that still is where it
    /// was is told by a handshake that this node has left that place.
    pub(crate) fn reset_endpoint(&mut self, before: &EncryptedPair, context: &Context<'_>) {
        let left = self.endpoint.current(before, context.lane);
        self.endpoint.reset();
        let after = &context.peer.config.pair;
        let is_named = |endpoint: SocketAddr| {
            let named = |other: &SocketAddr| other.ip() == endpoint.ip();
            after.endpoints.iter().any(named)
        };
        self.is_requested |= left != self.endpoint(context) && left.is_some_and(is_named);
    }

    /// Ends every session: the peer is gone, or this lane of it.
    pub(crate) fn close(&mut self, indices: &ReceiverIndices, now: Instant) {
        for member in self.members.drain(..) {
            indices.release(member.slot, now);
        }
    }

    /// Asks for a handshake at the next tick.
    pub(crate) fn request_handshake(&mut self) {
        self.is_requested = true;
    }

    /// Where data goes.
    pub(crate) fn endpoint(&self, context: &Context<'_>) -> Option<SocketAddr> {
        self.endpoint
            .current(&context.peer.config.pair, context.lane)
    }

    /// The member that packets are sent on.
    pub(crate) fn sender(&self, now: Instant) -> Option<usize> {
        self.members
            .iter()
            .rposition(|member| member.tunnel.is_confirmed(now))
    }

    /// The peer's key in the session that packets are sent on: an old one of it after a change,
    /// until the new one has completed a handshake.
    pub(crate) fn confirmed_key(&self, now: Instant) -> Option<PublicKey> {
        self.sender(now)
            .map(|index| self.members[index].identity.peer)
    }

    /// Whether this lane carries its own flows: lane 0 always does.
    pub(crate) fn is_usable(&self, context: &Context<'_>) -> bool {
        // A handshake for other keys that comes to nothing says nothing about sessions of now.
        let is_held = |index: &usize| self.members[*index].replaced.is_none();
        let sender = self.sender(context.now);
        let is_silent = sender
            .filter(is_held)
            .or_else(|| self.target())
            .and_then(|index| self.members[index].tunnel.flight())
            .is_some_and(|flight| flight.attempts >= LANE_ATTEMPTS);
        let is_trusted = !is_silent && self.retry_at.is_none();
        context.lane == 0 || (is_trusted && sender.is_some())
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        let mut members = self.members.iter();
        members.any(|member| member.replaced.is_none() && member.tunnel.flight().is_some())
    }

    pub(crate) fn members(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn last_handshake(&self) -> Option<Instant> {
        self.confirmed
    }

    /// The newest member of an identity that is not replaced: handshakes are its business.
    fn newest(&self, identity: &Identity) -> Option<usize> {
        self.members
            .iter()
            .rposition(|member| member.replaced.is_none() && member.identity == *identity)
    }

    /// The one that starts handshakes.
    fn target(&self) -> Option<usize> {
        self.newest(&self.wanted)
    }

    fn member(&self, receiver: u32) -> Option<usize> {
        let slot = Slot::of(receiver);
        self.members.iter().position(|member| member.slot == slot)
    }

    fn remove(&mut self, index: usize, context: &Context<'_>) {
        let member = self.members.remove(index);
        context.indices.release(member.slot, context.now);
    }

    /// A member for an identity of the present epochs, which is not yet one of the set. None when
    /// the own key is not named any more.
    fn new_member(&self, identity: Identity, context: &Context<'_>) -> Option<Member> {
        let owner = Owner {
            peer: context.peer.state.ordinal,
            lane: context.lane,
        };
        let own_key = Arc::clone(self.own.lane(context.lane).find(&identity.own)?);
        let slot = context.indices.take(owner, context.now)?;
        let tunnel = Tunnel::new(&own_key, &identity.peer, slot.index(), context.now);
        Some(Member {
            tunnel,
            identity,
            own_key,
            slot,
            replaced: None,
            is_unhurried: false,
        })
    }

    /// Takes a new member into the set; what it takes the place of only receives from now on once
    /// it is confirmed.
    fn admit(&mut self, member: Member, context: &Context<'_>) -> usize {
        if self.members.len() >= MEMBERS_MAX {
            let sender = self.sender(context.now);
            let others = (0..self.members.len()).filter(|index| Some(*index) != sender);
            // Whoever has copies of old initiations can have members made that nobody confirms:
            // they do not displace those by which the peer may still send.
            let worth = |index: &usize| {
                let member = &self.members[*index];
                let is_confirmed = member.tunnel.is_confirmed(context.now);
                (is_confirmed, member.replaced.is_none())
            };
            if let Some(victim) = others.min_by_key(worth) {
                self.remove(victim, context);
            }
        }
        self.members.push(member);
        self.members.len() - 1
    }

    /// Decrypts a transport message into `output`, which is at least as long.
    pub(crate) fn receive(
        &mut self,
        context: &Context<'_>,
        message: &[u8],
        receiver: u32,
        source: SocketAddr,
        output: &mut [u8],
    ) -> Result<Received, DropReason> {
        let index = self.member(receiver).ok_or(DropReason::UnknownIndex)?;
        let tunnel = &mut self.members[index].tunnel;
        let before = tunnel.current();
        let received = tunnel.receive(context.now, message, receiver, output)?;
        let is_switched = tunnel.current() != before;
        self.heard = Some(context.now);
        self.confirmation
            .take_if(|confirmation| confirmation.receiver == receiver);
        self.endpoint.heard_from(&context.peer.config.pair, source);
        if is_switched {
            self.confirm(index, true, context, source);
        }
        Ok(received)
    }

    /// Encrypts a padded packet on member `sender` to the front of `output`, which has room.
    pub(crate) fn send(
        &mut self,
        now: Instant,
        sender: usize,
        padded: &[u8],
        output: &mut [u8],
    ) -> Option<usize> {
        self.sent = Some(now);
        self.members
            .get_mut(sender)?
            .tunnel
            .send(now, padded, output)
    }

    /// Lets a packet wait for a session.
    pub(crate) fn enqueue(&mut self, context: &Context<'_>, packet: &[u8]) {
        let dropped = self.queue.push(context.now, packet);
        self.traffic.drops += dropped;
        context.counters.drop_many(DropReason::QueueFull, dropped);
    }

    /// Sends what waited for a session, if there is one now.
    pub(crate) fn flush(
        &mut self,
        context: &Context<'_>,
        send: &mut UnderlayBatch,
    ) -> Result<(), OutputFull> {
        if self.queue.is_empty() {
            return Ok(());
        }
        let (Some(sender), Some(endpoint)) = (self.sender(context.now), self.endpoint(context))
        else {
            return Ok(());
        };
        self.sent = Some(context.now);
        while let Some((padded, length)) = self.queue.front() {
            if !send.has_room((padded.len() + DATA_OVERHEAD).max(HANDSHAKE_ROOM)) {
                return Err(OutputFull);
            }
            let ecn = Ecn::of(padded);
            let tunnel = &mut self.members[sender].tunnel;
            let Some(sent) = tunnel.send(context.now, padded, send.room()) else {
                break;
            };
            send.append(context.lane, endpoint, ecn, sent);
            self.traffic.sent_packets += 1;
            self.traffic.sent_bytes += length as u64;
            self.queue.pop();
        }
        Ok(())
    }
}

impl fmt::Debug for SessionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.members.len();
        f.debug_struct("SessionSet")
            .field("members", &members)
            .finish_non_exhaustive()
    }
}
