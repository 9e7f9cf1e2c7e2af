//! Rotating many nodes: whom to ask next. Pure: looks and times go in.
//!
//! ```text
//!   Waiting --asked--> Asked --announced--> Rotating --retired--> Done
//!      |                 | no answer           | stalled, withdrawn
//!      +-----------------+---------------------+---> Skipped
//! ```
//! All that is to be known stands on the nodes: who rotates, whoever asked for it, takes a part of
//! the share and is not asked again; so does who was asked and has not begun. A run that begins
//! where another one was interrupted goes on with these.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use podwire_core::node::NodeName;
use podwire_core::request::Verb;
use podwire_core::rotation::{CONFIRM_DEADLINE, RETIRE_AFTER};

use crate::share::Share;
use crate::stage::{Keys, Look, NoKeys, Seen, Stage};

/// How long an agent may take to announce after it was asked: requests reach it within seconds,
/// but a folder may be copied to it once a minute.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// Time beyond an agent's own: for a restart, and for a registry that is away.
const MARGIN: Duration = Duration::from_secs(5 * 60);

/// How long keys may be announced: agents promote them after ten minutes, whoever has confirmed
/// them, or as long after a restart, or once they reach the registry again.
pub(crate) const ANNOUNCED_AT_MOST: Duration = CONFIRM_DEADLINE.saturating_add(MARGIN);

/// How long keys that were given up may be there: agents drop them after three minutes; see above.
pub(crate) const GIVEN_UP_AT_MOST: Duration = RETIRE_AFTER.saturating_add(MARGIN);

/// Why a node is not waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It was asked and did not begin.
    NoAnswer,
    /// It began and does not go on.
    Stalled(Stage),
    /// Somebody aborted its rotation.
    Withdrawn,
    /// Its Node was deleted, or created again.
    Gone,
    /// There is nothing to rotate.
    NoKeys(NoKeys),
    /// Nodes that do not go on take all of the share.
    NoRoom,
}

/// Where a node of the run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// To be asked.
    Waiting,
    /// Asked, or found asked, and it has not begun.
    Asked { since: Instant },
    /// It has two generations of keys.
    Rotating,
    /// It has new keys alone.
    Done,
    /// It is not waited for any more; yet should it go on, it counts.
    Skipped(Why),
}

/// What is told of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Announced,
    Promoted(Keys),
    Retired(Keys),
    Skipped(Why),
}

/// What has happened to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) node: NodeName,
    pub(crate) what: What,
}

/// One node of the run.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) uid: String,
    /// The generation of the keys that are to be replaced.
    pub(crate) generation: u64,
    pub(crate) state: State,
    told: Option<What>,
}

/// Since when a node has been where it is.
#[derive(Clone, Copy, Debug)]
struct Standing {
    generation: u64,
    stage: Stage,
    since: Instant,
}

/// A run over many nodes.
#[derive(Debug)]
pub(crate) struct Fleet {
    share: Share,
    targets: BTreeMap<NodeName, Target>,
    /// Of all nodes, not only the run's.
    standings: BTreeMap<NodeName, Standing>,
}

impl Fleet {
    /// A run over these nodes, as they are at its beginning.
    pub(crate) fn new(
        share: Share,
        names: impl IntoIterator<Item = NodeName>,
        look: &Look,
        now: Instant,
    ) -> Self {
        let target = |name: NodeName| {
            let target = Target::new(look.get(&name), now);
            (name, target)
        };
        Self {
            share,
            targets: names.into_iter().map(target).collect(),
            standings: BTreeMap::new(),
        }
    }

    /// Takes in how all nodes are now. Returns what has happened since.
    pub(crate) fn look(&mut self, look: &Look, now: Instant) -> Vec<News> {
        self.stand(look, now);
        let mut news = Vec::new();
        for (name, target) in &mut self.targets {
            let standing = self.standings.get(name);
            let is_stalled = standing.is_some_and(|it| it.is_stalled(now));
            target.state = target.next(look.get(name), is_stalled, now);
            news.extend(target.news(name, look.get(name)));
        }
        if self.is_blocked(look, now) {
            for (name, target) in &mut self.targets {
                if target.state == State::Waiting {
                    target.state = State::Skipped(Why::NoRoom);
                    news.extend(target.news(name, look.get(name)));
                }
            }
        }
        news
    }

