//! Key rotation: what a node does with its own keys, and when.
//!
//! ```text
//!              Prepare            Promote             Retire
//!   Settled ------------> Announced ------> Promoted ------> Settled, one generation on
//!                             | Withdraw
//!                             v          Forget
//!                         Withdrawn ------------> Settled, the same generation
//!   any -- Replace --> Revoked, one generation on: as settled, and nothing of before is accepted
//! ```
//! Each step is made durable first, then the data plane gets the keys, then the node's record tells
//! of them, and the next step is decided only once a registry has that record: so a peer never
//! hears of a key that a crash could take away, and no key is given up before every reader of
//! records can know its successor. After a crash between any two of these the disk is what counts:
//! data plane and record follow it.
//!
//! The key generation is that of the current keys: it grows with Promote and Replace alone.

mod generations;
mod phase;

use std::fmt;
use std::time::Duration;

pub use generations::{Generations, InUse, Told};
pub use phase::{Confirmations, InvalidPhase, Phase};

use crate::request::{Request, Verb};

/// Time for which an announcement waits in any case: an agent that was started again has its
/// sessions back by then, and so knows who has to confirm.
pub const SESSIONS_RETURN: Duration = Duration::from_secs(5);

/// Time for which an announcement waits for peers that do not confirm: many retries of any
/// handshake, and a registry that is away for a restart.
pub const CONFIRM_DEADLINE: Duration = Duration::from_secs(600);

/// Time for which a record says that keys were revoked before another rotation may begin, whose
/// record does not: a peer that never reads it takes the keys for replaced ones, which still
/// receive.
pub const REVOCATION_TOLD: Duration = Duration::from_secs(60);

/// Time for which keys that were given up still receive, from the moment on at which a registry has
/// the record that says so.
///
//= WireGuard §6.1
/// A session lives 180 s ("Reject-After-Time"), and no watch is late by as much.
pub const RETIRE_AFTER: Duration = Duration::from_secs(180);

/// What the disk knows of a node's rotation, beside the keys themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The generation of the current keys, from 1.
    pub key_generation: u64,
    /// Which keys are there.
    pub phase: Phase,
}

/// What is done to the keys on disk, all lanes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Makes the next keys.
    Prepare,
    /// The next keys become the current, those the previous. Whoever has not confirmed them then
    /// finds them in the record.
    Promote(Confirmations),
    /// The previous keys go.
    Retire,
    /// The next keys are not announced any more.
    Withdraw,
    /// The keys that were announced in vain go.
    Forget,
    /// Other keys than all of now, which go at once.
    Replace,
}

/// What a step is decided from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    /// Whether the data plane has the keys of this phase.
    pub is_in_force: bool,
    /// How long a registry has had the record of this phase; `None` while it has another one.
    pub published_for: Option<Duration>,
    /// Peers with a session, and those of them that have one under the newer keys on each lane that
    /// has one at all.
    pub confirmations: Confirmations,
    /// What the operator asks for, if it is asked of the present generation.
    pub asked: Option<Verb>,
}

/// What a request of the present generation comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is being done.
    Underway,
    /// Rotate: begins once the keys of the rotation before are gone.
    Waits,
    /// Abort: there is nothing announced that could be aborted, or it was aborted already.
    NothingToAbort,
    /// The generation is the last number that there is.
    NoGenerationLeft,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Underway => "under way",
            Self::Waits => "waits until the keys of the rotation before are gone",
            Self::NothingToAbort => "nothing is announced that could be aborted",
            Self::NoGenerationLeft => "the key generation cannot grow any more",
        })
    }
}

impl Rotation {
    /// That of a node with its first keys.
    pub const FIRST: Self = Self {
        key_generation: 1,
        phase: Phase::Settled,
    };

    /// The step that is due, if any.
    #[must_use]
    pub fn step(self, situation: &Situation) -> Option<Step> {
        let asked = situation.asked.filter(|_| self.can_grow());
        if asked == Some(Verb::Revoke) {
            return Some(Step::Replace);
        }
        // Nothing is begun on top of keys or a record that are not out yet.
        let published_for = situation.published_for.filter(|_| situation.is_in_force);
        let is_received_out = published_for.is_some_and(|published| published >= RETIRE_AFTER);
        match (self.phase, asked) {
            (Phase::Settled, Some(Verb::Rotate)) => published_for.map(|_| Step::Prepare),
            (Phase::Revoked, Some(Verb::Rotate)) => {
                (published_for? >= REVOCATION_TOLD).then_some(Step::Prepare)
            }
            (Phase::Settled | Phase::Revoked, _) => None,
            // Peers may know the keys whether this node knows that or not.
            (Phase::Announced, Some(Verb::Abort)) => Some(Step::Withdraw),
            (Phase::Announced, _) => {
                let confirmations = situation.confirmations;
                is_confirmed(published_for?, confirmations).then_some(Step::Promote(confirmations))
            }
            (Phase::Promoted(_), _) => is_received_out.then_some(Step::Retire),
            (Phase::Withdrawn, _) => is_received_out.then_some(Step::Forget),
        }
    }

    /// What the disk knows once the step is made.
    #[must_use]
    pub const fn after(self, step: Step) -> Self {
        let next = self.key_generation.saturating_add(1);
        let (key_generation, phase) = match step {
            Step::Prepare => (self.key_generation, Phase::Announced),
            Step::Promote(confirmations) => (next, Phase::Promoted(confirmations)),
            Step::Withdraw => (self.key_generation, Phase::Withdrawn),
            Step::Retire | Step::Forget => (self.key_generation, Phase::Settled),
            Step::Replace => (next, Phase::Revoked),
        };
        Self {
            key_generation,
            phase,
        }
    }

    /// Whether a request is one for the keys of now. A revocation that was asked of keys while they
    /// were replaced means them, too: they still receive.
    #[must_use]
    pub fn holds(self, request: &Request) -> bool {
        let of = request.if_key_generation;
        let is_promoted = matches!(self.phase, Phase::Promoted(_));
        of == self.key_generation
            || (request.verb == Verb::Revoke
                && is_promoted
                && of.checked_add(1) == Some(self.key_generation))
    }

    /// What a request of the present generation comes to.
    #[must_use]
    pub const fn answer(self, asked: Verb) -> Answer {
        match (asked, self.phase) {
            _ if !self.can_grow() => Answer::NoGenerationLeft,
            (Verb::Revoke, _)
            | (Verb::Rotate, Phase::Settled | Phase::Announced)
            | (Verb::Abort, Phase::Announced | Phase::Withdrawn) => Answer::Underway,
            (Verb::Rotate, Phase::Promoted(_) | Phase::Withdrawn | Phase::Revoked) => Answer::Waits,
            (Verb::Abort, Phase::Settled | Phase::Promoted(_) | Phase::Revoked) => {
                Answer::NothingToAbort
            }
        }
    }

    /// A request of the last generation of all would hold for ever, and be done again and again.
    const fn can_grow(self) -> bool {
        self.key_generation < u64::MAX
    }
}

/// Whether announced keys may become the current ones.
fn is_confirmed(published_for: Duration, confirmations: Confirmations) -> bool {
    published_for >= CONFIRM_DEADLINE
        || (published_for >= SESSIONS_RETURN && confirmations.are_complete())
}

#[cfg(test)]
mod tests;
