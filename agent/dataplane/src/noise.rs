//! The protocol engine: boringtun's `Tunn`, named in this file only.
//!
//! A [`Tunnel`] is one `Tunn` and a mirror of what a `Tunn` knows but does not tell: which of its
//! sessions it sends on, whether that one is confirmed, and when its clock last moved. The mirror
//! is what lets the callers keep boringtun's edges away:
//!
//! - it never sees a packet without a session (its own queue drops the youngest, and flushing it
//!   makes both ends start over);
//! - its ring of eight sessions never loses the live one to initiations that nobody confirms;
//! - it is never ticked into expiry, which it reports as an error;
//! - it does not start a handshake just because a sparse packet is not answered within one tick.
//!
//! Two of its properties cannot be changed from outside:
//! - [`REPLAY_WINDOW`], an eighth of the kernel's;
//! - it counts no messages. REKEY_AFTER_MESSAGES (2^60) and REJECT_AFTER_MESSAGES are out of reach
//!   of a session that lives 180 s: see the assertion beside [`REJECT_AFTER_TIME`].

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use podwire_core::key::{PrivateKey, PublicKey};

use crate::drop_reason::DropReason;
use crate::message::{DATA_OVERHEAD, INITIATION_LENGTH, RESPONSE_LENGTH, sender_index};
use crate::stamp_clock::StampClock;
use crate::timers::{
    CLOCK_DRIFT_MAX, KEEPALIVE_TIMEOUT, LIFETIME, REJECT_AFTER_TIME, REKEY_AFTER_TIME,
    REKEY_TIMEOUT, REUSE_UNTIL,
};

mod flight;
mod outcome;

pub(crate) use flight::Flight;
pub(crate) use outcome::{Accepted, CookieCheck, Due, Received};

/// How many packets a datagram may arrive late in a session before boringtun takes it for a replay.
/// The kernel has 8,192. A lane is one thread on both ends, so its packets are reordered by the
/// underlay only; a path that reorders by more than this loses the late ones, counted as
/// `replayed`.
pub const REPLAY_WINDOW: u64 = 1024;

/// Sessions in boringtun's ring; the low bits of an index pick the place.
const RING: usize = 8;

/// Bytes that an output must have room for before any handshake call: the longest that comes back.
pub(crate) const HANDSHAKE_ROOM: usize = INITIATION_LENGTH;

/// The static key of one own lane, and the checks that need nothing else.
pub(crate) struct LaneKey {
    private: PrivateKey,
    public: PublicKey,
    /// Checks mac1 only. Every `Tunn` shares it: with its own limiter each handshake would be
    /// counted twice, here and there, and at most ten a second would be answered.
    mac1: Arc<RateLimiter>,
    /// Wants a cookie from everybody.
    cookies: RateLimiter,
}

impl LaneKey {
    pub(crate) fn new(private: PrivateKey) -> Self {
        let public = private.public_key();
        let dalek = boringtun::x25519::PublicKey::from(*public.as_bytes());
        let mac1 = Arc::new(RateLimiter::new(&dalek, u64::MAX));
        Self {
            private,
            public,
            mac1,
            cookies: RateLimiter::new(&dalek, 0),
        }
    }

    pub(crate) fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Whether a handshake message was made for this key.
    pub(crate) fn verify_mac1(&self, message: &[u8]) -> bool {
        self.mac1.verify_packet(None, message, &mut []).is_ok()
    }

    /// Checks the cookie of a handshake message whose mac1 is valid. boringtun binds cookies to the
    /// source address alone, not to the port.
    pub(crate) fn check_cookie(
        &self,
        source: IpAddr,
        message: &[u8],
        reply: &mut [u8],
    ) -> Result<CookieCheck, DropReason> {
        match self.cookies.verify_packet(Some(source), message, reply) {
            Ok(_) => Ok(CookieCheck::Valid),
            Err(TunnResult::WriteToNetwork(reply)) => Ok(CookieCheck::Reply(reply.len())),
            Err(_) => Err(DropReason::BadMac),
        }
    }

    /// The static key of the initiation's sender. One Diffie-Hellman: only after mac1 and the
    /// limit.
    pub(crate) fn initiator(&self, initiation: &[u8]) -> Result<PublicKey, DropReason> {
        let Ok(Packet::HandshakeInit(packet)) = Tunn::parse_incoming_packet(initiation) else {
            return Err(DropReason::MalformedMessage);
        };
        let public = boringtun::x25519::PublicKey::from(*self.public.as_bytes());
        let half = parse_handshake_anon(&self.private.secret(), &public, &packet)
            .map_err(|_| DropReason::HandshakeRejected)?;
        PublicKey::from_bytes(half.peer_static_public).map_err(|_| DropReason::HandshakeRejected)
    }
}