    /// Whom there is room for now, with the generation that is to be replaced.
    pub(crate) fn to_ask(&self, look: &Look) -> Vec<(NodeName, Target)> {
        let waiting = self.targets.iter();
        let waiting = waiting.filter(|(_, target)| target.state == State::Waiting);
        let room = self.room(look).saturating_sub(self.taken(look));
        waiting
            .take(room)
            .map(|(name, target)| (name.clone(), target.clone()))
            .collect()
    }

    /// How many may be in rotation at once.
    pub(crate) fn room(&self, look: &Look) -> usize {
        self.share
            .of(look.values().filter(|seen| seen.keys.is_ok()).count())
    }

    /// This node was asked.
    pub(crate) fn asked(&mut self, name: &NodeName, now: Instant) {
        if let Some(target) = self.targets.get_mut(name) {
            target.state = State::Asked { since: now };
        }
    }

    /// Whether nobody is waited for any more.
    pub(crate) fn is_over(&self) -> bool {
        let mut targets = self.targets.values();
        targets.all(|target| matches!(target.state, State::Done | State::Skipped(_)))
    }

    /// The nodes of the run.
    pub(crate) const fn targets(&self) -> &BTreeMap<NodeName, Target> {
        &self.targets
    }

    /// How many of the share are taken: by who rotates, and by who was asked to.
    fn taken(&self, look: &Look) -> usize {
        let is_rotating = |seen: &Seen| seen.stage().is_some_and(Stage::is_rotating);
        let asked = self.targets.iter().filter(|(name, target)| {
            matches!(target.state, State::Asked { .. }) && !look.get(*name).is_some_and(is_rotating)
        });
        look.values().filter(|seen| is_rotating(seen)).count() + asked.count()
    }

    /// Whether nobody can be asked, and waiting changes nothing. That many nodes which do not go on
    /// are a reason to stop, not to begin with others.
    fn is_blocked(&self, look: &Look, now: Instant) -> bool {
        let mut targets = self.targets.values();
        let is_asked = targets.any(|target| matches!(target.state, State::Asked { .. }));
        let mut rotating = self.standings.values().filter(|it| it.stage.is_rotating());
        !is_asked && self.taken(look) >= self.room(look) && rotating.all(|it| it.is_stalled(now))
    }

    fn stand(&mut self, look: &Look, now: Instant) {
        let before = std::mem::take(&mut self.standings);
        for (name, seen) in look {
            let Ok(Keys {
                generation, stage, ..
            }) = seen.keys
            else {
                continue;
            };
            let same = before.get(name);
            let same = same.filter(|it| it.generation == generation && it.stage == stage);
            let since = same.map_or(now, |same| same.since);
            let standing = Standing {
                generation,
                stage,
                since,
            };
            self.standings.insert(name.clone(), standing);
        }
    }
}

impl Standing {
    /// Whether it should have gone on.
    fn is_stalled(&self, now: Instant) -> bool {
        let at_most = match self.stage {
            Stage::Announced => ANNOUNCED_AT_MOST,
            Stage::Promoted | Stage::Withdrawn => GIVEN_UP_AT_MOST,
            Stage::Settled => return false,
        };
        now.saturating_duration_since(self.since) >= at_most
    }
}

impl Target {
    fn new(seen: Option<&Seen>, now: Instant) -> Self {
        let uid = seen.map(|seen| seen.uid.clone()).unwrap_or_default();
        let keys = seen.map(|seen| (seen, &seen.keys));
        let (generation, state) = match keys {
            // Whatever keys it may have later are no answer to this run.
            None => (u64::MAX, State::Skipped(Why::Gone)),
            Some((_, Err(why))) => (u64::MAX, State::Skipped(Why::NoKeys(*why))),
            Some((seen, Ok(keys))) => match keys.stage {
                Stage::Announced => (keys.generation, State::Rotating),
                // Those in force already are the new ones.
                Stage::Promoted => (keys.generation.saturating_sub(1), State::Rotating),
                Stage::Settled | Stage::Withdrawn if seen.asked == Some(Verb::Rotate) => {
                    (keys.generation, State::Asked { since: now })
                }
                Stage::Settled | Stage::Withdrawn => (keys.generation, State::Waiting),
            },
        };
        Self {
            uid,
            generation,
            state,
            told: None,
        }
    }

