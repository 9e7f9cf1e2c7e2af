//! What is told at once, and what is only counted because it was just told.
//!
//! Somebody who changes the same things every second is one fact, not sixty lines a minute.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Time in which the same is told once, and at whose end the rest is summed up.
const WINDOW: Duration = Duration::from_secs(60);

/// Lines in one window, whatever there is to tell.
const LINES_MAX: usize = 10;

/// Things named in one line: somebody flushes a table of a thousand routes.
const NAMED_MAX: usize = 6;

/// What was told and what was counted in the present window; none while all is quiet.
#[derive(Debug, Default)]
pub(super) struct RepeatLog {
    window: Option<Window>,
}

#[derive(Debug)]
struct Window {
    ends: Instant,
    named: BTreeSet<String>,
    lines: usize,
    counted: u64,
}

/// What a window came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Summary {
    /// How often nothing was told.
    pub(super) times: u64,
    /// What was told before.
    pub(super) named: String,
}

impl RepeatLog {
    /// Whether to tell of these things now. If not, they are counted.
    pub(super) fn is_news(&mut self, things: &[String], now: Instant) -> bool {
        let window = self.window.get_or_insert_with(|| Window {
            ends: now + WINDOW,
            named: BTreeSet::new(),
            lines: 0,
            counted: 0,
        });
        let is_known = things.iter().all(|thing| window.named.contains(thing));
        if is_known || window.lines >= LINES_MAX {
            window.counted += 1;
            return false;
        }
        window.lines += 1;
        window.named.extend(things.iter().cloned());
        true
    }

    /// What was counted, once the window is over.
    pub(super) fn sum_up(&mut self, now: Instant) -> Option<Summary> {
        let window = self.window.take_if(|window| now >= window.ends)?;
        let named: Vec<String> = window.named.into_iter().collect();
        (window.counted > 0).then(|| Summary {
            times: window.counted,
            named: in_one_line(&named),
        })
    }
}

/// The first of these things, and how many more there are.
pub(super) fn in_one_line(things: &[String]) -> String {
    let named = things.iter().take(NAMED_MAX).map(String::as_str);
    let mut line = named.collect::<Vec<_>>().join("; ");
    if let Some(more) = things.len().checked_sub(NAMED_MAX).filter(|more| *more > 0) {
        line.push_str(&format!("; and {more} more"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn things(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn the_same_every_second_is_one_line_and_one_summary_a_minute() {
        let start = Instant::now();
        let mut log = RepeatLog::default();
        let (mut lines, mut counted) = (0, Vec::new());
        for second in 0..121 {
            let now = start + Duration::from_secs(second);
            counted.extend(log.sum_up(now).map(|summary| summary.times));
            if log.is_news(&things(&["route", "table"]), now) {
                lines += 1;
            }
        }
        assert_eq!((lines, counted), (3, vec![59, 59]));
    }

    #[test]
    fn what_is_new_is_told_at_once_and_a_part_of_what_was_told_is_not_new() {
        let now = Instant::now();
        let mut log = RepeatLog::default();
        assert!(log.is_news(&things(&["route", "table"]), now));
        assert!(!log.is_news(&things(&["table"]), now));
        assert!(log.is_news(&things(&["table", "device"]), now));
        let summary = log.sum_up(now + WINDOW).expect("one was counted");
        assert_eq!(summary.times, 1);
        assert_eq!(summary.named, "device; route; table");
        assert!(log.is_news(&things(&["table"]), now + WINDOW));
    }

    #[test]
    fn what_happens_once_has_no_summary() {
        let now = Instant::now();
        let mut log = RepeatLog::default();
        assert!(log.is_news(&things(&["table"]), now));
        assert_eq!(log.sum_up(now + WINDOW), None);
        assert_eq!(log.sum_up(now + WINDOW), None);
    }

    #[test]
    fn lines_are_bounded_whatever_there_is_to_tell() {
        let now = Instant::now();
        let mut log = RepeatLog::default();
        let told = (0..1000).filter(|n: &u32| log.is_news(&[n.to_string()], now));
        assert_eq!(told.count(), LINES_MAX);
        assert_eq!(log.sum_up(now + WINDOW).expect("a summary").times, 990);
    }

    #[test]
    fn a_line_names_the_first_and_counts_the_others() {
        let many: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        assert_eq!(in_one_line(&many), "0; 1; 2; 3; 4; 5; and 994 more");
        assert_eq!(in_one_line(&many[..6]), "0; 1; 2; 3; 4; 5");
    }
}
