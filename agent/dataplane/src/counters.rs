//! Counters of one lane's thread. Relaxed: they are read for people and metrics only.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::drop_reason::{DropCounters, DropReason};
use crate::status::HandshakeCounts;

/// What a lane's thread counts.
#[derive(Debug)]
pub(crate) struct LaneCounters {
    drops: DropCounters,
    initiations_sent: AtomicU64,
    initiations_received: AtomicU64,
    responses_sent: AtomicU64,
    responses_received: AtomicU64,
    cookie_replies_sent: AtomicU64,
    cookie_replies_received: AtomicU64,
}

macro_rules! count {
    ($($name:ident),+) => {
        $(pub(crate) fn $name(&self) {
            self.$name.fetch_add(1, Ordering::Relaxed);
        })+
    };
}

impl LaneCounters {
    pub(crate) fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            drops: DropCounters::new(),
            initiations_sent: zero(),
            initiations_received: zero(),
            responses_sent: zero(),
            responses_received: zero(),
            cookie_replies_sent: zero(),
            cookie_replies_received: zero(),
        }
    }

    count!(
        initiations_sent,
        initiations_received,
        responses_sent,
        responses_received,
        cookie_replies_sent,
        cookie_replies_received
    );

    pub(crate) fn drop(&self, reason: DropReason) {
        self.drops.add_many(reason, 1);
    }

    pub(crate) fn drop_many(&self, reason: DropReason, count: u64) {
        if count > 0 {
            self.drops.add_many(reason, count);
        }
    }

    pub(crate) fn drops(&self, reason: DropReason) -> u64 {
        self.drops.get(reason)
    }

    pub(crate) fn handshakes(&self) -> HandshakeCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        HandshakeCounts {
            initiations_sent: read(&self.initiations_sent),
            initiations_received: read(&self.initiations_received),
            responses_sent: read(&self.responses_sent),
            responses_received: read(&self.responses_received),
            cookie_replies_sent: read(&self.cookie_replies_sent),
            cookie_replies_received: read(&self.cookie_replies_received),
        }
    }
}
