//! How often a thing is put back that somebody else keeps changing: a fight helps nobody.

use std::time::{Duration, Instant};

/// In this time nobody changes a thing several times by accident.
const WINDOW: Duration = Duration::from_secs(60);

/// As many times in a row are put back at once: an operator's mistakes are.
const AT_ONCE: u32 = 3;

/// What was put back lately.
#[derive(Debug, Default)]
pub(super) struct PutBacks {
    /// When the row began, and when its last was.
    row: Option<(Instant, Instant)>,
    count: u32,
}

impl PutBacks {
    /// Whether to put it back now, given whether it differs: which counts.
    pub(super) fn is_due(&mut self, differs: bool, now: Instant) -> bool {
        let is_past = |at: Instant| now.duration_since(at) >= WINDOW;
        let is_over = match self.row {
            // Nobody has changed it since the last time.
            Some((_, last)) if !differs => is_past(last),
            Some((first, _)) => !self.is_fight() && is_past(first),
            None => false,
        };
        if is_over {
            *self = Self::default();
        }
        let rests = self.is_fight() && self.row.is_some_and(|(_, last)| !is_past(last));
        if !differs || rests {
            return false;
        }
        let first = self.row.map_or(now, |(first, _)| first);
        self.row = Some((first, now));
        self.count = self.count.saturating_add(1);
        true
    }

    /// Whether it is put back only once in a while.
    pub(super) const fn is_fight(&self) -> bool {
        self.count >= AT_ONCE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(put_backs: &mut PutBacks, start: Instant, seconds: std::ops::Range<u64>) -> usize {
        let due = |second: &u64| put_backs.is_due(true, start + Duration::from_secs(*second));
        seconds.filter(due).count()
    }

    #[test]
    fn a_fight_is_three_times_at_once_and_then_once_a_minute_until_it_is_over() {
        let start = Instant::now();
        let mut put_backs = PutBacks::default();
        assert_eq!(times(&mut put_backs, start, 0..2), 2);
        assert!(!put_backs.is_fight());
        assert_eq!(times(&mut put_backs, start, 2..62), 1);
        assert!(put_backs.is_fight());
        assert_eq!(times(&mut put_backs, start, 62..242), 3);
        // The last was at 182 s.
        assert!(!put_backs.is_due(false, start + Duration::from_secs(241)));
        assert!(put_backs.is_fight());
        assert!(!put_backs.is_due(false, start + Duration::from_secs(242)));
        assert!(!put_backs.is_fight());
        assert_eq!(times(&mut put_backs, start, 243..246), 3);
    }

    #[test]
    fn what_is_changed_every_minute_is_no_fight() {
        let start = Instant::now();
        let mut put_backs = PutBacks::default();
        for minute in 0..9 {
            assert!(put_backs.is_due(true, start + minute * WINDOW));
            assert!(!put_backs.is_fight());
        }
    }
}
