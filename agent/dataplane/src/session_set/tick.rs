//! What the passing of time asks of a session set.

use std::time::{Duration, Instant};

use super::keys::WANTED_RETRY_AFTER;
use super::{Context, OutputFull, SessionSet};
use crate::batch::UnderlayBatch;
use crate::drop_reason::DropReason;
use crate::message::INITIATION_LENGTH;
use crate::noise::{Due, HANDSHAKE_ROOM};
use crate::timers::{GIVE_UP_AFTER, KEEP_OPEN_AFTER, REKEY_AFTER_TIME};

/// Time for which a lane above 0 rests after its handshake was given up: its port is blocked, and
/// its flows take lane 0.
const LANE_RETRY_AFTER: Duration = Duration::from_secs(60);
/// Time beyond the age at which the initiator renews a session before the responder does so itself:
/// the initiator may be gone, and under load nothing must wait for the session to end.
const REKEY_GRACE: Duration = Duration::from_secs(10);

/// Whether a set still needs ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    Active,
    /// Nothing is left but counters.
    Idle,
}

impl SessionSet {
    /// When a held initiation is to be sent.
    pub(crate) fn pending_due(&self) -> Option<Instant> {
        self.pending.as_ref().map(|pending| pending.due)
    }

    /// Lets time pass: to be called every 250 ms while active. `jitter` holds initiations back.
    pub(crate) fn tick(
        &mut self,
        context: &Context<'_>,
        send: &mut UnderlayBatch,
        jitter: Duration,
    ) -> Result<Activity, OutputFull> {
        let expired = self.queue.expire(context.now);
        self.traffic.drops += expired;
        context
            .counters
            .drop_many(DropReason::QueueExpired, expired);
        self.retire(context);
        self.send_pending(context, send)?;
        self.confirm_again(context, send)?;
        for index in 0..self.members.len() {
            self.tick_member(index, context, send, jitter)?;
        }
        self.repeat_soon(context, send)?;
        self.flush(context, send)?;
        let is_requested = std::mem::take(&mut self.is_requested);
        // No packet waits for these.
        let is_unhurried =
            is_requested || self.is_way_closing(context) || self.is_following_due(context, jitter);
        if is_unhurried || self.wants_handshake(context) {
            let initiated = self.initiate(context, send, is_unhurried.then_some(jitter));
            self.is_requested = is_requested && initiated.is_err();
            initiated?;
        }
        let is_empty = self.members.is_empty() && self.queue.is_empty();
        Ok(if is_empty && !context.keeps_open {
            Activity::Idle
        } else {
            Activity::Active
        })
    }

    /// Sends a held initiation that is due.
    pub(crate) fn send_pending(
        &mut self,
        context: &Context<'_>,
        send: &mut UnderlayBatch,
    ) -> Result<(), OutputFull> {
        if self.pending_due().is_none_or(|due| due > context.now) {
            return Ok(());
        }
        if !send.has_room(HANDSHAKE_ROOM) {
            return Err(OutputFull);
        }
        if let Some(pending) = self.pending.take() {
            send.room()[..INITIATION_LENGTH].copy_from_slice(&pending.message);
            self.send_initiation(pending.slot, pending.attempt, context, send);
        }
        Ok(())
    }

    /// Drops members whose time is over and gives up handshakes that nobody answers.
    fn retire(&mut self, context: &Context<'_>) {
        let now = context.now;
        let wanted = self.wanted;
        let sender = self.sender(now).map(|index| &self.members[index]);
        let sender = sender.filter(|s| s.replaced.is_none()).map(|s| s.slot);
        for member in &mut self.members {
            let is_failed = member.replaced.is_none()
                && member.tunnel.flight().is_some_and(|flight| {
                    now.saturating_duration_since(flight.started) >= GIVE_UP_AFTER
                });
            if is_failed {
                let (peer, lane) = (&context.peer.name, context.lane);
                tracing::debug!(%peer, lane, "peer does not answer handshakes");
                member.replaced = Some(now);
                self.pending.take_if(|pending| pending.slot == member.slot);
                if member.identity == wanted {
                    self.wanted_due = Some(now + WANTED_RETRY_AFTER);
                }
                // One that has other keys than those in use says nothing about the lane.
                if context.lane > 0 && sender.is_none_or(|sender| sender == member.slot) {
                    self.retry_at = Some(now + LANE_RETRY_AFTER);
                }
            }
        }
        let target = self.target();
        for index in (0..self.members.len()).rev() {
            let member = &self.members[index];
            let tunnel = &member.tunnel;
            let is_unused = !tunnel.has_session(now) && tunnel.flight().is_none();
            let is_forgotten = is_unused && (Some(index) != target || !tunnel.is_reusable(now));
            if member.is_over(now) || is_forgotten {
                self.remove(index, context);
            }
        }
    }

    fn tick_member(
        &mut self,
        index: usize,
        context: &Context<'_>,
        send: &mut UnderlayBatch,
        jitter: Duration,
    ) -> Result<(), OutputFull> {
        let is_fading = self.is_fading(&self.members[index].identity, context.lane);
        let member = &mut self.members[index];
        // One that is replaced starts no handshakes and has nothing to do, unless it serves for a
        // while yet; nor has one without a session: a tick would only let boringtun expire it.
        let tunnel = &mut member.tunnel;
        let is_replaced = member.replaced.is_some();
        if (is_replaced && !member.is_unhurried)
            || !(tunnel.has_session(context.now) || tunnel.flight().is_some())
        {
            return Ok(());
        }
        if !send.has_room(HANDSHAKE_ROOM) {
            return Err(OutputFull);
        }
        match tunnel.tick(context.now, send.room()) {
            // It is time to, but the peer may not take this key any more: another one is asked by.
            Some(Due::Initiation) if is_fading || is_replaced => {
                member.replaced.get_or_insert(context.now);
                member.is_unhurried = false;
            }
            Some(Due::Initiation) => match self.doubt(index, context) {
                Some(flight) => self.take_over(flight, context, send, jitter),
                None => self.post_initiation(index, context, send, Some(jitter)),
            },
            Some(Due::Keepalive(length)) => {
                if let Some(endpoint) = self.endpoint(context) {
                    send.commit_front(context.lane, endpoint, length);
                }
            }
            None => {}
        }
        Ok(())
    }

    /// Whether a router in front of this node is about to forget the way back from the peer, or the
    /// peer does not know it.
    fn is_way_closing(&self, context: &Context<'_>) -> bool {
        let is_silent = |at: Instant| context.now.saturating_duration_since(at) >= KEEP_OPEN_AFTER;
        context.keeps_open && self.heard.is_none_or(is_silent)
    }

    /// Whether a handshake is due that no member asks for by itself.
    fn wants_handshake(&self, context: &Context<'_>) -> bool {
        let sender = self.sender(context.now).map(|index| &self.members[index]);
        let Some(sender) = sender else {
            return !self.queue.is_empty();
        };
        let Some(confirmed) = sender.tunnel.confirmed_at(context.now) else {
            return false;
        };
        // As responder of an attempt that came to nothing boringtun leaves the rekey to the peer.
        let rekey_at = confirmed + REKEY_AFTER_TIME;
        let is_used = self.sent.is_some_and(|sent| sent > rekey_at);
        let is_late = is_used && context.now >= rekey_at + REKEY_GRACE;
        // Until then the next one has its own time: see `is_following_due`.
        let is_replaced = sender.replaced.is_some() && (is_used || !sender.is_unhurried);
        is_replaced || is_late
    }
}
