//! The state folder (`/var/lib/podwire`): what makes this node the same node after a restart.
//!
//! ```text
//! lock            one agent a node
//! keys            private keys, their rotation     damaged or missing: an error, never new keys
//! history.json    starts, epoch, ever encrypted    damaged or missing: an error
//! snapshot.json   the last known mesh              damaged: reported and ignored
//! ```
//! Every file is replaced atomically and synced. Order of a first start: history, keys, history
//! with
//! `has_keys`; so a crash at any point of it leaves what the next start can tell from a loss.

mod error;
mod folder;
mod history;
mod keys;
mod own_keys;
mod snapshot;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use podwire_core::mesh::Incumbents;
use podwire_core::node::{Node, NodeName};
use tracing::warn;

pub(crate) use error::StateError;
pub(crate) use folder::{lock_if_there, remove};
use history::{EpochDecision, History};
use keys::Keys;
use own_keys::KnownKeys;
pub(crate) use snapshot::Snapshot;

/// How far the stamp on disk may be behind the highest one that was sent: a crash together with a
/// clock that went back by less locks this node out for no longer than this. Each write costs a
/// sync.
const STAMP_WRITE_INTERVAL: Duration = Duration::from_secs(5);

/// How far a running clock may fall behind the highest stamp before another epoch begins: stamps
/// count on between two settings of the clock, so that they differ by what it is corrected by now
/// and then. A new tunnel of a node is refused for no longer than this.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(1);

/// A mesh that was in force less long ago than this is still nearly the same. The stamps that say
/// so are up to two minutes old, the time between two handshakes of a peer.
const LATELY: Duration = Duration::from_secs(600);

/// What the data plane tells of its initiations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SentStamps {
    /// How many were sent since it began.
    pub(crate) initiations: u64,
    /// The highest stamp in the present epoch, in nanoseconds since the Unix epoch.
    pub(crate) highest: u64,
}

/// The state of this node, locked for as long as this value lives.
#[derive(Debug)]
pub(crate) struct State {
    folder: PathBuf,
    _lock: File,
    history: History,
    /// Nothing of it is later than the highest stamp on disk plus [`STAMP_WRITE_INTERVAL`].
    highest_stamp: u64,
    initiations_sent: u64,
    /// Whether a process before this one sent handshakes less than [`LATELY`] ago.
    ran_lately: bool,
    /// The epoch was begun by this process: no published record can be of it.
    epoch_is_new: bool,
    /// How many lanes are in use; there may be keys of more.
    lanes: usize,
    keys: KnownKeys,
    /// What was written and may or may not be on disk.
    attempted: Option<KnownKeys>,
    /// The keys were made by this process: no published record can be theirs.
    keys_are_new: bool,
    snapshot: Snapshot,
}

impl State {
    /// Opens the state folder, which is made if it is not there, and begins a start in it: keys for
    /// this many lanes, a process generation and an epoch are on disk when this returns.
    ///
    /// # Errors
    /// Locked by another agent, unusable, or a file that is damaged, missing, exposed or from the
    /// future; nothing is changed then.
    pub(crate) fn open(path: &Path, lanes: usize, now: SystemTime) -> Result<Self, StateError> {
        let lock = folder::open(path)?;
        let history = read_history(path)?;
        let (keys, keys_are_new) = open_keys(path, lanes, &history, now)?;
        let epoch_before = history.epoch;
        let ago = nanos(now).checked_sub(history.highest_stamp);
        let ran_lately = ago.is_some_and(|ago| Duration::from_nanos(ago) < LATELY);
        let history = History {
            has_keys: true,
            ..history.started(nanos(now))
        };
        history.write(path)?;
        let snapshot = Snapshot::read(path).unwrap_or_else(|error| {
            let error = anyhow::Error::new(error);
            warn!("the last known mesh is ignored until the registry tells it: {error:#}");
            Snapshot::default()
        });
        Ok(Self {
            folder: path.to_owned(),
            _lock: lock,
            highest_stamp: history.highest_stamp,
            ran_lately,
            epoch_is_new: history.epoch != epoch_before,
            history,
            initiations_sent: 0,
            lanes,
            keys: KnownKeys::of(&keys),
            attempted: None,
            keys_are_new,
            snapshot,
        })
    }

