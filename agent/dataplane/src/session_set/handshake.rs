//! Handshakes of a session set: ours, the peer's, and both at once.

use std::net::SocketAddr;
use std::time::Duration;

use podwire_core::key::PublicKey;

use super::{Confirmation, Context, Identity, Member, OutputFull, Pending, SessionSet, Slot};
use crate::batch::UnderlayBatch;
use crate::drop_reason::DropReason;
use crate::endpoint::Endpoint;
use crate::message::INITIATION_LENGTH;
use crate::noise::{Accepted, Flight, HANDSHAKE_ROOM};
use crate::timers::REKEY_TIMEOUT;

/// Time in which an answer comes if at all, and initiations of both ends count as crossing: several
/// round trips of any underlay.
const CROSSING_WINDOW: Duration = Duration::from_secs(1);

/// Time after which a session that nothing came back on is confirmed again: a few round trips. Each
/// further time is twice as long; after the last, 3.5 s in all, the next handshake has to do it.
const CONFIRM_AGAIN_AFTER: Duration = Duration::from_millis(500);
const CONFIRM_AGAIN_PAUSE_MAX: Duration = Duration::from_secs(2);

/// The static keys of an initiation.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) own: PublicKey,
    pub(crate) peer: PublicKey,
}

impl SessionSet {
    /// The member that starts a handshake.
    fn initiator(&mut self, context: &Context<'_>) -> Option<usize> {
        if let Some(index) = self.target() {
            let member = &mut self.members[index];
            if member.tunnel.is_reusable(context.now) || member.tunnel.flight().is_some() {
                return Some(index);
            }
            member.replaced = Some(context.now);
        }
        let member = self.new_member(self.wanted, context)?;
        Some(self.admit(member, context))
    }

    /// Starts a handshake, unless one is on its way in either direction. `delay` holds it back.
    pub(crate) fn initiate(
        &mut self,
        context: &Context<'_>,
        send: &mut UnderlayBatch,
        delay: Option<Duration>,
    ) -> Result<(), OutputFull> {
        let since_accepted = self
            .accepted
            .map(|at| context.now.saturating_duration_since(at));
        if self.pending.is_some()
            || since_accepted.is_some_and(|since| since < REKEY_TIMEOUT)
            || self.retry_at.is_some_and(|at| context.now < at)
            || self.endpoint(context).is_none()
        {
            return Ok(());
        }
        if !send.has_room(HANDSHAKE_ROOM) {
            return Err(OutputFull);
        }
        let Some(index) = self.initiator(context) else {
            return Ok(());
        };
        if self.members[index]
            .tunnel
            .initiate(context.now, send.room())
        {
            self.is_passed_over = false;
            self.post_initiation(index, context, send, delay);
        }
        Ok(())
    }

    /// Goes on with a handshake for the identity that is wanted now. The output has
    /// [`HANDSHAKE_ROOM`].
    pub(super) fn take_over(
        &mut self,
        flight: Flight,
        context: &Context<'_>,
        send: &mut UnderlayBatch,
        delay: Duration,
    ) {
        let Some(index) = self.initiator(context) else {
            return;
        };
        let tunnel = &mut self.members[index].tunnel;
        if tunnel.take_over(flight, context.now, send.room()) {
            self.post_initiation(index, context, send, Some(delay));
        }
    }

    /// Sends the initiation at the front of the output's room, or holds it back.
    pub(super) fn post_initiation(
        &mut self,
        index: usize,
        context: &Context<'_>,
        send: &mut UnderlayBatch,
        delay: Option<Duration>,
    ) {
        self.accepted = None;
        let member = &self.members[index];
        let stamp = member.tunnel.stamp_clock.stamp(context.now);
        context.own_epoch.note(self.own_epoch, stamp);
        let attempt = member.tunnel.flight().map_or(1, |flight| flight.attempts);
        let Some(delay) = delay else {
            self.send_initiation(member.slot, attempt, context, send);
            return;
        };
        let mut message = [0; INITIATION_LENGTH];
        message.copy_from_slice(&send.room()[..INITIATION_LENGTH]);
        let due = context.now + delay;
        self.pending = Some(Box::new(Pending {
            due,
            slot: member.slot,
            message,
            attempt,
        }));
    }

