//! What `keyctl wait` waits for. Pure.

use std::fmt;
use std::str::FromStr;

use crate::stage::{Keys, Stage};

/// Something that keys can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Of this generation, or a later one.
    Generation(u64),
    /// In this phase.
    Phase(Stage),
    /// In the place of revoked ones.
    Revoked,
}

/// Why a text is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected generation=N, or phase=settled, announced, promoted, withdrawn or revoked")]
pub(crate) struct InvalidCondition;

impl Condition {
    /// Whether keys are so.
    pub(crate) fn holds(self, keys: &Keys) -> bool {
        match self {
            Self::Generation(generation) => keys.generation >= generation,
            Self::Phase(stage) => keys.stage == stage,
            Self::Revoked => keys.is_revoked(),
        }
    }
}

impl FromStr for Condition {
    type Err = InvalidCondition;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, value) = text.split_once('=').ok_or(InvalidCondition)?;
        match (kind, value) {
            ("generation", number) => number
                .parse()
                .map(Self::Generation)
                .map_err(|_| InvalidCondition),
            ("phase", "revoked") => Ok(Self::Revoked),
            ("phase", word) => [
                Stage::Settled,
                Stage::Announced,
                Stage::Promoted,
                Stage::Withdrawn,
            ]
            .into_iter()
            .find(|stage| stage.as_str() == word)
            .map(Self::Phase)
            .ok_or(InvalidCondition),
            _ => Err(InvalidCondition),
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Generation(generation) => write!(f, "generation={generation}"),
            Self::Phase(stage) => write!(f, "phase={}", stage.as_str()),
            Self::Revoked => f.write_str("phase=revoked"),
        }
    }
}

#[cfg(test)]
mod tests {
    use podwire_core::rotation::Phase;

    use super::*;

    #[test]
    fn what_is_typed_is_told_again_and_holds_when_it_should() {
        let keys = Keys {
            generation: 4,
            stage: Stage::Settled,
            phase: Phase::Settled,
            created: None,
        };
        for (text, holds) in [
            ("generation=4", true),
            ("generation=3", true),
            ("generation=5", false),
            ("phase=settled", true),
            ("phase=announced", false),
            ("phase=revoked", false),
        ] {
            let condition: Condition = text.parse().expect("a condition");
            assert_eq!(
                (condition.to_string(), condition.holds(&keys)),
                (text.to_owned(), holds)
            );
        }
        for text in ["", "generation", "generation=", "phase=done", "ready=true"] {
            assert_eq!(text.parse::<Condition>(), Err(InvalidCondition), "{text}");
        }
    }
}