    /// The mesh that was kept last; empty if none was, or if it cannot be read.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.snapshot.clone()
    }

    /// Whether what was kept last is so fresh that the registry need not be asked at once.
    pub(crate) const fn ran_lately(&self) -> bool {
        self.ran_lately
    }

    /// Whether this node ever declared itself encrypted.
    pub(crate) const fn ever_encrypted(&self) -> bool {
        self.history.ever_encrypted
    }

    /// Remembers for good that this node is encrypted.
    pub(crate) fn keep_ever_encrypted(&mut self) -> Result<(), StateError> {
        self.keep_history(History {
            ever_encrypted: true,
            ..self.history.clone()
        })
    }

    /// What peers know this node's clock by.
    pub(crate) const fn epoch(&self) -> u64 {
        self.history.epoch
    }

    /// Which of the processes that follow each other this one is: 0 to 15.
    pub(crate) fn process_generation(&self) -> u8 {
        self.history.process_generation()
    }

    /// Remembers the highest stamp that peers may have seen. True when the clock is behind it:
    /// then [`Self::begin_epoch`] is due.
    ///
    /// # Errors
    /// The disk's; the next call tries again.
    pub(crate) fn keep_stamp(
        &mut self,
        now: SystemTime,
        sent: SentStamps,
    ) -> Result<bool, StateError> {
        let now = nanos(now);
        let mut highest = self.highest_stamp.max(sent.highest);
        if sent.initiations != self.initiations_sent {
            self.initiations_sent = sent.initiations;
            // The engine's clock counts the time that the machine slept, its mirror does not.
            highest = highest.max(now);
        }
        self.highest_stamp = highest;
        let tolerated = now.saturating_add(nanoseconds(CLOCK_TOLERANCE));
        let known = History {
            highest_stamp: highest,
            ..self.history.clone()
        };
        let is_behind = matches!(
            history::epoch_at(tolerated, &known),
            EpochDecision::Change(_)
        );
        let behind = Duration::from_nanos(highest.saturating_sub(self.history.highest_stamp));
        if behind >= STAMP_WRITE_INTERVAL {
            let highest_stamp = self.highest_stamp;
            self.keep_history(History {
                highest_stamp,
                ..self.history.clone()
            })?;
        }
        Ok(is_behind)
    }

    /// Begins another epoch, if the clock still demands it. It is on disk when this returns.
    pub(crate) fn begin_epoch(&mut self, now: SystemTime) -> Result<(), StateError> {
        let known = History {
            highest_stamp: self.highest_stamp,
            ..self.history.clone()
        };
        let next = known.at(nanos(now));
        let highest = next.highest_stamp;
        self.keep_history(next)?;
        self.highest_stamp = highest;
        self.epoch_is_new = true;
        Ok(())
    }

    /// An epoch that was begun by this process and is published already is not new to peers: the
    /// state folder is an older copy. Skips it.
    pub(crate) fn continue_epoch(&mut self, published: u64) -> Result<(), StateError> {
        if self.epoch_is_new && published == self.history.epoch {
            self.keep_history(History {
                epoch: published.saturating_add(1),
                ..self.history.clone()
            })?;
        }
        self.epoch_is_new = false;
        Ok(())
    }

    /// Keeps the last known mesh; writes only what differs from what was kept.
    pub(crate) fn keep_snapshot(
        &mut self,
        nodes: &BTreeMap<NodeName, Arc<Node>>,
        incumbents: &Incumbents,
    ) -> Result<(), StateError> {
        if self.snapshot.nodes != *nodes || self.snapshot.incumbents != *incumbents {
            let next = Snapshot {
                nodes: nodes.clone(),
                incumbents: incumbents.clone(),
            };
            next.write(&self.folder)?;
            self.snapshot = next;
        }
        Ok(())
    }

    fn keep_history(&mut self, next: History) -> Result<(), StateError> {
        if self.history != next {
            next.write(&self.folder)?;
            self.history = next;
        }
        Ok(())
    }
}

/// The history on disk; that of a new node, put on disk, in a folder without any of a node's files.
fn read_history(folder: &Path) -> Result<History, StateError> {
    if let Some(history) = History::read(folder)? {
        return Ok(history);
    }
    let others = [keys::FILE, snapshot::FILE];
    if others
        .iter()
        .any(|file| folder.join(file).symlink_metadata().is_ok())
    {
        return Err(StateError::Missing {
            path: folder.join(history::FILE),
        });
    }
    let history = History::new();
    history.write(folder)?;
    Ok(history)
}

/// The keys on disk, with keys for lanes that were added; new ones only where there never were any.
fn open_keys(
    folder: &Path,
    lanes: usize,
    history: &History,
    now: SystemTime,
) -> Result<(Keys, bool), StateError> {
    match keys::read(folder)? {
        Some(mut keys) => {
            if keys.current.lanes.len() < lanes {
                keys::extend(&mut keys, lanes)?;
                keys::write(&keys, folder)?;
            }
            Ok((keys, false))
        }
        None if history.has_keys => Err(StateError::Missing {
            path: folder.join(keys::FILE),
        }),
        None => {
            let keys = keys::generate(lanes.max(1), calendar(now))?;
            keys::write(&keys, folder)?;
            Ok((keys, true))
        }
    }
}

/// RFC 3339. A clock outside all calendars still has keys; their age is for people.
fn calendar(now: SystemTime) -> String {
    let now = jiff::Timestamp::try_from(now).unwrap_or_default();
    now.to_string()
}

/// Nanoseconds since the Unix epoch; 0 before it.
fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    nanoseconds(since.unwrap_or_default())
}

/// Enough for five centuries.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