    pub(super) fn send_initiation(
        &mut self,
        slot: Slot,
        attempt: u32,
        context: &Context<'_>,
        send: &mut UnderlayBatch,
    ) {
        let pair = &context.peer.config.pair;
        if let Some(endpoint) = self.endpoint.for_attempt(pair, context.lane, attempt) {
            send.commit_front(context.lane, endpoint, INITIATION_LENGTH);
            context.counters.initiations_sent();
            self.asked = Some((slot, context.now));
        }
    }

    /// Whether the answer to an initiation of member `index` may still come, and the peer's own was
    /// accepted meanwhile. boringtun holds ours behind one of the peer's but not behind two, and
    /// anybody can send copies.
    fn is_waiting_behind_theirs(&self, index: usize, context: &Context<'_>) -> bool {
        let slot = self.members[index].slot;
        let is_held = self.pending.as_ref().is_some_and(|held| held.slot == slot);
        let is_under_way = self.asked.is_some_and(|(asked, at)| {
            asked == slot && context.now.saturating_duration_since(at) < CROSSING_WINDOW
        });
        self.accepted.is_some() && (is_held || is_under_way)
    }

    /// Whether our own first initiation is on its way and goes before the peer's: of two that
    /// cross, the lower public key's counts. A retry never does, so that neither can shut the other
    /// out; nor does one by a key that the peer may not know yet, since it was seen on another.
    fn is_crossed(&self, index: usize, context: &Context<'_>) -> bool {
        let Member {
            tunnel, identity, ..
        } = &self.members[index];
        self.pending.is_none()
            && *identity == self.wanted
            && identity.own < identity.peer
            && self.seen_on.is_none_or(|seen_on| seen_on == identity.own)
            && tunnel.flight().is_some_and(|flight| {
                flight.attempts == 1
                    && context.now.saturating_duration_since(flight.started) < CROSSING_WINDOW
            })
    }

    /// Makes another initiation before the next retry is due.
    ///
    /// One is for a peer whose own was passed over for our first and that has not answered: ours
    /// was lost, as when the peer had not quite started yet. The other is for a peer that has not
    /// answered a retry, and has another endpoint.
    pub(super) fn repeat_soon(
        &mut self,
        context: &Context<'_>,
        send: &mut UnderlayBatch,
    ) -> Result<(), OutputFull> {
        let pair = &context.peer.config.pair;
        let is_due = |index: &usize| {
            let flight = self.members[*index].tunnel.flight();
            flight.is_some_and(|flight| {
                let is_crossed = flight.attempts == 1 && self.is_passed_over;
                (is_crossed || Endpoint::is_soon_tried_elsewhere(pair, flight.attempts))
                    && context.now.saturating_duration_since(flight.latest) >= CROSSING_WINDOW
            })
        };
        let Some(index) = self.target().filter(is_due) else {
            return Ok(());
        };
        if self.pending.is_some() {
            return Ok(());
        }
        if !send.has_room(HANDSHAKE_ROOM) {
            return Err(OutputFull);
        }
        self.is_passed_over = false;
        if self.members[index].tunnel.repeat(context.now, send.room()) {
            self.post_initiation(index, context, send, None);
        }
        Ok(())
    }

