//! Under which name the program was called: it is a plugin of kubectl too.

use std::ffi::OsStr;
use std::path::Path;

/// What kubectl looks for when it is asked for `kubectl podwire`.
const PLUGIN: &str = "kubectl-podwire";

/// The name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// `keyctl`.
    Keyctl,
    /// `kubectl podwire`.
    Plugin,
}

impl Program {
    /// By the first word of the command line.
    pub(crate) fn of(word: Option<&OsStr>) -> Self {
        match word.and_then(|word| Path::new(word).file_name()) {
            Some(name) if name == PLUGIN => Self::Plugin,
            Some(_) | None => Self::Keyctl,
        }
    }

    /// What a user types.
    pub(crate) const fn usage(self) -> &'static str {
        match self {
            Self::Keyctl => "keyctl",
            Self::Plugin => "kubectl podwire",
        }
    }

    /// The file that a shell completes.
    pub(crate) const fn file(self) -> &'static str {
        match self {
            Self::Keyctl => "keyctl",
            Self::Plugin => PLUGIN,
        }
    }
}
