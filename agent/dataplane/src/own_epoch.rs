//! The own epoch: which tunnels are of the clock before it, and the latest stamp sent in it.
//!
//! A `Tunn` stamps its initiations with the wall clock of its creation and counts on by itself: it
//! does not notice that the clock was set. After a step back the tunnels of before go on with
//! stamps of the future, which peers remember, while a tunnel made later stamps the past and is
//! refused. So the tunnels of before must start no handshake in the next epoch.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Shared by all lanes.
#[derive(Debug, Default)]
pub(crate) struct OwnEpoch {
    number: AtomicU64,
    highest_stamp: AtomicU64,
}

impl OwnEpoch {
    /// Begins another one, in which no stamp was sent yet.
    pub(crate) fn begin(&self) {
        self.number.fetch_add(1, Ordering::AcqRel);
        self.highest_stamp.store(0, Ordering::Release);
    }

    /// Which one it is, counted from the start of the process.
    pub(crate) fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Takes note of an initiation that a tunnel of epoch `number` has made.
    pub(crate) fn note(&self, number: u64, stamp: Duration) {
        if number == self.number() {
            let stamp = u64::try_from(stamp.as_nanos()).unwrap_or(u64::MAX);
            self.highest_stamp.fetch_max(stamp, Ordering::AcqRel);
        }
    }

    /// The latest stamp, in nanoseconds since the Unix epoch; 0 when there was none.
    pub(crate) fn highest_stamp(&self) -> u64 {
        self.highest_stamp.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_of_a_tunnel_of_before_does_not_count_in_the_next_epoch() {
        let epoch = OwnEpoch::default();
        epoch.note(0, Duration::from_nanos(9));
        epoch.note(0, Duration::from_nanos(7));
        assert_eq!(epoch.highest_stamp(), 9);
        epoch.begin();
        epoch.note(0, Duration::from_nanos(10));
        assert_eq!(epoch.highest_stamp(), 0);
        epoch.note(epoch.number(), Duration::from_nanos(3));
        assert_eq!(epoch.highest_stamp(), 3);
    }
}
