//! What counts of what the API server has told, and which Nodes it is to be asked about. Pure:
//! objects go in, Nodes come out.
//!
//! - A Node's record and what it is checked against come together: a record whose claim changed
//!   counts once the Node was read whole, and what was told before counts until then.
//! - Nodes vanish by their deletion, or by their absence from a list that came to its end.
//! - What is older than what is known of the same Node is no news, except from a list: the server
//!   may have gone back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use podwire_core::annotations::{self, ENDPOINTS, MODE, POD_CIDRS};
use podwire_core::node::{Node, NodeName};

use super::record_in;
use crate::manifest::{Manifest, ManifestError};
use crate::nodes::{Loss, Nodes, Part, Rejection, Synchronisation};

/// The condition that a cloud's controllers set when they make a Node, and that whoever provides
/// its network takes back.
pub(super) const NETWORK_UNAVAILABLE: &str = "NetworkUnavailable";

/// What a record claims that its Node has to prove.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claim([Option<String>; 3]);

impl Claim {
    fn of(annotations: &BTreeMap<String, String>) -> Self {
        Self([POD_CIDRS, ENDPOINTS, MODE].map(|key| annotations.get(key).cloned()))
    }

    fn is_made(&self) -> bool {
        self.0.iter().any(Option::is_some)
    }
}

/// A Node that was read whole.
#[derive(Clone, Debug)]
struct Proof {
    /// What it claimed then.
    claim: Claim,
    /// Its version then.
    version: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    uid: String,
    /// The latest of it that is known.
    version: u64,
    /// The list in which it came last.
    list: u64,
    /// What counts of it; `None` while what its claim is checked against is not known.
    node: Option<Arc<Node>>,
    rejection: Option<Rejection>,
    proof: Option<Proof>,
    is_due: bool,
}

