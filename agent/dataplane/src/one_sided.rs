//! Peers that may have sessions with this node of which this end is gone.
//!
//! What such a peer sends is for nobody, and without an answer it finds out only after 15 s
//! (WireGuard §6.5); traffic of ours does not help where it takes other lanes. So this end, which
//! knows, asks for a handshake on every lane.

use std::collections::BTreeMap;
use std::time::Instant;

use podwire_core::node::NodeName;

use crate::timers::REJECT_AFTER_TIME;

/// For how long such sessions live: what was lost longer ago is of no interest.
#[derive(Debug, Default)]
pub(crate) struct OneSided {
    /// When this process took the place of another one, which had sessions with whomever.
    succeeded: Option<Instant>,
    /// When peers lost their sessions by being removed.
    cut: BTreeMap<NodeName, Instant>,
}

impl OneSided {
    /// Another process of this node had sessions until now.
    pub(crate) fn succeed(&mut self, now: Instant) {
        self.succeeded = Some(now);
    }

    /// The sessions with a peer end now at this end.
    pub(crate) fn cut(&mut self, name: &NodeName, now: Instant) {
        self.cut.insert(name.clone(), now);
    }

    /// Whether this peer may have such sessions.
    pub(crate) fn may_have(&self, name: &NodeName) -> bool {
        self.succeeded.is_some() || self.cut.contains_key(name)
    }

    /// Forgets what lies so far back that no session of then lives.
    pub(crate) fn expire(&mut self, now: Instant) {
        let lives = |at: &Instant| now.saturating_duration_since(*at) < REJECT_AFTER_TIME;
        self.succeeded = self.succeeded.filter(lives);
        self.cut.retain(|_, at| lives(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_remembered_for_as_long_as_their_sessions_live() {
        let (one, other): (NodeName, NodeName) =
            ("one".parse().expect("name"), "other".parse().expect("name"));
        let start = Instant::now();
        let mut sides = OneSided::default();
        sides.cut(&one, start);
        sides.expire(start + REJECT_AFTER_TIME / 2);
        assert!(sides.may_have(&one) && !sides.may_have(&other));
        sides.succeed(start + REJECT_AFTER_TIME / 2);
        assert!(sides.may_have(&other));
        sides.expire(start + REJECT_AFTER_TIME);
        assert!(sides.cut.is_empty() && sides.may_have(&one));
        sides.expire(start + REJECT_AFTER_TIME * 2);
        assert!(!sides.may_have(&one) && !sides.may_have(&other));
    }
}
