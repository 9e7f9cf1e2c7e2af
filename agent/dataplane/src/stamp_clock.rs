//! The clock by which a `Tunn` stamps its initiations: it does not tell, so it is mirrored.

use std::time::{Duration, Instant, SystemTime};

/// The wall clock at the creation of a `Tunn`, which counts on from there by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StampClock {
    made: Instant,
    /// Since the Unix epoch.
    wall_clock: Duration,
}

impl StampClock {
    /// The clock of a `Tunn` that was made just now. boringtun reads the wall clock by itself, and
    /// so does this.
    pub(crate) fn new(now: Instant) -> Self {
        let wall_clock = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        #[cfg(feature = "sim")]
        let wall_clock = wall_clock + crate::simulated_clock::since_the_origin();
        Self {
            made: now,
            wall_clock,
        }
    }

    /// The stamp of an initiation that is made now, since the Unix epoch.
    pub(crate) fn stamp(&self, now: Instant) -> Duration {
        self.wall_clock + now.saturating_duration_since(self.made)
    }
}
