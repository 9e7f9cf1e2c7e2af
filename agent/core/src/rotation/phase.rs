//! The phases of a rotation and their text, which is the same in the record and on disk.

use std::fmt;
use std::str::FromStr;

/// Which keys a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// The current ones.
    Settled,
    /// The current and the next ones, and the record names both.
    Announced,
    /// The current ones, which were the next; and those before, which still receive.
    Promoted(Confirmations),
    /// The current ones; and those that were announced in vain, which still receive.
    Withdrawn,
    /// The current ones; all of before were known to others.
    Revoked,
}

/// Peers that have to confirm the newer keys of a node, and those that have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Confirmations {
    /// Peers with a session under the newer keys.
    pub confirmed: usize,
    /// Peers with a session at all.
    pub live: usize,
}

/// A text that is no phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no phase of a key rotation: those are settled, announced, promoted confirmed=N/M, withdrawn and \
     revoked"
)]
pub struct InvalidPhase;

impl Confirmations {
    /// Whether no peer is waited for.
    #[must_use]
    pub const fn are_complete(self) -> bool {
        self.confirmed >= self.live
    }
}

impl Phase {
    /// The record's `rotation-phase`; none for keys of which there is nothing to tell.
    #[must_use]
    pub fn told(self) -> Option<String> {
        (self != Self::Settled).then(|| self.to_string())
    }

    /// The first word: for a metric's label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Announced => "announced",
            Self::Promoted(_) => "promoted",
            Self::Withdrawn => "withdrawn",
            Self::Revoked => "revoked",
        }
    }

    /// Every name.
    pub const NAMES: [&'static str; 5] =
        ["settled", "announced", "promoted", "withdrawn", "revoked"];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        if let Self::Promoted(Confirmations { confirmed, live }) = self {
            write!(f, " confirmed={confirmed}/{live}")?;
        }
        Ok(())
    }
}

impl FromStr for Phase {
    type Err = InvalidPhase;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let promoted = || {
            let counts = text.strip_prefix("promoted confirmed=")?;
            let (confirmed, live) = counts.split_once('/')?;
            let confirmations = Confirmations {
                confirmed: confirmed.parse().ok()?,
                live: live.parse().ok()?,
            };
            Some(Self::Promoted(confirmations))
        };
        match text {
            "settled" => Ok(Self::Settled),
            "announced" => Ok(Self::Announced),
            "withdrawn" => Ok(Self::Withdrawn),
            "revoked" => Ok(Self::Revoked),
            _ => promoted().ok_or(InvalidPhase),
        }
    }
}
