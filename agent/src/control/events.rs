//! What an operator shall find at the Node itself: Events, few of them.
//!
//! Each reason is told when what it says has changed, and at most once a minute; nothing is told
//! again because it lasts. So a mesh at rest writes none.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use podwire_registry::nodes::Synchronisation;
use podwire_registry::refusals::Reason;
use podwire_registry::registry::Event;
use tokio::task::JoinHandle;
use tracing::debug;

use super::agent::Agent;
use super::key_rotation::NORMAL;
use super::repeat_log::in_one_line;

/// Least time between two Events of one reason. All agents of a mesh may have the same to tell.
const INTERVAL: Duration = Duration::from_secs(60);

/// All agents of a mesh see the same refused node: each waits up to this for every node, and no
/// longer than this in all.
const SPREAD_OF_A_NODE: Duration = Duration::from_millis(10);
const SPREAD_MAX: Duration = Duration::from_secs(30);

/// Losses of the registry that are shorter are not told.
const LOSS_MIN: Duration = Duration::from_secs(60);

/// Claims of other nodes that do not count.
const CLAIM_REFUSED: &str = "ClaimRefused";
/// Pairs whose packets are not encrypted, as declared.
const PLAINTEXT_PAIRS: &str = "PlaintextPairs";
/// Pairs without traffic, since a node declares what the policy of this one refuses.
const PAIRS_CLOSED: &str = "PairsClosed";
/// The TUN device cannot be used.
const DEVICE_UNUSABLE: &str = "DeviceUnusable";
/// What keeps pods of this host from working.
const HOST_NOT_FIT: &str = "HostNotFit";
/// The registry was out of reach; told once it is back.
const REGISTRY_LOST: &str = "RegistryLost";

/// What was told, and what is being told.
#[derive(Debug, Default)]
pub(super) struct Events {
    told: BTreeMap<&'static str, Told>,
    lost: Option<Lost>,
    telling: Option<JoinHandle<Option<Refused>>>,
}

/// An Event that was not taken, by its reason.
type Refused = &'static str;

#[derive(Debug)]
struct Told {
    at: Instant,
    note: Option<String>,
}

#[derive(Debug)]
struct Lost {
    since: Instant,
    why: String,
    /// How long it lasted, once it is over.
    lasted: Option<Duration>,
}

impl Events {
    /// What was not taken is to be told again, though not at once.
    fn refused(&mut self, reason: Refused) {
        if let Some(told) = self.told.get_mut(reason) {
            told.note = None;
        }
    }

    /// Follows whether the registry is there.
    fn follow(&mut self, state: &Synchronisation, now: Instant) {
        match (state, &mut self.lost) {
            (Synchronisation::Lost(loss), None) => {
                self.lost = Some(Lost {
                    since: now,
                    why: loss.to_string(),
                    lasted: None,
                });
            }
            (Synchronisation::Synchronised, Some(lost)) if lost.lasted.is_none() => {
                let lasted = now.saturating_duration_since(lost.since);
                // A short one is of no use to anybody, and all nodes would tell it at once.
                lost.lasted = Some(lasted);
                if lasted < LOSS_MIN {
                    self.lost = None;
                }
            }
            _ => {}
        }
    }

    /// The next Event, of what there is to say of each reason now.
    fn next(&mut self, mut says: BTreeMap<&'static str, String>, now: Instant) -> Option<Event> {
        if let Some(lost) = &self.lost
            && let Some(lasted) = lost.lasted
        {
            let note = format!("for {} s: {}", lasted.as_secs(), lost.why);
            says.insert(REGISTRY_LOST, note);
        }
        for (reason, told) in &mut self.told {
            // What is over and comes again is news.
            if !says.contains_key(reason) {
                told.note = None;
            }
        }
        let is_due = |(reason, note): &(&'static str, String)| {
            self.told.get(reason).is_none_or(|told| {
                told.note.as_ref() != Some(note) && now.duration_since(told.at) >= INTERVAL
            })
        };
        let (reason, note) = says.into_iter().find(is_due)?;
        if reason == REGISTRY_LOST {
            self.lost = None;
        }
        let told = Told {
            at: now,
            note: Some(note.clone()),
        };
        self.told.insert(reason, told);
        let is_warning = !NORMAL.contains(&reason);
        Some(Event {
            reason,
            note,
            is_warning,
        })
    }
}

/// Over how long the agents of so many nodes spread what all of them have to tell.
fn spread(nodes: usize) -> Duration {
    let nodes = u32::try_from(nodes).unwrap_or(u32::MAX);
    SPREAD_OF_A_NODE.saturating_mul(nodes).min(SPREAD_MAX)
}

