//! Abort and revoke: one request about one node, and what comes of it. Pure.

use podwire_core::node::NodeName;
use podwire_core::request::Verb;

use crate::stage::{Keys, Seen, Stage};

/// What is to be done of what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// The request is written.
    Ask,
    /// It is being done already.
    Underway,
}

/// Why a rotation cannot be aborted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0} has nothing to abort: its keys are settled, and no rotation is asked for")]
    Settled(NodeName),
    #[error(
        "{0} cannot go back: its new keys, generation {1}, are in force already. Rotate it again if \
         they are not wanted"
    )]
    Promoted(NodeName, u64),
}

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Pending,
    Done,
    /// The keys of the request are not the current ones any more.
    TooLate,
}

/// Whether a rotation can be aborted.
///
/// # Errors
/// When there is none, or it is too late.
pub(crate) fn abort(name: &NodeName, seen: &Seen, keys: &Keys) -> Result<Start, Refusal> {
    match keys.stage {
        Stage::Announced => Ok(Start::Ask),
        Stage::Promoted => Err(Refusal::Promoted(name.clone(), keys.generation)),
        // It would begin with the next one as soon as this one is forgotten.
        Stage::Settled | Stage::Withdrawn if seen.asked == Some(Verb::Rotate) => Ok(Start::Ask),
        Stage::Withdrawn => Ok(Start::Underway),
        Stage::Settled => Err(Refusal::Settled(name.clone())),
    }
}

/// Where the request about the keys of this generation stands.
pub(crate) fn progress(verb: Verb, generation: u64, keys: &Keys) -> Progress {
    let is_replaced = keys.generation > generation;
    match verb {
        Verb::Abort if is_replaced => Progress::TooLate,
        Verb::Abort => match keys.stage {
            Stage::Settled | Stage::Withdrawn => Progress::Done,
            Stage::Announced | Stage::Promoted => Progress::Pending,
        },
        Verb::Revoke if keys.is_revoked() && is_replaced => Progress::Done,
        // A rotation came first: what it replaced may still receive.
        Verb::Revoke if is_replaced => Progress::TooLate,
        Verb::Rotate if is_replaced => match keys.stage {
            Stage::Settled | Stage::Withdrawn | Stage::Announced => Progress::Done,
            Stage::Promoted => Progress::TooLate,
        },
        Verb::Revoke | Verb::Rotate => Progress::Pending,
    }
}

#[cfg(test)]
mod tests {
    use podwire_core::rotation::Phase;

    use super::*;

    fn keys(generation: u64, stage: Stage) -> Keys {
        Keys {
            generation,
            stage,
            phase: Phase::Settled,
            created: None,
        }
    }

    fn name() -> NodeName {
        "n".parse().expect("a name")
    }

    fn start(stage: Stage, asked: Option<Verb>) -> Result<Start, Refusal> {
        let keys = keys(4, stage);
        let seen = Seen {
            uid: "u".to_owned(),
            keys: Ok(keys.clone()),
            asked,
        };
        abort(&name(), &seen, &keys)
    }

    #[test]
    fn only_what_is_not_in_force_yet_can_be_aborted() {
        assert_eq!(start(Stage::Announced, None), Ok(Start::Ask));
        assert_eq!(start(Stage::Settled, Some(Verb::Rotate)), Ok(Start::Ask));
        assert_eq!(start(Stage::Withdrawn, Some(Verb::Rotate)), Ok(Start::Ask));
        assert_eq!(start(Stage::Withdrawn, None), Ok(Start::Underway));
        let error = start(Stage::Promoted, None).expect_err("too late");
        assert!(error.to_string().contains("generation 4"), "{error}");
        let error = start(Stage::Settled, Some(Verb::Abort)).expect_err("nothing");
        assert!(error.to_string().contains("nothing to abort"), "{error}");
    }

    #[test]
    fn a_request_is_done_when_the_record_says_so() {
        for (verb, generation, stage, expected) in [
            (Verb::Abort, 4, Stage::Announced, Progress::Pending),
            (Verb::Abort, 4, Stage::Withdrawn, Progress::Done),
            (Verb::Abort, 4, Stage::Settled, Progress::Done),
            (Verb::Abort, 5, Stage::Promoted, Progress::TooLate),
            (Verb::Revoke, 4, Stage::Announced, Progress::Pending),
            (Verb::Rotate, 5, Stage::Settled, Progress::Done),
            // It was a rotation that came first.
            (Verb::Revoke, 5, Stage::Settled, Progress::TooLate),
            (Verb::Revoke, 5, Stage::Promoted, Progress::TooLate),
        ] {
            let progress = progress(verb, 4, &keys(generation, stage));
            assert_eq!(progress, expected, "{verb:?} {generation} {stage:?}");
        }
        let revoked = Keys {
            phase: Phase::Revoked,
            ..keys(5, Stage::Settled)
        };
        assert_eq!(progress(Verb::Revoke, 4, &revoked), Progress::Done);
    }
}
