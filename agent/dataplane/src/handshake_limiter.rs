//! One budget of handshakes for the whole node, whichever lane they come in by.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Handshake initiations that a node answers a second before it asks for cookies. One costs about
/// 0.25 ms, so this is 5 % of a core; a mesh of 1,000 nodes that all restart at once is answered
/// within one retry, by cookies.
pub const HANDSHAKES_PER_SECOND: u32 = 200;

/// Counts handshakes by the second.
#[derive(Debug)]
pub(crate) struct HandshakeLimiter {
    per_second: u32,
    start: OnceLock<Instant>,
    /// The second in the upper half, the count in the lower.
    window: AtomicU64,
}

impl HandshakeLimiter {
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            per_second,
            start: OnceLock::new(),
            window: AtomicU64::new(0),
        }
    }

    /// Counts one handshake; whether it is within the budget of this second.
    pub(crate) fn take(&self, now: Instant) -> bool {
        let start = *self.start.get_or_init(|| now);
        let second = now.saturating_duration_since(start).as_secs() & u64::from(u32::MAX);
        let next = |window: u64| {
            let is_same = window >> 32 == second;
            let count = if is_same {
                (window & u64::from(u32::MAX)) + 1
            } else {
                1
            };
            Some(second << 32 | count.min(u64::from(u32::MAX)))
        };
        let before = self
            .window
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let before = before.unwrap_or_else(|window| window);
        let used = if before >> 32 == second {
            before & u64::from(u32::MAX)
        } else {
            0
        };
        used < u64::from(self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_budget_is_by_the_second() {
        let start = Instant::now();
        let limiter = HandshakeLimiter::new(3);
        let taken = |at| (0..5).filter(|_| limiter.take(at)).count();
        assert_eq!(taken(start), 3);
        assert_eq!(taken(start + Duration::from_millis(999)), 0);
        assert_eq!(taken(start + Duration::from_secs(1)), 3);
        assert!(!HandshakeLimiter::new(0).take(start));
    }
}
