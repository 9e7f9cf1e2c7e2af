//! Which Nodes are to be read whole, and when. Pure: time goes in.
//!
//! The first read of a Node is made at once, the next ones later and later: a Node that changes its
//! claim every second costs each agent a read a minute. First come, first served.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use podwire_core::node::NodeName;

/// Between the first two reads of a Node; twice as long before each further one,
const WAIT: Duration = Duration::from_secs(1);
/// at most this long, and after twice this time without any all is as at first.
const WAIT_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Pace {
    last: Instant,
    wait: Duration,
}

/// The reads that wait.
#[derive(Debug, Default)]
pub(super) struct Reads {
    waiting: BTreeSet<(Instant, NodeName)>,
    at: BTreeMap<NodeName, Instant>,
    pace: BTreeMap<NodeName, Pace>,
}

impl Reads {
    /// A Node is to be read, as soon as its pace allows.
    pub(super) fn want(&mut self, name: &NodeName, now: Instant) {
        let paced = self.pace.get(name).map(|pace| pace.last + pace.wait);
        self.queue(name, paced.map_or(now, |paced| paced.max(now)));
    }

    /// A Node is to be read at once.
    pub(super) fn want_now(&mut self, name: &NodeName, now: Instant) {
        self.queue(name, now);
    }

    fn queue(&mut self, name: &NodeName, at: Instant) {
        if !self.at.contains_key(name) {
            self.at.insert(name.clone(), at);
            self.waiting.insert((at, name.clone()));
        }
    }

    /// The next one whose time has come; it is being read from here on.
    pub(super) fn next(&mut self, now: Instant) -> Option<NodeName> {
        let first = self.waiting.first().filter(|(at, _)| *at <= now)?.clone();
        self.waiting.remove(&first);
        let (_, name) = first;
        self.at.remove(&name);
        let wait = match self.pace.get(&name) {
            Some(pace) if now.duration_since(pace.last) < 2 * WAIT_MAX => {
                (2 * pace.wait).min(WAIT_MAX)
            }
            _ => WAIT,
        };
        self.pace.insert(name.clone(), Pace { last: now, wait });
        Some(name)
    }

    /// When the next one's time comes.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.waiting.first().map(|(at, _)| *at)
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The Node is gone.
    pub(super) fn forget(&mut self, name: &NodeName) {
        self.pace.remove(name);
        if let Some(at) = self.at.remove(name) {
            self.waiting.remove(&(at, name.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().expect("a name")
    }

    #[test]
    fn a_node_that_changes_every_second_is_read_once_a_minute() {
        let start = Instant::now();
        let mut reads = Reads::default();
        let node = name("n1");
        let read = (0..3600_u64).filter(|second| {
            let now = start + Duration::from_secs(*second);
            reads.want(&node, now);
            reads.next(now).is_some()
        });
        // At 0, 1, 3, 7, 15, 31 and 63 s, then once a minute.
        assert_eq!(read.count(), 65);
        // Once it keeps still for a while, it is read at once again.
        let later = start + Duration::from_secs(3600 + 121);
        reads.want(&node, later);
        assert_eq!(reads.next(later), Some(node.clone()));
        reads.want(&node, later);
        assert_eq!(reads.next_at(), Some(later + WAIT));
    }

    #[test]
    fn who_came_first_is_read_first_and_none_twice() {
        let start = Instant::now();
        let mut reads = Reads::default();
        for text in ["z", "a", "z", "m"] {
            let later = Duration::from_millis(u64::try_from(reads.len()).expect("few"));
            reads.want(&name(text), start + later);
        }
        let now = start + Duration::from_secs(1);
        let read: Vec<NodeName> = std::iter::from_fn(|| reads.next(now)).collect();
        assert_eq!(read, ["z", "a", "m"].map(name));
    }

    #[test]
    fn a_node_that_is_gone_is_not_read() {
        let now = Instant::now();
        let mut reads = Reads::default();
        reads.want(&name("n1"), now);
        reads.forget(&name("n1"));
        assert_eq!(reads.next(now), None);
        assert_eq!(reads.next_at(), None);
    }
}
