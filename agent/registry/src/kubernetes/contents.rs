//! What counts of what the API server has told, and which Nodes it is to be asked about. Pure:
//! objects go in, Nodes come out.
//!
//! - A Node's record and what it is checked against come together: a record whose claim changed
//!   counts once the Node was read whole, and what was told before counts until then.
//! - Nodes vanish by their deletion, or by their absence from a list that came to its end.
//! - What is older than what is known of the same Node is no news, except from a list: the server
//!   may have gone back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use podwire_core::annotations;
use podwire_core::node::{Node, NodeName};
use podwire_core::record::ANNOTATION_PREFIX;

use super::reads::Reads;
use super::record_in;
use crate::manifest::{Manifest, ManifestError};
use crate::nodes::{Loss, Nodes, Part, Synchronisation};

/// The condition that a cloud's controllers set when they make a Node, and that whoever provides
/// its network takes back.
pub(super) const NETWORK_UNAVAILABLE: &str = "NetworkUnavailable";

mod entry;

use entry::{Claim, Entry, Proof};

/// Nodes that may be left to be read one by one after a list, however few there are in all.
const READS_BESIDE_A_LIST_MIN: usize = 50;

/// All Nodes as they were told.
#[derive(Debug)]
pub(super) struct Contents {
    own: Option<NodeName>,
    entries: BTreeMap<NodeName, Entry>,
    reads: Reads,
    state: Synchronisation,
    /// Counts lists.
    list: u64,
    /// Whether no list of whole Nodes has come to its end, nor is anything known from before.
    is_whole_needed: bool,
    is_changed: bool,
    /// Whether the own Node is said to have a network, once it was read.
    is_network_available: Option<bool>,
}

/// Where an object comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A list, which counts also where the server went back.
    List,
    /// A watch, a read or an answer: older than what is known, it is no news.
    News,
}

/// What a metadata object or a whole one says, apart from its proof.
struct Told {
    name: NodeName,
    uid: String,
    version: u64,
}

impl Told {
    /// `None` for an object without a name or uid: the API server has none.
    fn of(object: &Manifest) -> Option<Self> {
        let metadata = &object.metadata;
        Some(Self {
            name: metadata.name.parse().ok()?,
            uid: Some(&metadata.uid).filter(|uid| !uid.is_empty())?.clone(),
            version: version(&metadata.resource_version),
        })
    }
}