    /// Answers the peer's initiation to where it came from. That says nothing about where the peer
    /// is: anybody can send a copy of it. So it holds ours back for a while, since theirs may be
    /// enough, but the next one does not do so again. The output has [`HANDSHAKE_ROOM`].
    pub(crate) fn accept_initiation(
        &mut self,
        context: &Context<'_>,
        ends: Ends,
        initiation: &[u8],
        source: SocketAddr,
        send: &mut UnderlayBatch,
    ) -> Result<(), DropReason> {
        let identity = self.answered(ends, context.lane)?;
        let target = self.newest(&identity);
        if target.is_some_and(|index| self.is_crossed(index, context)) {
            self.is_passed_over = true;
            return Err(DropReason::HandshakeCrossed);
        }
        let able = target.filter(|index| self.members[*index].tunnel.can_accept(context.now));
        let (index, length) = match able {
            Some(index) if self.is_waiting_behind_theirs(index, context) => {
                return Err(DropReason::HandshakeCrossed);
            }
            Some(index) => {
                let tunnel = &mut self.members[index].tunnel;
                match tunnel.accept_initiation(context.now, initiation, send.room())? {
                    Accepted::Response(length) => (index, length),
                    Accepted::ShutOut => {
                        if identity == self.wanted {
                            self.ask_back(context);
                        }
                        return Err(DropReason::HandshakeRejected);
                    }
                }
            }
            None => self.accept_anew(identity, context, initiation, send)?,
        };
        send.commit_front(context.lane, source, length);
        context.counters.responses_sent();
        if self.accepted.is_none() {
            self.accepted = Some(context.now);
            let slot = self.members[index].slot;
            if let Some(pending) = self.pending.as_mut().filter(|held| held.slot == slot) {
                pending.due = pending.due.max(context.now + CROSSING_WINDOW);
            }
        }
        Ok(())
    }

    /// The identity of an initiation between these keys. The table by which they were found may be
    /// older than what is followed: a key that was given up since is not answered by.
    fn answered(&self, ends: Ends, lane: usize) -> Result<Identity, DropReason> {
        let identity = Identity {
            own: ends.own,
            peer: ends.peer,
            epoch: self.theirs.epoch,
            own_epoch: self.own_epoch,
        };
        if self.own.lane(lane).find(&ends.own).is_none() {
            return Err(DropReason::BadMac);
        }
        let is_known = self.theirs.names(&ends.peer);
        is_known.then_some(identity).ok_or(DropReason::UnknownPeer)
    }

    /// Answers an initiation on a member of its own, which is made for good only when the
    /// initiation has turned out to be the peer's: whoever knows the two public keys can name the
    /// peer in one.
    fn accept_anew(
        &mut self,
        identity: Identity,
        context: &Context<'_>,
        initiation: &[u8],
        send: &mut UnderlayBatch,
    ) -> Result<(usize, usize), DropReason> {
        let mut member = self
            .new_member(identity, context)
            .ok_or(DropReason::HandshakeRejected)?;
        let accepted = member
            .tunnel
            .accept_initiation(context.now, initiation, send.room());
        let refusal = match accepted {
            Ok(Accepted::Response(length)) => return Ok((self.admit(member, context), length)),
            Ok(Accepted::ShutOut) => DropReason::HandshakeRejected,
            Err(reason) => reason,
        };
        context.indices.release(member.slot, context.now);
        Err(refusal)
    }

    /// The peer asks, but its clock went back and somebody has shown us a recording of before,
    /// which stands in its way. Nothing stands in the way of our asking it, at most as often as a
    /// handshake is retried. That gives whoever copies an old initiation no more than the answer to
    /// a new one would.
    fn ask_back(&mut self, context: &Context<'_>) {
        let is_rested = |at| context.now.saturating_duration_since(at) >= REKEY_TIMEOUT;
        self.is_requested |= self.confirmed.is_none_or(is_rested);
    }

    /// Completes a handshake of ours. The output has [`HANDSHAKE_ROOM`].
    pub(crate) fn receive_response(
        &mut self,
        context: &Context<'_>,
        response: &[u8],
        receiver: u32,
        source: SocketAddr,
        send: &mut UnderlayBatch,
    ) -> Result<(), DropReason> {
        let index = self.member(receiver).ok_or(DropReason::UnknownIndex)?;
        let member = &mut self.members[index];
        if !member.own_key.verify_mac1(response) {
            return Err(DropReason::BadMac);
        }
        let tunnel = &mut member.tunnel;
        let length = tunnel.receive_response(context.now, response, receiver, send.room())?;
        context.counters.responses_received();
        self.asked = None;
        self.heard = Some(context.now);
        self.endpoint.heard_from(&context.peer.config.pair, source);
        self.confirm(index, false, context, source);
        self.confirmation = Some(Confirmation {
            receiver,
            due: context.now + CONFIRM_AGAIN_AFTER,
            pause: CONFIRM_AGAIN_AFTER,
        });
        if let Some(endpoint) = self.endpoint(context) {
            send.commit_front(context.lane, endpoint, length);
        }
        Ok(())
    }