/// One session in the ring.
#[derive(Clone, Copy)]
struct Session {
    /// Our full receiver index.
    index: u32,
    /// The `Tunn`'s clock when it was made.
    created: Instant,
}

/// One `Tunn` with the mirror of its state.
pub(crate) struct Tunnel {
    tunn: Box<Tunn>,
    ring: [Option<Session>; RING],
    /// Index of the session that boringtun sends on, if its place in the ring still holds it.
    current: u32,
    /// The last index that boringtun gave to a session or an initiation.
    last_index: u32,
    flight: Option<Flight>,
    /// The session of the last initiation that was accepted, until the peer uses it.
    unproved: Option<u32>,
    /// The `Tunn`'s clock: it moves at ticks only.
    clock: Instant,
    /// The `Tunn`'s clock when it last heard anything.
    heard: Instant,
    /// When the first data was sent that nothing has answered yet.
    unanswered_since: Option<Instant>,
    /// When its newest session was made, or the `Tunn` itself.
    renewed: Instant,
    pub(crate) stamp_clock: StampClock,
}

impl Tunnel {
    /// A tunnel of `key` to `peer`; `index` is our 24-bit part of its receiver indices.
    pub(crate) fn new(key: &LaneKey, peer: &PublicKey, index: u32, now: Instant) -> Self {
        let (private, mac1) = (key.private.secret(), Some(Arc::clone(&key.mac1)));
        let public = boringtun::x25519::PublicKey::from(*peer.as_bytes());
        let make = || Tunn::new(private, public, None, None, index, mac1);
        #[cfg(not(feature = "sim"))]
        let tunn = make();
        #[cfg(feature = "sim")]
        let tunn = crate::simulated_clock::at_the_origin(make, |tunn| {
            let _ = tunn.update_timers(&mut [0; HANDSHAKE_ROOM]);
        });
        Self {
            tunn: Box::new(tunn),
            stamp_clock: StampClock::new(now),
            ring: [None; RING],
            current: 0,
            last_index: index << 8,
            flight: None,
            unproved: None,
            clock: now,
            heard: now,
            unanswered_since: None,
            renewed: now,
        }
    }

    fn session(&self, index: u32) -> Option<&Session> {
        self.ring[index as usize % RING]
            .as_ref()
            .filter(|session| session.index == index)
    }

    /// The session that packets are sent on.
    fn sending(&self, now: Instant) -> Option<&Session> {
        self.session(self.current)
            .filter(|s| now.saturating_duration_since(s.created) < LIFETIME)
    }

    /// Whether packets can be sent: a session exists that the peer is known to have too.
    pub(crate) fn is_confirmed(&self, now: Instant) -> bool {
        // boringtun is asked too: its clock also runs while the machine sleeps, ours does not.
        self.sending(now).is_some() && self.tunn.time_since_last_handshake().is_some()
    }

    /// When the session that packets are sent on was made.
    pub(crate) fn confirmed_at(&self, now: Instant) -> Option<Instant> {
        self.sending(now).map(|session| session.created)
    }

    /// The handshake of ours that waits for its response.
    pub(crate) fn flight(&self) -> Option<Flight> {
        self.flight
    }

    /// Whether any session could still receive.
    pub(crate) fn has_session(&self, now: Instant) -> bool {
        self.ring
            .iter()
            .flatten()
            .any(|s| now.saturating_duration_since(s.created) < REJECT_AFTER_TIME)
    }

    /// Whether an initiation may be handed to it. Not when the session of that handshake, which the
    /// peer may never confirm, would push the live one out of boringtun's ring; nor when its timers
    /// are too old to start anew.
    pub(crate) fn can_accept(&self, now: Instant) -> bool {
        let next = self.last_index.wrapping_add(1);
        let is_crowded =
            next as usize % RING == self.current as usize % RING && self.sending(now).is_some();
        !is_crowded && (self.has_session(now) || self.is_reusable(now))
    }

    /// The index of the session that is sent on, once there is one.
    pub(crate) fn current(&self) -> u32 {
        self.current
    }

