//! The keys of all generations that a node has at a time, whatever a key is to whoever asks: a
//! private key on disk, a public one in a record.

use super::{Phase, Rotation, Step};

/// Keys, and what the phase makes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generations<K> {
    /// Where their rotation stands.
    pub rotation: Rotation,
    /// Those of the key generation.
    pub current: K,
    /// The next, previous or withdrawn ones, as the phase says; none in the other phases.
    pub beside: Option<K>,
}

/// What a record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told<K> {
    /// `public-key` and `lanes`.
    pub current: K,
    /// `next-public-key` and `next-lanes`.
    pub next: Option<K>,
    /// `previous-public-key` and `previous-lanes`.
    pub previous: Option<K>,
}

/// What a data plane does with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse<K> {
    /// What every peer with a record of this node knows.
    pub base: K,
    /// Used with each peer that has used it.
    pub newer: Option<K>,
    /// Receives and answers, and asks for nothing.
    pub fading: Option<K>,
}

impl<K> Generations<K> {
    /// The first keys of a node.
    pub const fn first(current: K) -> Self {
        Self {
            rotation: Rotation::FIRST,
            current,
            beside: None,
        }
    }

    /// The keys after a step, for which `make` makes new ones if it needs any.
    ///
    /// # Errors
    /// Those of `make`.
    ///
    /// # Panics
    /// When keys are promoted that were not announced.
    pub fn after<E>(self, step: Step, make: impl FnOnce() -> Result<K, E>) -> Result<Self, E> {
        let Self {
            rotation,
            current,
            beside,
        } = self;
        let (current, beside) = match step {
            Step::Prepare => (current, Some(make()?)),
            Step::Promote(_) => {
                let next = beside.expect("what is promoted was announced");
                (next, Some(current))
            }
            Step::Withdraw => (current, beside),
            Step::Retire | Step::Forget => (current, None),
            Step::Replace => (make()?, None),
        };
        Ok(Self {
            rotation: rotation.after(step),
            current,
            beside,
        })
    }

    /// What the record tells. Withdrawn keys are no matter of peers' any more.
    pub fn told(self) -> Told<K> {
        let (next, previous) = match self.rotation.phase {
            Phase::Announced => (self.beside, None),
            Phase::Promoted(_) => (None, self.beside),
            Phase::Settled | Phase::Withdrawn | Phase::Revoked => (None, None),
        };
        Told {
            current: self.current,
            next,
            previous,
        }
    }

    /// What the data plane does with them. A promotion changes nothing there: peers that have not
    /// heard of it are asked as before, and the others as they have asked.
    pub fn in_use(self) -> InUse<K> {
        let (base, newer, fading) = match (self.rotation.phase, self.beside) {
            (Phase::Announced, next) => (self.current, next, None),
            (Phase::Promoted(_), Some(previous)) => (previous, Some(self.current), None),
            (Phase::Withdrawn, withdrawn) => (self.current, None, withdrawn),
            (Phase::Settled | Phase::Revoked | Phase::Promoted(_), _) => (self.current, None, None),
        };
        InUse {
            base,
            newer,
            fading,
        }
    }

    /// The same with other keys for these.
    pub fn map<L>(self, each: impl Fn(K) -> L) -> Generations<L> {
        Generations {
            rotation: self.rotation,
            current: each(self.current),
            beside: self.beside.map(each),
        }
    }

    /// The same keys, by reference.
    pub const fn as_ref(&self) -> Generations<&K> {
        Generations {
            rotation: self.rotation,
            current: &self.current,
            beside: self.beside.as_ref(),
        }
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &K> {
        std::iter::once(&self.current).chain(&self.beside)
    }
}