/// Versions count up (Kubernetes 1.35 and etcd promise it).
pub(super) fn version(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

impl Contents {
    /// Nothing is told yet; `known` are the Nodes of the last run.
    pub(super) fn new(own: NodeName, known: BTreeMap<NodeName, Arc<Node>>) -> Self {
        Self {
            own: Some(own),
            ..Self::whole(known)
        }
    }

    /// Nodes that are nobody's own.
    pub(super) fn whole(known: BTreeMap<NodeName, Arc<Node>>) -> Self {
        let entry = |node: Arc<Node>| Entry {
            proof: Some(Proof {
                claim: Claim::of(&node.annotations),
                version: 0,
            }),
            node: Some(Arc::clone(&node)),
            ..Entry::new(node.uid.clone(), 0, 0)
        };
        Self {
            own: None,
            is_whole_needed: known.is_empty(),
            entries: known
                .into_iter()
                .map(|(name, node)| (name, entry(node)))
                .collect(),
            reads: Reads::default(),
            state: Synchronisation::Starting,
            list: 0,
            is_changed: false,
            is_network_available: None,
        }
    }

    /// Whether a list of metadata would leave so many Nodes to be read one by one that a list of
    /// whole ones is better.
    pub(super) fn is_whole_needed(&self) -> bool {
        let few = READS_BESIDE_A_LIST_MIN.max(self.entries.len() / 10);
        self.is_whole_needed || self.reads.len() > few
    }

    /// The agent's annotations on a Node, as they were told last.
    pub(super) fn record_of(&self, name: &NodeName) -> BTreeMap<String, String> {
        let node = self.entries.get(name).and_then(|entry| entry.node.as_ref());
        node.map(|node| record_in(&node.annotations))
            .unwrap_or_default()
    }

    /// Whether the own Node's condition says that it has a network; `None` while that is unknown.
    pub(super) const fn is_network_available(&self) -> Option<bool> {
        self.is_network_available
    }

    /// The own Node's condition was set.
    pub(super) const fn network_made_available(&mut self) {
        self.is_network_available = Some(true);
    }

    /// The Nodes that changed last, so many at most, each with its uid and version.
    pub(super) fn latest(&self, most: usize) -> Vec<(NodeName, String, u64)> {
        let entries = self.entries.iter();
        let mut latest: Vec<_> = entries.map(|(name, entry)| (entry.version, name)).collect();
        latest.sort_unstable_by(|one, other| other.cmp(one));
        let known = |name: &NodeName| (name.clone(), self.entries[name].uid.clone());
        let latest = latest.into_iter().take(most).map(|(version, name)| {
            let (name, uid) = known(name);
            (name, uid, version)
        });
        latest.collect()
    }

    /// Whether a Node, as it is read now, is from before what was told of it.
    pub(super) fn is_from_before(known: &(NodeName, String, u64), read: Option<&Manifest>) -> bool {
        let (_, uid, at) = known;
        read.is_none_or(|read| {
            read.metadata.uid != *uid || version(&read.metadata.resource_version) < *at
        })
    }

    /// A list of all Nodes begins.
    pub(super) fn begin(&mut self) {
        self.list += 1;
    }

    /// The list came to its end: what was not on it is not there. Returns `false`, and nothing
    /// changes, when it had not one Node where some were known: a mesh has at least the own one.
    #[must_use]
    pub(super) fn complete(&mut self, is_whole: bool) -> bool {
        let before = self.entries.len();
        let is_there = |entry: &Entry| entry.list == self.list;
        if before > 0 && !self.entries.values().any(is_there) {
            return false;
        }
        let (entries, reads) = (&mut self.entries, &mut self.reads);
        entries.retain(|name, entry| {
            let is_there = entry.list == self.list;
            if !is_there {
                reads.forget(name);
            }
            is_there
        });
        self.is_changed |= self.entries.len() != before;
        self.is_whole_needed &= !is_whole;
        self.enter(Synchronisation::Synchronised);
        true
    }

    /// Changes are followed again.
    pub(super) fn followed(&mut self) {
        self.enter(Synchronisation::Synchronised);
    }

    /// The API server is out of reach: nothing changes but the state.
    pub(super) fn lost(&mut self, loss: Loss) {
        // At the start there is nothing yet that could be lost, and what is wrong must be told.
        self.enter(Synchronisation::Lost(loss));
    }

    fn enter(&mut self, state: Synchronisation) {
        self.is_changed |= self.state != state;
        self.state = state;
    }

    /// What of its annotations is kept of a Node: of another's all that is known, so that nobody
    /// fills everybody's memory; of the own one all that has to be removed, too.
    fn kept(&self, mut node: Node) -> Node {
        if self.own.as_ref() != Some(&node.name) {
            let is_record = |key: &str| key.starts_with(ANNOTATION_PREFIX);
            node.annotations
                .retain(|key, _| !is_record(key) || annotations::is_known(key));
        }
        node
    }

    /// A Node's metadata.
    pub(super) fn told(&mut self, object: Manifest, source: Source, now: Instant) {
        let Some(told) = Told::of(&object) else {
            return;
        };
        let is_own = self.own.as_ref() == Some(&told.name);
        let name = told.name.clone();
        let node = object.into_node().map(|node| self.kept(node));
        let (list, known) = (self.list, self.entries.get_mut(&name));
        let is_due = match known {
            Some(entry) if entry.uid == told.uid => {
                if source == Source::List {
                    entry.list = list;
                }
                let is_older = told.version < entry.version;
                let is_touched = source == Source::News || entry.touched == list;
                if is_older && is_touched {
                    return;
                }
                if source == Source::News {
                    entry.touched = list;
                }
                entry.version = told.version;
                self.is_changed |= entry.take(node, is_own);
                entry.is_due
            }
            // The end, or the beginning, of another one of this name came late.
            Some(entry) if source == Source::News && told.version < entry.version => return,
            _ => self.met(told, node, is_own),
        };
        if is_due && is_own {
            self.reads.want_now(&name, now);
        } else if is_due {
            self.reads.want(&name, now);
        }
    }

    /// A Node that was not known, or is another one under a known name. Returns whether it is due.
    fn met(&mut self, told: Told, node: Result<Node, ManifestError>, is_own: bool) -> bool {
        let mut entry = Entry::new(told.uid, told.version, self.list);
        match node {
            Ok(node) => {
                entry.is_due = is_own || Claim::of(&node.annotations).is_made();
                // One without a claim is no peer and has nothing to prove.
                entry.node = (!entry.is_due).then(|| Arc::new(node));
            }
            Err(error) => drop(entry.reject(Part::Record, error)),
        }
        let is_due = entry.is_due;
        self.entries.insert(told.name, entry);
        self.is_changed = true;
        is_due
    }

    /// A Node that was read whole.
    pub(super) fn fetched(&mut self, object: Manifest, source: Source, now: Instant) {
        let Some(told) = Told::of(&object) else {
            return;
        };
        let known = self.entries.get(&told.name);
        let is_known = known.is_some_and(|entry| entry.uid == told.uid);
        if source == Source::News {
            // It ended while it was read, or another one has its name.
            let Some(known) = known.filter(|_| is_known) else {
                return;
            };
            // What the watch has told since is newer: it is read again.
            if known.version > told.version {
                self.reads.want(&told.name, now);
                return;
            }
        }
        let known = known.filter(|_| is_known);
        let mut entry = Entry::new(told.uid, told.version, self.list);
        if source == Source::List
            && let Some(newer) = known
            && newer.touched == self.list
            && newer.version > told.version
        {
            entry = newer.clone();
            entry.list = self.list;
            self.entries.insert(told.name, entry);
            return;
        }
        entry.rejection = known.and_then(|known| known.rejection.clone());
        if self.own.as_ref() == Some(&told.name) {
            self.is_network_available = Some(object.is_denied(NETWORK_UNAVAILABLE));
        }
        match object.into_node().map(|node| self.kept(node)) {
            Ok(node) => {
                entry.rejection = None;
                entry.proof = Some(Proof {
                    claim: Claim::of(&node.annotations),
                    version: told.version,
                });
                let same = known.and_then(|known| known.node.as_ref());
                entry.node = Some(match same.filter(|known| ***known == node) {
                    Some(known) => Arc::clone(known),
                    None => Arc::new(node),
                });
            }
            Err(error) => drop(entry.reject(Part::Manifest, error)),
        }
        let is_same = known.is_some_and(|known| {
            let nodes = match (&known.node, &entry.node) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            nodes && known.rejection == entry.rejection
        });
        self.is_changed |= !is_same;
        self.entries.insert(told.name, entry);
    }

    /// A Node was asked for and is not there: the watch tells its end.
    pub(super) fn not_found(&mut self, name: &NodeName, uid: &str) {
        if let Some(entry) = self.entries.get_mut(name)
            && entry.uid == uid
        {
            entry.is_due = false;
        }
    }

    /// A Node was asked for in vain: it is asked for again, later.
    pub(super) fn not_read(&mut self, name: &NodeName, now: Instant) {
        if self.entries.get(name).is_some_and(|entry| entry.is_due) {
            self.reads.want(name, now);
        }
    }

    /// A Node was deleted. One of the same name that was created since stays.
    pub(super) fn deleted(&mut self, object: &Manifest) {
        let Some(told) = Told::of(object) else {
            return;
        };
        let is_it = |entry: &Entry| entry.uid == told.uid;
        if self.entries.get(&told.name).is_some_and(is_it) {
            self.entries.remove(&told.name);
            self.reads.forget(&told.name);
            self.is_changed = true;
        }
    }

    /// A Node that has to be read whole now, and its uid.
    pub(super) fn due(&mut self, now: Instant) -> Option<(NodeName, String)> {
        while let Some(name) = self.reads.next(now) {
            if let Some(entry) = self.entries.get(&name)
                && entry.is_due
            {
                return Some((name, entry.uid.clone()));
            }
        }
        None
    }

    /// When the next one has to be read.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.reads.next_at()
    }

    /// The Nodes, if something changed since they were asked for last.
    pub(super) fn changed(&mut self) -> Option<Arc<Nodes>> {
        if !std::mem::take(&mut self.is_changed) {
            return None;
        }
        let mut nodes = Nodes {
            state: self.state.clone(),
            ..Nodes::default()
        };
        // Before the first list is whole, what is known is the last run's, and who keeps that
        // goes on with it.
        if self.list > 0 || self.state == Synchronisation::Synchronised {
            for (name, entry) in &self.entries {
                if let Some(node) = &entry.node {
                    nodes.nodes.insert(name.clone(), Arc::clone(node));
                }
                if let Some(rejection) = &entry.rejection {
                    nodes.rejected.insert(name.clone(), rejection.clone());
                }
            }
        }
        Some(Arc::new(nodes))
    }
}

#[cfg(test)]
mod tests;
