//! A session set follows the keys and epochs of both ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::identity::PeerKeys;
use super::{Context, Identity, Member, SessionSet};
use crate::jitter::JITTER_MAX;
use crate::noise::{Flight, LaneKey};
use crate::timers::REKEY_AFTER_TIME;

/// Handshakes a second with which all peers together follow a change of one node's keys: half of
/// what that node answers without asking for cookies. All have sessions meanwhile.
const FOLLOWING_PER_SECOND: u32 = 100;
/// The most by which a handshake under other keys is put off for that.
const FOLLOWING_TIME_MAX: Duration = Duration::from_secs(120);
/// Time before the wanted identity is asked for again when the peer has come back to another one
/// after it was confirmed: it may have lost its sessions and hear of the keys again. If it means
/// to, then each time is twice as long, up to a rekey: the ends would else take turns for ever.
pub(super) const TURN_AFTER: Duration = Duration::from_secs(5);
/// Initiations without an answer after which a handshake goes on under another identity.
const DOUBT_AFTER: u32 = 3;
/// What is asked for by turns when nobody answers: whether by the other own key than the one that
/// the peer was seen to know, and whether for the other one of its keys. Both come first: a peer
/// that was seen on the newest keys and went back to an old record knows none of them.
const TURNS: [[bool; 2]; 4] = [[false, false], [true, true], [true, false], [false, true]];
/// Time before the wanted identity is tried again when nobody answered: sessions of another live.
pub(super) const WANTED_RETRY_AFTER: Duration = Duration::from_secs(60);

impl SessionSet {
    /// Follows the own epoch, and the own keys and the peer's configuration unless newer ones were
    /// seen.
    pub(crate) fn follow(&mut self, context: &Context<'_>) {
        let own_epoch = context.own_epoch.number();
        let is_newer = context.peer.version > self.version;
        if own_epoch == self.own_epoch && !is_newer {
            return;
        }
        self.own_epoch = own_epoch;
        let (revocations, theirs) = (self.own.revocations, self.theirs);
        if is_newer {
            self.version = context.peer.version;
            self.own = Arc::clone(&context.peer.own);
            self.theirs = PeerKeys::of(&context.peer.config.pair, context.lane).unwrap_or(theirs);
            self.turn = 0;
        }
        let is_continued = self.theirs.continue_from(&theirs);
        self.replace_members(self.own.revocations != revocations, is_continued, context);
        self.want(context.lane);
    }

    /// Makes before it breaks: members that are not of the present keys and epochs send until a new
    /// one has completed a handshake. Only those of revoked keys end here.
    fn replace_members(
        &mut self,
        are_own_revoked: bool,
        is_continued: bool,
        context: &Context<'_>,
    ) {
        let mut is_changed = false;
        for index in (0..self.members.len()).rev() {
            let member = &self.members[index];
            let identity = member.identity;
            let is_own = self.own_key(&identity, context.lane).is_some();
            let is_theirs = self.theirs.names(&identity.peer);
            let is_closed = (are_own_revoked && !is_own) || (self.theirs.is_revoked && !is_theirs);
            if is_closed {
                self.is_cut |= member.tunnel.has_session(context.now);
                self.remove(index, context);
            } else if !self.is_present(&identity, context.lane) {
                let is_of_now = self.is_of_these_epochs(&identity);
                let member = &mut self.members[index];
                let was_hurried = member.replaced.is_some() && !member.is_unhurried;
                member.is_unhurried = is_continued && is_of_now && !was_hurried;
                member.replaced.get_or_insert(context.now);
            } else {
                continue;
            }
            is_changed = true;
        }
        if is_changed {
            self.retry_at = self.retry_at.and(Some(context.now));
            self.accepted = None;
            let in_use = |slot| {
                let mut members = self.members.iter();
                members.any(|member| member.slot == slot && member.replaced.is_none())
            };
            self.pending = self.pending.take().filter(|held| in_use(held.slot));
        }
    }

    /// Whether sessions that lived were closed since the last call: somebody has to ask, and the
    /// peer may not know.
    pub(crate) fn take_cut(&mut self) -> bool {
        std::mem::take(&mut self.is_cut)
    }

    /// The own key of an identity, if it is still named.
    fn own_key(&self, identity: &Identity, lane: usize) -> Option<&Arc<LaneKey>> {
        self.own.lane(lane).find(&identity.own)
    }

    /// Whether both ends still have these keys and epochs.
    pub(super) fn is_present(&self, identity: &Identity, lane: usize) -> bool {
        self.own_key(identity, lane).is_some()
            && self.theirs.names(&identity.peer)
            && self.is_of_these_epochs(identity)
    }

    fn is_of_these_epochs(&self, identity: &Identity) -> bool {
        (identity.epoch, identity.own_epoch) == (self.theirs.epoch, self.own_epoch)
    }

    /// Whether the own key of an identity was announced in vain: nobody is asked by it.
    pub(super) fn is_fading(&self, identity: &Identity, lane: usize) -> bool {
        let fading = self.own.lane(lane).fading.as_ref();
        fading.is_some_and(|fading| *fading.public_key() == identity.own)
    }

