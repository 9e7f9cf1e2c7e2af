//! How often the own record may be written: each write reaches every agent, and somebody who
//! rewrites our annotations as fast as we do must not make a storm of it. Nor must a registry that
//! refuses them.

use std::time::{Duration, Instant};

/// Writes that may follow each other at once: more than a start, a change of mode and a key
/// rotation take together.
const BURST: u32 = 8;

/// After those, one in this time.
const REFILL: Duration = Duration::from_secs(10);

/// After a first failure; twice as long after each further one,
const RETRY: Duration = Duration::from_millis(500);
/// and at most this long.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// A bucket of writes, and a brake.
#[derive(Debug, Default)]
pub(super) struct WriteBudget {
    spent: u32,
    /// When the present number of spent ones began to count.
    since: Option<Instant>,
    /// The latest failure, and how many there were in a row.
    failed: Option<(Instant, u32)>,
}

/// Whether the record may be written now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permission {
    Granted,
    /// It was written too often.
    Spent,
    /// It was refused just now.
    Refused,
}

impl WriteBudget {
    pub(super) fn ask(&mut self, now: Instant) -> Permission {
        if let Some(since) = self.since {
            let passed = now.saturating_duration_since(since).as_secs() / REFILL.as_secs();
            let refilled = u32::try_from(passed).unwrap_or(u32::MAX);
            self.spent = self.spent.saturating_sub(refilled);
            self.since = (self.spent > 0).then(|| since + REFILL.saturating_mul(refilled));
        }
        let brake = self.failed.map(|(at, times)| {
            let factor = 2_u32.saturating_pow(times.saturating_sub(1));
            at + RETRY.saturating_mul(factor).min(RETRY_MAX)
        });
        if brake.is_some_and(|until| now < until) {
            Permission::Refused
        } else if self.spent >= BURST {
            Permission::Spent
        } else {
            Permission::Granted
        }
    }

    pub(super) fn written(&mut self, now: Instant) {
        self.failed = None;
        self.spent += 1;
        self.since.get_or_insert(now);
    }

    pub(super) fn failed(&mut self, now: Instant) {
        let times = self.failed.map_or(0, |(_, times)| times);
        self.failed = Some((now, times.saturating_add(1)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(budget: &mut WriteBudget, now: Instant) -> bool {
        let is_granted = budget.ask(now) == Permission::Granted;
        if is_granted {
            budget.written(now);
        }
        is_granted
    }

    #[test]
    fn changes_are_written_at_once_and_a_fight_every_ten_seconds() {
        let start = Instant::now();
        let mut budget = WriteBudget::default();
        let second = |second| start + Duration::from_secs(second);
        let at_once = (0..100).filter(|_| write(&mut budget, start)).count();
        assert_eq!(at_once, 8);
        let fight = (1..=600).filter(|at| write(&mut budget, second(*at)));
        assert_eq!(fight.count(), 60);
        // Once it is over, all is as before.
        let later = second(600 + 80);
        let at_once = (0..100).filter(|_| write(&mut budget, later)).count();
        assert_eq!(at_once, 8);
    }

    #[test]
    fn a_registry_that_refuses_is_asked_less_and_less_and_every_ten_seconds_at_least() {
        let start = Instant::now();
        let mut budget = WriteBudget::default();
        let asked = (0..1200).filter(|half| {
            let now = start + Duration::from_millis(500) * *half;
            let is_asked = budget.ask(now) == Permission::Granted;
            if is_asked {
                budget.failed(now);
            }
            is_asked
        });
        // In ten minutes: at 0, 0.5, 1.5, 3.5, 7.5 and 15.5 s, then every 10 s.
        assert_eq!(asked.count(), 64);
    }
}