    /// Whether another handshake may be started: boringtun would not expire in the midst of it.
    pub(crate) fn is_reusable(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.renewed) < REUSE_UNTIL
    }

    /// Moves boringtun's clock and returns what it asks for.
    fn update(&mut self, now: Instant, output: &mut [u8]) -> Option<Due> {
        let result = self.tunn.update_timers(output);
        self.clock = now;
        for place in &mut self.ring {
            *place =
                place.filter(|s| now.saturating_duration_since(s.created) <= REJECT_AFTER_TIME);
        }
        match result {
            TunnResult::WriteToNetwork(message) if message[0] == 1 => {
                self.depart(sender_index(message), now);
                Some(Due::Initiation)
            }
            TunnResult::WriteToNetwork(message) => Some(Due::Keepalive(message.len())),
            TunnResult::Err(_) => {
                // Expired: it has dropped its sessions and answers every tick so until it is used.
                self.ring = [None; RING];
                self.flight = None;
                None
            }
            TunnResult::Done
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => None,
        }
    }

    /// Lets time pass. To be called every 250 ms while there is a session or a handshake in flight.
    pub(crate) fn tick(&mut self, now: Instant, output: &mut [u8]) -> Option<Due> {
        if self.is_held(now) {
            None
        } else {
            self.update(now, output)
        }
    }

    /// Whether a tick would start a handshake only because a packet that was just sent is not
    /// answered yet.
    ///
    //= WireGuard §6.5
    /// "If a packet has been sent but none received for KEEPALIVE_TIMEOUT + REKEY_TIMEOUT,
    /// initiate": boringtun counts from the last packet received, so that after a silence of 15 s
    /// the first packet sent starts a handshake at the next tick. Its clock is held until the
    /// answer or until 15 s after that packet. The session is young enough that nothing else is due
    /// before.
    fn is_held(&self, now: Instant) -> bool {
        let patience = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT;
        let is_young = self.sending(now).is_some_and(|session| {
            now.saturating_duration_since(session.created) + patience < REKEY_AFTER_TIME
        });
        self.flight.is_none()
            && is_young
            && now.saturating_duration_since(self.heard) >= patience
            && self
                .unanswered_since
                .is_some_and(|since| now.saturating_duration_since(since) < patience)
    }

    /// Makes an initiation at the front of `output` ([`HANDSHAKE_ROOM`]), unless one is in flight.
    pub(crate) fn initiate(&mut self, now: Instant, output: &mut [u8]) -> bool {
        if self.flight.is_some() {
            return false;
        }
        matches!(self.update(now, output), Some(Due::Initiation)) || self.repeat(now, output)
    }

    /// Makes the next initiation of a handshake that another tunnel has begun.
    pub(crate) fn take_over(&mut self, flight: Flight, now: Instant, output: &mut [u8]) -> bool {
        self.flight = Some(flight.handed_over());
        matches!(self.update(now, output), Some(Due::Initiation)) || self.repeat(now, output)
    }

    /// Makes one more initiation of the handshake in flight, before its retry is due.
    pub(crate) fn repeat(&mut self, now: Instant, output: &mut [u8]) -> bool {
        let Ok(initiation) = message(self.tunn.format_handshake_initiation(output, true)) else {
            return false;
        };
        self.depart(sender_index(initiation), now);
        true
    }

    /// An initiation with this index is on its way.
    fn depart(&mut self, index: u32, now: Instant) {
        self.last_index = index;
        match &mut self.flight {
            Some(flight) => flight.repeat(now),
            None => self.flight = Some(Flight::begin(now)),
        }
    }

    /// Answers an initiation.
    pub(crate) fn accept_initiation(
        &mut self,
        now: Instant,
        initiation: &[u8],
        output: &mut [u8],
    ) -> Result<Accepted, DropReason> {
        if now.saturating_duration_since(self.clock) > CLOCK_DRIFT_MAX {
            // Its clock stood still while it was idle: the new session would be born old. What it
            // asks for in this moment is what the peer's initiation brings.
            self.update(now, output);
        }
        let output = &mut output[..RESPONSE_LENGTH];
        let result = self.tunn.decapsulate(None, initiation, output);
        // boringtun looks at the stamp last, so this one is authentic.
        let is_stale = matches!(
            result,
            TunnResult::Err(WireGuardError::WrongTai64nTimestamp)
        );
        if is_stale && self.unproved.is_some() {
            return Ok(Accepted::ShutOut);
        }
        let response = message(result)?;
        let (index, length) = (sender_index(response), response.len());
        self.last_index = index;
        self.add_session(index, now);
        // boringtun retries its own initiation no more, though it still takes a response to it.
        self.flight = None;
        self.unproved = Some(index);
        Ok(Accepted::Response(length))
    }

    /// Completes a handshake of ours; the keepalive of the returned length, which confirms the
    /// session to the peer, is at the front of `output`.
    pub(crate) fn receive_response(
        &mut self,
        now: Instant,
        response: &[u8],
        receiver: u32,
        output: &mut [u8],
    ) -> Result<usize, DropReason> {
        let output = &mut output[..DATA_OVERHEAD];
        let length = message(self.tunn.decapsulate(None, response, output))?.len();
        self.add_session(receiver, now);
        self.make_current(receiver);
        self.unanswered_since = None;
        // The response to the attempt before the last leaves the last one in flight.
        if receiver == self.last_index {
            self.flight = None;
        }
        Ok(length)
    }

    /// Keeps the cookie for the next initiation. It says nothing about who sent it, yet boringtun
    /// takes it for a sign of life: it counts only while an initiation of ours waits for an answer.
    pub(crate) fn receive_cookie_reply(&mut self, reply: &[u8]) -> Result<(), DropReason> {
        if self.flight.is_none() {
            return Err(DropReason::HandshakeRejected);
        }
        match self.tunn.decapsulate(None, reply, &mut []) {
            TunnResult::Done => {
                self.heard = self.clock;
                Ok(())
            }
            TunnResult::Err(error) => Err(handshake_reason(&error)),
            TunnResult::WriteToNetwork(_)
            | TunnResult::WriteToTunnelV4(..)
            | TunnResult::WriteToTunnelV6(..) => Err(DropReason::HandshakeRejected),
        }
    }

    /// Encrypts a packet (padded by the caller) or, when empty, a keepalive into `output`, which
    /// has room for it, [`DATA_OVERHEAD`] and [`HANDSHAKE_ROOM`]. Only while
    /// [`Self::is_confirmed`].
    pub(crate) fn send(&mut self, now: Instant, packet: &[u8], output: &mut [u8]) -> Option<usize> {
        if output.len() < (packet.len() + DATA_OVERHEAD).max(HANDSHAKE_ROOM) {
            return None;
        }
        let sent = message(self.tunn.encapsulate(packet, output)).ok()?;
        if sent[0] != 4 {
            // No session after all: boringtun has kept the packet and made an initiation. The
            // mirror follows; boringtun's own queue is never flushed, and the initiation is
            // retried.
            self.ring = [None; RING];
            self.depart(sender_index(sent), now);
            return None;
        }
        // Within one tick boringtun does not tell what came first, and waits for no answer.
        if !packet.is_empty() && self.clock > self.heard {
            self.unanswered_since.get_or_insert(now);
        }
        Some(sent.len())
    }

    /// Decrypts a transport message into `output`, which is at least as long as the message.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        message: &[u8],
        receiver: u32,
        output: &mut [u8],
    ) -> Result<Received, DropReason> {
        let session = self.session(receiver).ok_or(DropReason::UnknownIndex)?;
        if now.saturating_duration_since(session.created) >= REJECT_AFTER_TIME {
            return Err(DropReason::SessionExpired);
        }
        if output.len() < message.len() {
            return Err(DropReason::OutputFull);
        }
        let received = match self.tunn.decapsulate(None, message, output) {
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Received::Packet(packet.len())
            }
            TunnResult::Done => Received::Keepalive,
            // The message was parsed before, so this is about what was inside.
            TunnResult::Err(WireGuardError::InvalidPacket) => Received::Malformed,
            TunnResult::Err(error) => return Err(data_reason(&error)),
            TunnResult::WriteToNetwork(_) => return Err(DropReason::MalformedMessage),
        };
        self.heard = self.clock;
        self.unanswered_since = None;
        self.unproved.take_if(|index| *index == receiver);
        self.make_current(receiver);
        Ok(received)
    }

    fn add_session(&mut self, index: u32, now: Instant) {
        self.ring[index as usize % RING] = Some(Session {
            index,
            created: self.clock,
        });
        self.heard = self.clock;
        self.renewed = now;
    }

    /// boringtun's rule: a session that was just used is sent on, unless it is older.
    fn make_current(&mut self, index: u32) {
        let place = |index: u32| self.ring[index as usize % RING];
        let is_newer = match (place(self.current), place(index)) {
            (Some(current), Some(new)) => new.created >= current.created,
            (None, _) | (_, None) => true,
        };
        if is_newer {
            self.current = index;
        }
    }
}

/// The message that a handshake call has made.
fn message(result: TunnResult<'_>) -> Result<&mut [u8], DropReason> {
    match result {
        TunnResult::WriteToNetwork(message) => Ok(message),
        TunnResult::Err(error) => Err(handshake_reason(&error)),
        TunnResult::Done | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => {
            Err(DropReason::HandshakeRejected)
        }
    }
}

fn handshake_reason(error: &WireGuardError) -> DropReason {
    if matches!(error, WireGuardError::InvalidMac) {
        DropReason::BadMac
    } else {
        DropReason::HandshakeRejected
    }
}

fn data_reason(error: &WireGuardError) -> DropReason {
    use WireGuardError::{DuplicateCounter, InvalidCounter, NoCurrentSession, WrongIndex};
    if matches!(error, InvalidCounter | DuplicateCounter) {
        DropReason::Replayed
    } else if matches!(error, WrongIndex | NoCurrentSession) {
        DropReason::UnknownIndex
    } else {
        DropReason::DecryptFailed
    }
}
