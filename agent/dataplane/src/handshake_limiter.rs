//! Budgets of handshakes for the whole node, whichever lane they come in by.
//!
//! Whoever asks costs from the first budget. Above it an initiation must carry a cookie, which
//! proves that its sender receives at its address. Addresses are cheap to some: so each has a
//! budget of its own then, and all those that no record names have one together. An endpoint that a
//! record names depends on no other: not on another port of its address either, where pods are
//! whose packets are masqueraded.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

/// Handshake initiations that a node answers a second before it asks for cookies. One costs about
/// 0.25 ms, so this is 5 % of a core; a mesh of 1,000 nodes that all restart at once is answered
/// within one retry, by cookies.
pub const HANDSHAKES_PER_SECOND: u32 = 200;

/// Handshake initiations with a cookie that are answered a second for the endpoints of one address,
/// and for what else comes from it, as in the kernel's driver: those of a node's eight lanes, and
/// their retries.
pub const HANDSHAKES_PER_SOURCE: u32 = 20;

/// Handshake initiations with a cookie that are answered a second for all together that are at no
/// endpoint of a record: peers behind NAT, and whoever commands many addresses. 2.5 % of a core.
pub const HANDSHAKES_OF_STRANGERS: u32 = 100;

/// Counts handshakes by the second.
#[derive(Debug)]
pub(crate) struct HandshakeLimiter {
    per_second: u32,
    start: OnceLock<Instant>,
    /// The second in the upper half, the count in the lower.
    window: AtomicU64,
    proved: Mutex<Proved>,
}

/// Handshakes of one second whose senders have proved their addresses.
#[derive(Debug, Default)]
struct Proved {
    second: u64,
    /// By address, and whether at an endpoint of a record. An entry is a handshake that was
    /// answered, so there are never more than addresses in records, and
    /// [`HANDSHAKES_OF_STRANGERS`].
    by_source: HashMap<(IpAddr, bool), u32>,
    strangers: u32,
}

impl HandshakeLimiter {
    pub(crate) fn new(per_second: u32) -> Self {
        Self {
            per_second,
            start: OnceLock::new(),
            window: AtomicU64::new(0),
            proved: Mutex::default(),
        }
    }

    fn second(&self, now: Instant) -> u64 {
        let start = *self.start.get_or_init(|| now);
        now.saturating_duration_since(start).as_secs() & u64::from(u32::MAX)
    }

    /// Counts one handshake; whether it is within the budget of this second.
    pub(crate) fn take(&self, now: Instant) -> bool {
        let second = self.second(now);
        // Another lane may be in the next second already: this one counts there, too.
        let used = |window: u64| {
            let is_past = window >> 32 < second;
            if is_past {
                0
            } else {
                window & u64::from(u32::MAX)
            }
        };
        let next = |window: u64| {
            let count = (used(window) + 1).min(u64::from(u32::MAX));
            Some((window >> 32).max(second) << 32 | count)
        };
        let before = self
            .window
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        used(before.unwrap_or_else(|window| window)) < u64::from(self.per_second)
    }

    /// Counts one handshake from an address that a cookie has proved; whether it is within the
    /// budget of that address. `is_named`: it comes from an endpoint of a record.
    pub(crate) fn take_proved(&self, now: Instant, source: IpAddr, is_named: bool) -> bool {
        let second = self.second(now);
        let mut proved = self.proved.lock();
        if proved.second < second {
            proved.second = second;
            proved.strangers = 0;
            proved.by_source.clear();
        }
        let source = (if is_named { source } else { site(source) }, is_named);
        let used = proved.by_source.get(&source).copied().unwrap_or(0);
        if used >= HANDSHAKES_PER_SOURCE
            || (!is_named && proved.strangers >= HANDSHAKES_OF_STRANGERS)
        {
            return false;
        }
        proved.by_source.insert(source, used + 1);
        proved.strangers += u32::from(!is_named);
        true
    }
}

/// The part of a stranger's address that is not its own to choose: an IPv6 host has a /64.
fn site(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)).into(),
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

    #[test]
    fn lanes_on_both_sides_of_a_seconds_end_have_one_budget() {
        let start = Instant::now();
        let (late, early) = (start + Duration::from_secs(1), start);
        let limiter = HandshakeLimiter::new(3);
        assert!(limiter.take(early));
        let turns = (0..100).map(|n| if n % 2 == 0 { late } else { early });
        assert_eq!(turns.clone().filter(|at| limiter.take(*at)).count(), 3);
        let source = "192.0.2.11".parse().expect("an address");
        let proved = turns.filter(|at| limiter.take_proved(*at, source, true));
        assert_eq!(proved.count(), 20);
    }

    #[test]
    fn what_else_comes_from_a_nodes_address_leaves_its_endpoints_their_budget() {
        let now = Instant::now();
        let limiter = HandshakeLimiter::new(0);
        assert_eq!(answered(&limiter, now, "192.0.2.11", false), 20);
        assert_eq!(answered(&limiter, now, "192.0.2.11", true), 20);
    }

    fn answered(limiter: &HandshakeLimiter, now: Instant, source: &str, is_named: bool) -> usize {
        let source: IpAddr = source.parse().expect("an address");
        (0..1000)
            .filter(|_| limiter.take_proved(now, source, is_named))
            .count()
    }

    #[test]
    fn an_address_with_a_cookie_has_a_budget_of_its_own() {
        let start = Instant::now();
        let limiter = HandshakeLimiter::new(0);
        assert_eq!(answered(&limiter, start, "192.0.2.11", true), 20);
        assert_eq!(answered(&limiter, start, "192.0.2.12", true), 20);
        assert_eq!(answered(&limiter, start, "192.0.2.11", true), 0);
        let next = start + Duration::from_secs(1);
        assert_eq!(answered(&limiter, next, "192.0.2.11", true), 20);
    }

    #[test]
    fn many_strangers_leave_addresses_of_records_their_budget() {
        let now = Instant::now();
        let limiter = HandshakeLimiter::new(0);
        let strangers = (0..=255).map(|n| format!("198.51.100.{n}"));
        let total: usize = strangers
            .map(|source| answered(&limiter, now, &source, false))
            .sum();
        assert_eq!(total, 100);
        assert_eq!(limiter.proved.lock().by_source.len(), 5);
        assert_eq!(answered(&limiter, now, "192.0.2.11", true), 20);
    }

    #[test]
    fn a_strangers_whole_ipv6_network_is_one_source_and_two_nodes_in_it_are_two() {
        let now = Instant::now();
        let limiter = HandshakeLimiter::new(0);
        assert_eq!(answered(&limiter, now, "2001:db8::1", false), 20);
        assert_eq!(answered(&limiter, now, "2001:db8::2", false), 0);
        assert_eq!(answered(&limiter, now, "2001:db8::11", true), 20);
        assert_eq!(answered(&limiter, now, "2001:db8::12", true), 20);
    }
}