    /// The identity that is asked for in a turn. First the own newer key is used towards a peer
    /// that has used it alone: another may not have heard of it yet.
    fn identity(&self, turn: usize, lane: usize) -> Identity {
        let own = self.own.lane(lane);
        let base = *own.base.public_key();
        let newer = own.newer.as_ref().map_or(base, |newer| *newer.public_key());
        let [other_own, other_peer] = TURNS[turn];
        let is_newer = (self.seen_on == Some(newer)) != other_own;
        Identity {
            own: if is_newer { newer } else { base },
            peer: self.theirs.choices()[usize::from(other_peer)],
            epoch: self.theirs.epoch,
            own_epoch: self.own_epoch,
        }
    }

    /// Decides which identity handshakes are started for.
    pub(super) fn want(&mut self, lane: usize) {
        let wanted = self.identity(self.turn, lane);
        if wanted != self.wanted {
            self.wanted = wanted;
            self.wanted_due = None;
            self.turn_after = TURN_AFTER;
        }
    }

    /// Takes note of the own key by which a session of member `index` was confirmed. `is_asked`: by
    /// a peer that asked for it. One that only answers says nothing about what else it knows.
    pub(super) fn see(&mut self, index: usize, is_asked: bool, context: &Context<'_>) {
        let identity = self.members[index].identity;
        let newer = self.own.lane(context.lane).newer.as_ref();
        let is_on_newer = newer.is_some_and(|n| self.seen_on == Some(*n.public_key()));
        let was_doubted = std::mem::take(&mut self.turn) > 0;
        if is_asked || !is_on_newer || was_doubted {
            self.seen_on = Some(identity.own);
        }
        self.want(context.lane);
        if identity == self.wanted {
            self.wanted_due = Some(context.now + self.turn_after);
            let mut others = self.members.iter().enumerate();
            let last = others.rfind(|(other, member)| {
                *other != index && member.tunnel.is_confirmed(context.now)
            });
            if last.is_some_and(|(_, last)| last.identity != identity) {
                self.turn_after = (self.turn_after * 2).min(REKEY_AFTER_TIME);
            }
        } else if was_doubted {
            // That was asked for in vain a moment ago.
            self.wanted_due = Some(context.now + WANTED_RETRY_AFTER);
        }
    }

    /// Whether member `index` is to leave its handshake to one for another identity, and what it
    /// leaves: some initiations are not answered, and the peer gives no sign or the session that
    /// packets go by needs a successor.
    ///
    /// What such a peer knows is unknown: it may have started again with records of before, or read
    /// less of them, as an agent from before rotation does and a plain WireGuard peer. Where it
    /// does not know where this node is, it asks for nothing, so this end goes through all that it
    /// may know.
    pub(super) fn doubt(&mut self, index: usize, context: &Context<'_>) -> Option<Flight> {
        let Member {
            tunnel, identity, ..
        } = &self.members[index];
        let flight = tunnel.flight()?;
        let is_silent = self.heard.is_none_or(|at| at < flight.started);
        let is_needed = is_silent || self.turn > 0 || self.sender(context.now) == Some(index);
        if *identity != self.wanted || !is_needed || flight.own_attempts() <= DOUBT_AFTER {
            return None;
        }
        let mut turns = (1..TURNS.len()).map(|next| (self.turn + next) % TURNS.len());
        self.turn = turns.find(|turn| self.identity(*turn, context.lane) != self.wanted)?;
        self.want(context.lane);
        self.members[index].replaced = Some(context.now);
        Some(flight)
    }

    /// Whether packets go by another identity than the wanted one, and it is time to ask for that.
    /// `jitter` decides how soon, of all the time that the whole mesh takes for it.
    pub(super) fn is_following_due(&mut self, context: &Context<'_>, jitter: Duration) -> bool {
        let Some(sender) = self.sender(context.now) else {
            return false;
        };
        let mut identity = self.members[sender].identity;
        if self.is_fading(&identity, context.lane) {
            // The peer asks by itself once it has heard that the key was withdrawn.
            identity.own = self.wanted.own;
        }
        if identity == self.wanted {
            return false;
        }
        let due = *self
            .wanted_due
            .get_or_insert_with(|| context.now + following_delay(context, jitter));
        context.now >= due
    }

    /// Whether a confirmed session exists under this node's newer key.
    pub(crate) fn is_on_newer(&self, lane: usize, now: Instant) -> bool {
        let newer = self.own.lane(lane).newer.as_ref();
        newer.is_some_and(|newer| {
            let mut members = self.members.iter();
            members.any(|member| {
                member.identity.own == *newer.public_key() && member.tunnel.is_confirmed(now)
            })
        })
    }
}

/// When this pair follows a change of keys, of all pairs of a node that may have made it.
fn following_delay(context: &Context<'_>, jitter: Duration) -> Duration {
    let lanes = u32::try_from(context.peer.lanes).unwrap_or(u32::MAX);
    let handshakes = context.peers.saturating_mul(lanes);
    let time = Duration::from_secs(handshakes.into()) / FOLLOWING_PER_SECOND;
    let part = jitter.as_secs_f64() / JITTER_MAX.as_secs_f64();
    time.min(FOLLOWING_TIME_MAX).mul_f64(part.min(1.0))
}
