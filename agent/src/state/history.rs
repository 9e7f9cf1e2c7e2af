//! What this node did before: its starts, its epoch, and whether it ever was encrypted.

use std::path::Path;

use podwire_registry::atomic_file;
use serde::{Deserialize, Serialize};

use super::error::StateError;
use super::folder::{self, FILE_MODE};

/// Name of the file.
pub(super) const FILE: &str = "history.json";

/// Version of the form that is written, and the newest that is read.
const VERSION: u64 = 1;

/// Largest file: the form has a dozen numbers.
const SIZE_MAX: u64 = 64 * 1024;

/// Process generations: four bits of the receiver index.
const PROCESS_GENERATIONS: u64 = 16;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct History {
    pub(super) version: u64,
    /// How often an agent began here.
    pub(super) starts: u64,
    /// What peers know this node's clock by.
    pub(super) epoch: u64,
    /// No handshake initiation of this epoch had a much later stamp. Nanoseconds since the Unix
    /// epoch.
    pub(super) highest_stamp: u64,
    /// Whether this node ever declared itself encrypted: it never becomes plaintext by a failure
    /// then.
    pub(super) ever_encrypted: bool,
    /// Whether keys were made: they are never made anew then.
    pub(super) has_keys: bool,
}

/// What the clock means for the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EpochDecision {
    /// The clock is ahead of every stamp that peers have seen.
    Keep,
    /// The clock went back: peers would take new handshakes for replays until it has caught up, so
    /// they are to forget this node's history. A value that no epoch of this node had.
    Change(u64),
}

/// Whether another epoch begins at this time (nanoseconds since the Unix epoch).
pub(super) const fn epoch_at(now: u64, history: &History) -> EpochDecision {
    if now < history.highest_stamp {
        EpochDecision::Change(history.epoch.saturating_add(1))
    } else {
        EpochDecision::Keep
    }
}

impl History {
    /// That of a node which never ran.
    pub(super) const fn new() -> Self {
        Self {
            version: VERSION,
            starts: 0,
            epoch: 0,
            highest_stamp: 0,
            ever_encrypted: false,
            has_keys: false,
        }
    }

    /// The history of a start at this time after this history. It must be on disk before the start
    /// has any effect.
    #[must_use]
    pub(super) fn started(self, now: u64) -> Self {
        let starts = self.starts.saturating_add(1);
        Self {
            starts,
            ..self.at(now)
        }
    }

    /// This history, in another epoch if the clock demands it. The time itself counts as a stamp:
    /// the first handshake follows at once, and a crash may come before its stamp is on disk.
    #[must_use]
    pub(super) fn at(self, now: u64) -> Self {
        let epoch = match epoch_at(now, &self) {
            EpochDecision::Keep => self.epoch,
            EpochDecision::Change(epoch) => epoch,
        };
        Self {
            epoch,
            highest_stamp: now,
            ..self
        }
    }

    /// Which of the processes that follow each other this one is: 0 to 15.
    pub(super) fn process_generation(&self) -> u8 {
        u8::try_from(self.starts % PROCESS_GENERATIONS).unwrap_or_default()
    }

    pub(super) fn read(folder: &Path) -> Result<Option<Self>, StateError> {
        let path = folder.join(FILE);
        let Some(bytes) = folder::read(&path, SIZE_MAX)? else {
            return Ok(None);
        };
        folder::parse(&path, &bytes, VERSION).map(Some)
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), StateError> {
        let path = folder.join(FILE);
        let text =
            serde_json::to_vec_pretty(self).map_err(|error| StateError::damaged(&path, error))?;
        Ok(atomic_file::replace(&path, &text, FILE_MODE)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(epoch: u64, highest_stamp: u64) -> History {
        History {
            epoch,
            highest_stamp,
            ..History::new()
        }
    }

    #[test]
    fn a_clock_ahead_of_every_stamp_keeps_the_epoch() {
        assert_eq!(epoch_at(100, &history(3, 99)), EpochDecision::Keep);
        assert_eq!(epoch_at(100, &history(3, 100)), EpochDecision::Keep);
        assert_eq!(epoch_at(0, &History::new()), EpochDecision::Keep);
    }

    #[test]
    fn a_clock_that_went_back_begins_an_epoch_that_never_was() {
        assert_eq!(epoch_at(99, &history(3, 100)), EpochDecision::Change(4));
        let mut history = history(0, 1000);
        let mut seen = vec![history.epoch];
        for now in (0..10).rev() {
            history = history.started(now);
            assert!(!seen.contains(&history.epoch));
            seen.push(history.epoch);
            history.highest_stamp = now;
        }
    }

    #[test]
    fn a_start_counts_as_a_stamp_because_a_handshake_follows_it_at_once() {
        let history = History::new().started(100);
        assert_eq!(history.clone().started(101).epoch, 0);
        assert_eq!(history.started(99).epoch, 1);
    }

    #[test]
    fn a_clock_that_stays_back_begins_one_epoch_only() {
        let history = history(0, 1000).started(10);
        assert_eq!(history.epoch, 1);
        assert_eq!(history.started(10).epoch, 1);
    }

    #[test]
    fn sixteen_starts_in_a_row_have_sixteen_generations() {
        let mut history = History::new();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..16 {
            history = history.started(1);
            seen.insert(history.process_generation());
        }
        assert_eq!(seen, (0..16).collect());
    }
}