impl Agent {
    /// Tells what there is to tell, one Event at a time, while the registry is there to take it.
    pub(super) fn tell_events(&mut self) {
        let now = Instant::now();
        self.events.follow(&self.nodes.state, now);
        match self.events.telling.as_mut().map(FutureExt::now_or_never) {
            Some(None) => return,
            Some(Some(Ok(Some(reason)))) => self.events.refused(reason),
            Some(Some(Ok(None) | Err(_))) | None => {}
        }
        self.events.telling = None;
        if !self.nodes.is_synchronised() {
            return;
        }
        let Some(own) = self.own_node().cloned() else {
            return;
        };
        let says = self.says();
        let Some(event) = self.events.next(says, now) else {
            return;
        };
        let registry = self.registry.clone();
        let spread = spread(self.nodes.nodes.len()).mul_f64(fastrand::f64());
        self.events.telling = Some(tokio::spawn(async move {
            tokio::time::sleep(spread).await;
            let refused = registry.tell(&own.name, &own.uid, &event).await.err();
            refused.map(|error| {
                debug!(%error, reason = event.reason, "an Event was not taken");
                event.reason
            })
        }));
    }

    fn says(&self) -> BTreeMap<&'static str, String> {
        let status = self.shown.status.load();
        let refused = status.refusals.iter();
        let refused: Vec<String> = refused
            .filter(|(_, refused)| refused.reason != Reason::NoRecord.as_str())
            .map(|(node, refused)| format!("{node}: {}", refused.message))
            .collect();
        let closed = status.closed.iter();
        let closed: Vec<String> = closed.map(|(node, why)| format!("{node}: {why}")).collect();
        let device = self.problems.device.text().map(str::to_owned);
        let device = device.or_else(|| self.problems.fallback.clone());
        let found = self.findings.list();
        let cni = self.problems.cni.text().map(str::to_owned);
        let found: Vec<String> = found.into_iter().chain(cni).collect();
        [
            (
                CLAIM_REFUSED,
                (!refused.is_empty()).then(|| in_one_line(&refused)),
            ),
            (
                PLAINTEXT_PAIRS,
                (!status.plaintext.is_empty()).then(|| in_one_line(&status.plaintext)),
            ),
            (
                PAIRS_CLOSED,
                (!closed.is_empty()).then(|| in_one_line(&closed)),
            ),
            (DEVICE_UNUSABLE, device),
            (
                HOST_NOT_FIT,
                (!found.is_empty()).then(|| in_one_line(&found)),
            ),
        ]
        .into_iter()
        .filter_map(|(reason, note)| Some((reason, note?)))
        .chain(self.rotation.says())
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use podwire_registry::nodes::Loss;

    use super::*;

    fn says(note: &str) -> BTreeMap<&'static str, String> {
        [(CLAIM_REFUSED, note.to_owned())].into()
    }

    fn notes(events: &mut Events, note: &str, now: Instant) -> Vec<String> {
        let event = std::iter::from_fn(|| events.next(says(note), now));
        event.map(|event| event.note).collect()
    }

    #[test]
    fn what_lasts_is_told_once() {
        let start = Instant::now();
        let mut events = Events::default();
        let told = (0..600)
            .flat_map(|second| notes(&mut events, "node-3", start + Duration::from_secs(second)));
        assert_eq!(told.collect::<Vec<_>>(), ["node-3"]);
    }

    #[test]
    fn what_changes_every_second_is_told_once_a_minute_as_it_is_then() {
        let start = Instant::now();
        let mut events = Events::default();
        let told = (0..130_u64).flat_map(|second| {
            let now = start + Duration::from_secs(second);
            notes(&mut events, &second.to_string(), now)
        });
        assert_eq!(told.collect::<Vec<_>>(), ["0", "60", "120"]);
    }

    #[test]
    fn what_is_over_and_comes_again_is_news_after_a_minute() {
        let start = Instant::now();
        let mut events = Events::default();
        assert_eq!(notes(&mut events, "x", start).len(), 1);
        assert_eq!(events.next(BTreeMap::new(), start), None);
        assert_eq!(notes(&mut events, "x", start + INTERVAL / 2).len(), 0);
        assert_eq!(notes(&mut events, "x", start + INTERVAL).len(), 1);
    }

    #[test]
    fn what_was_not_taken_is_told_again_after_a_minute() {
        let start = Instant::now();
        let mut events = Events::default();
        assert_eq!(notes(&mut events, "x", start).len(), 1);
        events.refused(CLAIM_REFUSED);
        assert_eq!(notes(&mut events, "x", start + INTERVAL / 2).len(), 0);
        assert_eq!(notes(&mut events, "x", start + INTERVAL).len(), 1);
        assert_eq!(notes(&mut events, "x", start + INTERVAL * 2).len(), 0);
    }

    #[test]
    fn a_lost_registry_is_told_once_it_is_back() {
        let start = Instant::now();
        let mut events = Events::default();
        let lost = Synchronisation::Lost(Loss::Unreachable("refused".to_owned()));
        events.follow(&lost, start);
        events.follow(&lost, start + Duration::from_secs(3));
        assert_eq!(events.next(BTreeMap::new(), start), None);
        let back = start + Duration::from_secs(61);
        events.follow(&Synchronisation::Synchronised, back);
        let event = events.next(BTreeMap::new(), back).expect("news");
        assert_eq!(event.reason, REGISTRY_LOST);
        assert_eq!(event.note, "for 61 s: refused");
        events.follow(&Synchronisation::Synchronised, back);
        assert_eq!(events.next(BTreeMap::new(), back), None);
    }
}