/// All Nodes as they were told.
#[derive(Debug)]
pub(super) struct Contents {
    own: Option<NodeName>,
    entries: BTreeMap<NodeName, Entry>,
    state: Synchronisation,
    /// Counts lists.
    list: u64,
    is_listing: bool,
    is_changed: bool,
    /// Whether the own Node is said to have a network.
    is_network_available: bool,
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
            uid: node.uid.clone(),
            version: 0,
            list: 0,
            proof: Some(Proof {
                claim: Claim::of(&node.annotations),
                version: 0,
            }),
            node: Some(node),
            rejection: None,
            is_due: false,
        };
        Self {
            own: None,
            entries: known
                .into_iter()
                .map(|(name, node)| (name, entry(node)))
                .collect(),
            state: Synchronisation::Starting,
            list: 0,
            is_listing: false,
            is_changed: false,
            is_network_available: false,
        }
    }

    /// Whether nothing is known, so that every Node has to be read whole.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The agent's annotations on a Node, as they were told last.
    pub(super) fn record_of(&self, name: &NodeName) -> BTreeMap<String, String> {
        let node = self.entries.get(name).and_then(|entry| entry.node.as_ref());
        node.map(|node| record_in(&node.annotations))
            .unwrap_or_default()
    }

    /// Whether the own Node's condition says, as it was read last, that it has a network.
    pub(super) const fn is_network_available(&self) -> bool {
        self.is_network_available
    }

    /// The own Node's condition was set.
    pub(super) const fn network_made_available(&mut self) {
        self.is_network_available = true;
    }

    /// A list of all Nodes begins.
    pub(super) fn begin(&mut self) {
        self.list += 1;
        self.is_listing = true;
    }

    /// The list came to its end: what was not on it is not there.
    pub(super) fn complete(&mut self) {
        let before = self.entries.len();
        self.entries.retain(|_, entry| entry.list == self.list);
        self.is_changed |= self.entries.len() != before;
        self.is_listing = false;
        self.enter(Synchronisation::Synchronised);
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

    /// A Node's metadata.
    pub(super) fn told(&mut self, object: Manifest) {
        let Some(told) = Told::of(&object) else {
            return;
        };
        let is_own = self.own.as_ref() == Some(&told.name);
        let list = self.list;
        let is_listing = self.is_listing;
        let node = object.into_node();
        let known = self.entries.get_mut(&told.name);
        let Some(entry) = known.filter(|entry| entry.uid == told.uid) else {
            self.met(told, node, is_own);
            return;
        };
        entry.list = list;
        if told.version < entry.version && !is_listing {
            return;
        }
        entry.version = told.version;
        let node = match node {
            Ok(node) => node,
            Err(error) => {
                self.is_changed |= entry.reject(Part::Record, error);
                return;
            }
        };
        self.is_changed |= entry.rejection.take().is_some();
        let claim = Claim::of(&node.annotations);
        entry.is_due = entry.wants_proof(&claim, is_own);
        let next = match &entry.node {
            None if entry.is_due => return,
            None => node,
            // Its own agent claims what it has proven; of a peer nobody must see half a change.
            Some(_) if entry.is_due && !is_own => return,
            Some(known) if known.annotations == node.annotations => return,
            Some(known) => Node {
                annotations: node.annotations,
                ..Node::clone(known)
            },
        };
        entry.node = Some(Arc::new(next));
        self.is_changed = true;
    }

    /// A Node that was not known, or is another one under a known name.
    fn met(&mut self, told: Told, node: Result<Node, ManifestError>, is_own: bool) {
        let mut entry = Entry {
            uid: told.uid,
            version: told.version,
            list: self.list,
            node: None,
            rejection: None,
            proof: None,
            is_due: false,
        };
        match node {
            Ok(node) => {
                entry.is_due = is_own || Claim::of(&node.annotations).is_made();
                // One without a claim is no peer and has nothing to prove.
                entry.node = (!entry.is_due).then(|| Arc::new(node));
            }
            Err(error) => drop(entry.reject(Part::Record, error)),
        }
        self.entries.insert(told.name, entry);
        self.is_changed = true;
    }

    /// A Node that was read whole.
    pub(super) fn fetched(&mut self, object: Manifest) {
        let Some(told) = Told::of(&object) else {
            return;
        };
        let known = self.entries.get(&told.name);
        let known = known.filter(|entry| entry.uid == told.uid);
        // What the watch has told since is newer: it is read again.
        if !self.is_listing && known.is_some_and(|known| known.version > told.version) {
            return;
        }
        let mut entry = Entry {
            uid: told.uid,
            version: told.version,
            list: self.list,
            node: None,
            rejection: None,
            proof: None,
            is_due: false,
        };
        if self.own.as_ref() == Some(&told.name) {
            self.is_network_available = object.is_denied(NETWORK_UNAVAILABLE);
        }
        match object.into_node() {
            Ok(node) => {
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
            let is_node = |one: &Arc<Node>, other: &Arc<Node>| Arc::ptr_eq(one, other);
            known.rejection == entry.rejection
                && matches!((&known.node, &entry.node), (Some(one), Some(other)) if is_node(one, other))
        });
        self.is_changed |= !is_same;
        self.entries.insert(told.name, entry);
    }

    /// A Node was asked for and is not there: the watch tells its end.
    pub(super) fn not_found(&mut self, name: &NodeName) {
        if let Some(entry) = self.entries.get_mut(name) {
            entry.is_due = false;
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
            self.is_changed = true;
        }
    }

    /// A Node that has to be read whole and is not among these, which are being read: the own one
    /// first.
    pub(super) fn due(&self, asked: &BTreeSet<NodeName>) -> Option<NodeName> {
        let is_due = |name: &&NodeName| {
            !asked.contains(*name) && self.entries.get(*name).is_some_and(|entry| entry.is_due)
        };
        let own = self.own.as_ref().filter(is_due);
        own.or_else(|| self.entries.keys().find(is_due)).cloned()
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

impl Entry {
    /// Whether the Node has to be read whole for this claim.
    fn wants_proof(&self, claim: &Claim, is_own: bool) -> bool {
        let Some(proof) = self.proof.as_ref().filter(|_| self.node.is_some()) else {
            return is_own || claim.is_made();
        };
        let is_older = proof.version != self.version;
        // The own spec and addresses are followed. So are those of a Node whose claim does not
        // hold: it may have been read before its addresses were there.
        proof.claim != *claim || is_older && (is_own || !self.holds())
    }

    /// Whether what was told agrees with what it is checked against.
    fn holds(&self) -> bool {
        let Some(node) = &self.node else {
            return false;
        };
        let Ok(Some(record)) = annotations::parse(&node.annotations) else {
            // No record, or one that nothing proves.
            return true;
        };
        let claimed: BTreeSet<_> = record.pod_cidrs.iter().collect();
        let given: BTreeSet<_> = node.pod_cidrs.iter().collect();
        let mut endpoints = record.endpoints.iter();
        claimed == given && endpoints.all(|endpoint| node.addresses.contains(&endpoint.ip()))
    }

    /// What is told cannot be read: nothing of it counts. Returns whether that is news.
    fn reject(&mut self, part: Part, error: ManifestError) -> bool {
        let is_news = self.node.is_some() || self.rejection.is_none();
        self.node = None;
        self.is_due = false;
        if is_news {
            let error = Arc::new(error);
            self.rejection = Some(Rejection { part, error });
        }
        is_news
    }
}

#[cfg(test)]
mod tests;
