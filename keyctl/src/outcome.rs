//! What a command found, as its exit code.

use std::process::ExitCode;

/// Exit code of what failed: no answer, no such Node.
pub(crate) const EXIT_ERROR: u8 = 1;

/// Exit code of a command line that is not understood, as clap's own.
pub(crate) const EXIT_USAGE: u8 = 2;

/// Exit code of a mesh that is not as it should be, and of what is done in part.
const EXIT_DEGRADED: u8 = 3;

/// Exit code of what was waited for and did not come in time.
const EXIT_TIMED_OUT: u8 = 4;

/// Exit code of what the API server does not let the user read or write.
pub(crate) const EXIT_DENIED: u8 = 5;

/// What was found, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// All is well.
    Ok,
    /// What could be read is well; a part could not be read.
    Denied,
    /// Something is not as it should be, or a part of what was asked for is not done.
    Degraded,
    /// It did not come in time.
    TimedOut,
}

impl Outcome {
    /// Degraded if something is.
    pub(crate) const fn of(is_degraded: bool) -> Self {
        if is_degraded {
            Self::Degraded
        } else {
            Self::Ok
        }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Ok => Self::SUCCESS,
            Outcome::Denied => Self::from(EXIT_DENIED),
            Outcome::Degraded => Self::from(EXIT_DEGRADED),
            Outcome::TimedOut => Self::from(EXIT_TIMED_OUT),
        }
    }
}
