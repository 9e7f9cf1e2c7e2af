//! Things that are there now and are not ours: told when they come and go, without a flood.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::time::Instant;

use super::repeat_log::{RepeatLog, Summary, in_one_line};

/// What was found last.
#[derive(Debug)]
pub(super) struct Found<T> {
    things: BTreeSet<T>,
    log: RepeatLog,
}

/// What has come and what has gone, in words, as far as it is worth a line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    pub(super) come: Option<String>,
    pub(super) gone: Option<String>,
}

impl<T> Default for Found<T> {
    fn default() -> Self {
        Self {
            things: BTreeSet::new(),
            log: RepeatLog::default(),
        }
    }
}

impl<T: Display + Ord> Found<T> {
    /// All of them.
    pub(super) const fn things(&self) -> &BTreeSet<T> {
        &self.things
    }

    /// All of them, in words.
    pub(super) fn list(&self) -> Vec<String> {
        self.things.iter().map(ToString::to_string).collect()
    }

    /// Replaces them; returns what there is to tell.
    pub(super) fn replace(&mut self, found: BTreeSet<T>, now: Instant) -> News {
        let words =
            |set: Vec<&T>| -> Vec<String> { set.into_iter().map(ToString::to_string).collect() };
        let mut news = News::default();
        let new = words(found.difference(&self.things).collect());
        if !new.is_empty() && self.log.is_news(&new, now) {
            news.come = Some(in_one_line(&new));
        }
        let gone = words(self.things.difference(&found).collect());
        let farewell: Vec<String> = gone.iter().map(|thing| format!("{thing} gone")).collect();
        if !gone.is_empty() && self.log.is_news(&farewell, now) {
            news.gone = Some(in_one_line(&gone));
        }
        self.things = found;
        news
    }

    /// Ends a window of repeated comings and goings.
    pub(super) fn sum_up(&mut self, now: Instant) -> Option<Summary> {
        self.log.sum_up(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_goes_is_told_once_each_and_what_stays_never() {
        let now = Instant::now();
        let mut found = Found::default();
        let news = found.replace(["a", "b"].into(), now);
        assert_eq!(news.come.as_deref(), Some("a; b"));
        assert_eq!(news.gone, None);
        assert_eq!(found.replace(["a", "b"].into(), now), News::default());
        let news = found.replace(["b"].into(), now);
        assert_eq!((news.come, news.gone.as_deref()), (None, Some("a")));
        // Again within the same minute.
        assert_eq!(found.replace(["a", "b"].into(), now), News::default());
        assert_eq!(found.list(), ["a", "b"]);
    }
}
