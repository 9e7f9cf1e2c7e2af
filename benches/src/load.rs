//! Our own traffic, where iperf3's is too slow or counts too coarsely.

pub(crate) mod bulk;
pub(crate) mod connections;
pub(crate) mod datagrams;
pub(crate) mod round_trips;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Ends the threads of a load when it goes, whatever became of the measurement.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
