//! What somebody else changes is put back: when, and how it is told.

use std::time::{Duration, Instant};

use podwire_core::damage::{Damage, damage};
use podwire_core::kernel::{Guard, Kernel};
use tracing::warn;

use super::repeat_log::{RepeatLog, in_one_line};

/// Time for which notifications of the kernel are gathered: a node where pods come and go notifies
/// all the time, and an observation takes milliseconds. Well under the second in which repair is
/// due.
const SETTLING_TIME: Duration = Duration::from_millis(50);

/// Least time between two repairs: with somebody who never stops, this node does not begin a race,
/// nor with itself where a table is installed by halves.
/// With the settling time it is well under the second in which repair is due.
const REPAIR_INTERVAL: Duration = Duration::from_millis(500);

/// What is known about what others do to our kernel state.
#[derive(Debug, Default)]
pub(super) struct Healing {
    /// The kernel state as this process left it; none before its first pass.
    left: Option<Kernel>,
    /// When damage was last found, or a table installed by halves.
    repaired: Option<Instant>,
    log: RepeatLog,
}

impl Healing {
    /// When the kernel is to be observed after a notification that comes now.
    pub(super) fn due(&self, now: Instant) -> Instant {
        let settled = now + SETTLING_TIME;
        self.repaired
            .map_or(settled, |at| settled.max(at + REPAIR_INTERVAL))
    }

    /// What somebody else changed since the last pass. What a predecessor left is nobody's damage.
    pub(super) fn damage(&self, observed: &Kernel, desired: &Kernel) -> Vec<Damage> {
        self.left
            .as_ref()
            .map(|left| damage(left, observed, desired))
            .unwrap_or_default()
    }

    /// A pass is over: it found this damage, left the kernel so, and `whole` or not.
    pub(super) fn passed(&mut self, left: Kernel, damage: &[Damage], whole: bool, now: Instant) {
        let is_halved = !whole && left.guard == Guard::Altered;
        self.left = Some(left);
        if is_halved || !damage.is_empty() {
            self.repaired = Some(now);
        }
        if damage.is_empty() {
            return;
        }
        let things: Vec<String> = damage.iter().map(ToString::to_string).collect();
        if !self.log.is_news(&things, now) {
            return;
        }
        let wrong = in_one_line(&things);
        if whole {
            warn!(wrong, "put back what somebody else changed");
        } else {
            warn!(wrong, "cannot put back all that somebody else changed");
        }
    }

    /// Tells of what was not worth a line of its own.
    pub(super) fn sum_up(&mut self, now: Instant) {
        if let Some(summary) = self.log.sum_up(now) {
            let (times, wrong) = (summary.times, summary.named);
            warn!(
                times,
                wrong, "put back, within a minute, what somebody else keeps changing"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_repair_is_due_at_once_and_further_ones_twice_a_second() {
        let now = Instant::now();
        let mut healing = Healing::default();
        assert_eq!(healing.due(now), now + SETTLING_TIME);
        healing.passed(Kernel::default(), &[], true, now);
        assert_eq!(healing.due(now), now + SETTLING_TIME, "nothing was wrong");
        healing.passed(Kernel::default(), &[Damage::TableMissing], true, now);
        assert_eq!(healing.due(now), now + REPAIR_INTERVAL);
        let mut failing = Healing::default();
        failing.passed(Kernel::default(), &[], false, now);
        assert_eq!(failing.due(now), now + SETTLING_TIME, "nothing was changed");
        let halved = Kernel {
            guard: Guard::Altered,
            ..Kernel::default()
        };
        failing.passed(halved, &[], false, now);
        assert_eq!(failing.due(now), now + REPAIR_INTERVAL);
        let later = now + REPAIR_INTERVAL;
        assert_eq!(healing.due(later), later + SETTLING_TIME);
        assert!(REPAIR_INTERVAL + SETTLING_TIME < Duration::from_secs(1));
    }

    #[test]
    fn whoever_never_stops_is_answered_at_most_twice_a_second() {
        let start = Instant::now();
        let mut healing = Healing::default();
        let mut repairs = Vec::new();
        // It is damaged again at once, and the kernel tells of it every millisecond.
        for millisecond in 0..10_000 {
            let now = start + Duration::from_millis(millisecond);
            let told = now.checked_sub(SETTLING_TIME).unwrap_or(now);
            if healing.due(told) <= now {
                healing.passed(Kernel::default(), &[Damage::TableMissing], true, now);
                repairs.push(now);
            }
        }
        assert!(repairs.len() >= 18, "only {} in ten seconds", repairs.len());
        for (first, third) in repairs.iter().zip(repairs.iter().skip(2)) {
            assert!(
                *third - *first >= Duration::from_secs(1),
                "three in a second"
            );
        }
    }

    #[test]
    fn what_a_predecessor_left_is_nobodys_damage() {
        let altered = Kernel {
            guard: Guard::Altered,
            ..Kernel::default()
        };
        let mut healing = Healing::default();
        let desired = Kernel::default();
        assert_eq!(healing.damage(&altered, &desired), []);
        healing.passed(desired.clone(), &[], true, Instant::now());
        assert_eq!(healing.damage(&altered, &desired), [Damage::TableAltered]);
    }
}