    fn next(&self, seen: Option<&Seen>, is_stalled: bool, now: Instant) -> State {
        if self.state == State::Done {
            return State::Done;
        }
        let Some(seen) = seen.filter(|seen| seen.uid == self.uid) else {
            return State::Skipped(Why::Gone);
        };
        let keys = match &seen.keys {
            Ok(keys) => keys,
            Err(why) => return State::Skipped(Why::NoKeys(*why)),
        };
        if keys.stage.is_rotating() {
            return if is_stalled {
                State::Skipped(Why::Stalled(keys.stage))
            } else {
                State::Rotating
            };
        }
        if keys.generation > self.generation {
            return State::Done;
        }
        match self.state {
            State::Rotating | State::Skipped(Why::Stalled(_)) => State::Skipped(Why::Withdrawn),
            State::Asked { .. } if seen.asked == Some(Verb::Abort) => {
                State::Skipped(Why::Withdrawn)
            }
            // It begins when it has forgotten those.
            State::Asked { .. } if keys.stage == Stage::Withdrawn && !is_stalled => {
                State::Asked { since: now }
            }
            State::Asked { since } if now.saturating_duration_since(since) >= ANSWER_WITHIN => {
                State::Skipped(Why::NoAnswer)
            }
            State::Waiting | State::Asked { .. } | State::Done | State::Skipped(_) => self.state,
        }
    }

    /// What is to be told, unless it was.
    fn news(&mut self, name: &NodeName, seen: Option<&Seen>) -> Option<News> {
        let keys = seen.and_then(|seen| seen.keys.as_ref().ok());
        let what = match (self.state, keys) {
            (State::Waiting | State::Asked { .. }, _) | (State::Rotating | State::Done, None) => {
                None
            }
            (State::Rotating, Some(keys)) if keys.stage == Stage::Announced => {
                Some(What::Announced)
            }
            (State::Rotating, Some(keys)) => Some(What::Promoted(keys.clone())),
            (State::Done, Some(keys)) => Some(What::Retired(keys.clone())),
            (State::Skipped(why), _) => Some(What::Skipped(why)),
        }?;
        let is_told = match (&self.told, &what) {
            // Whatever becomes of it later.
            (Some(What::Retired(_)), _) => true,
            (told, what) => told.as_ref() == Some(what),
        };
        if is_told {
            return None;
        }
        self.told = Some(what.clone());
        Some(News {
            node: name.clone(),
            what,
        })
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAnswer => write!(
                f,
                "its agent did not begin within {}m: does it run, and reach the registry?",
                ANSWER_WITHIN.as_secs() / 60
            ),
            Self::Stalled(stage) => write!(
                f,
                "its agent does not go on, its keys are still {}: does it run, and reach the \
                 registry? It goes on from there when it does",
                stage.as_str()
            ),
            Self::Withdrawn => f.write_str("its rotation was aborted"),
            Self::Gone => f.write_str("its Node was deleted, or created again"),
            Self::NoKeys(why) => why.fmt(f),
            Self::NoRoom => f.write_str(
                "not asked: nodes that do not go on take all of --max-unavailable; `keyctl status` \
                 shows them",
            ),
        }
    }
}

impl Why {
    /// The word that programs look for.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::NoAnswer => "no-answer",
            Self::Stalled(_) => "stalled",
            Self::Withdrawn => "aborted",
            Self::Gone => "gone",
            Self::NoKeys(NoKeys::HostNetwork) => "host-network",
            Self::NoKeys(NoKeys::NoRecord) => "no-record",
            Self::NoKeys(NoKeys::Unreadable) => "unreadable-record",
            Self::NoRoom => "no-room",
        }
    }
}

#[cfg(test)]
mod tests;