    /// Sends the keepalive that confirms a session once more when nothing came back on it.
    ///
    /// The first may be lost. Then the peer goes on with the session that it had before, and where
    /// this end has lost that one, all of it is for nobody until the peer misses an answer, after
    /// 15 s.
    pub(super) fn confirm_again(
        &mut self,
        context: &Context<'_>,
        send: &mut UnderlayBatch,
    ) -> Result<(), OutputFull> {
        let due = self.confirmation.as_ref().map(|c| (c.due, c.receiver));
        let Some((_, receiver)) = due.filter(|(due, _)| *due <= context.now) else {
            return Ok(());
        };
        if !send.has_room(HANDSHAKE_ROOM) {
            return Err(OutputFull);
        }
        self.confirmation = self.confirmation.take().and_then(|last| {
            let pause = last.pause * 2;
            let due = context.now + pause;
            (pause <= CONFIRM_AGAIN_PAUSE_MAX).then_some(Confirmation { due, pause, ..last })
        });
        let endpoint = self.endpoint(context);
        let newest = self
            .sender(context.now)
            .map(|index| &mut self.members[index].tunnel);
        if let (Some(endpoint), Some(tunnel)) = (endpoint, newest)
            && tunnel.current() == receiver
            && let Some(length) = tunnel.send(context.now, &[], send.room())
        {
            send.commit_front(context.lane, endpoint, length);
        }
        Ok(())
    }

    pub(crate) fn receive_cookie_reply(
        &mut self,
        context: &Context<'_>,
        reply: &[u8],
        receiver: u32,
    ) -> Result<(), DropReason> {
        let index = self.member(receiver).ok_or(DropReason::UnknownIndex)?;
        self.members[index].tunnel.receive_cookie_reply(reply)?;
        context.counters.cookie_replies_received();
        Ok(())
    }

    /// A session of member `index` is confirmed by a message from `source`, after the peer has
    /// asked for it or answered. The member becomes the last.
    pub(super) fn confirm(
        &mut self,
        index: usize,
        is_asked: bool,
        context: &Context<'_>,
        source: SocketAddr,
    ) {
        let pair = &context.peer.config.pair;
        let before = self.endpoint(context);
        self.endpoint.confirmed_from(pair, context.lane, source);
        let after = self.endpoint(context);
        let (peer, lane) = (&context.peer.name, context.lane);
        if self.confirmed.is_none() {
            tracing::info!(%peer, lane, %source, "first session with peer");
        } else {
            tracing::debug!(%peer, lane, %source, "next session with peer");
        }
        if before != after {
            tracing::info!(%peer, lane, ?before, ?after, "peer answers at another endpoint");
        }
        self.confirmed = Some(context.now);
        self.traffic.handshakes += 1;
        self.accepted = None;
        self.is_passed_over = false;
        self.retry_at = None;
        // Both started together and ours is not out yet: theirs was enough.
        let slot = self.members[index].slot;
        self.pending.take_if(|pending| pending.slot == slot);
        let identity = self.members[index].identity;
        self.see(index, is_asked, context);
        let is_present = self.is_present(&identity, context.lane);
        let wanted = self.wanted;
        self.members[index..].rotate_left(1);
        let Some((confirmed, others)) = self.members.split_last_mut() else {
            return;
        };
        if is_present {
            confirmed.replaced = None;
        }
        for other in others {
            // What is wanted more goes on until it is confirmed too.
            let is_underway = other.identity == wanted
                && identity != wanted
                && !other.tunnel.is_confirmed(context.now);
            if !is_underway {
                other.replaced.get_or_insert(context.now);
                other.is_unhurried = false;
            }
        }
    }
}
