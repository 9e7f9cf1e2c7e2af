//! What is known of one Node, and what of it counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use podwire_core::annotations::{self, ENDPOINTS, MODE, POD_CIDRS};
use podwire_core::node::Node;

use crate::manifest::ManifestError;
use crate::nodes::{Part, Rejection};

/// What a record claims that its Node has to prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim([Option<String>; 3]);

impl Claim {
    pub(super) fn of(annotations: &BTreeMap<String, String>) -> Self {
        Self([POD_CIDRS, ENDPOINTS, MODE].map(|key| annotations.get(key).cloned()))
    }

    pub(super) fn is_made(&self) -> bool {
        self.0.iter().any(Option::is_some)
    }
}

/// A Node that was read whole.
#[derive(Clone, Debug)]
pub(super) struct Proof {
    /// What it claimed then.
    pub(super) claim: Claim,
    /// Its version then.
    pub(super) version: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) uid: String,
    /// The latest of it that is known.
    pub(super) version: u64,
    /// The list in which it came last.
    pub(super) list: u64,
    /// The list during which news of it came: those are newer than what the list says.
    pub(super) touched: u64,
    /// What counts of it; `None` while what its claim is checked against is not known.
    pub(super) node: Option<Arc<Node>>,
    pub(super) rejection: Option<Rejection>,
    pub(super) proof: Option<Proof>,
    /// Whether it has to be read whole.
    pub(super) is_due: bool,
}

impl Entry {
    pub(super) const fn new(uid: String, version: u64, list: u64) -> Self {
        Self {
            uid,
            version,
            list,
            touched: 0,
            node: None,
            rejection: None,
            proof: None,
            is_due: false,
        }
    }

    /// Takes what its metadata says. Returns whether that changes what counts.
    pub(super) fn take(&mut self, node: Result<Node, ManifestError>, is_own: bool) -> bool {
        let node = match node {
            Ok(node) => node,
            Err(error) => return self.reject(Part::Record, error),
        };
        // What could not be read whole is not mended by metadata.
        let is_unread = |rejection: &Rejection| rejection.part == Part::Manifest;
        if self.rejection.as_ref().is_some_and(is_unread) {
            self.is_due = true;
            return false;
        }
        let was_rejected = self.rejection.take().is_some();
        let claim = Claim::of(&node.annotations);
        self.is_due = self.wants_proof(&claim, is_own);
        let next = match &self.node {
            None if self.is_due => return was_rejected,
            None => node,
            // Its own agent claims what it has proven; of a peer nobody must see half a change.
            Some(_) if self.is_due && !is_own => return was_rejected,
            Some(known) if known.annotations == node.annotations => return was_rejected,
            Some(known) => Node {
                annotations: node.annotations,
                ..Node::clone(known)
            },
        };
        self.node = Some(Arc::new(next));
        true
    }

    /// Whether the Node has to be read whole for this claim.
    pub(super) fn wants_proof(&self, claim: &Claim, is_own: bool) -> bool {
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
    pub(super) fn reject(&mut self, part: Part, error: ManifestError) -> bool {
        let is_known = self.rejection.as_ref().is_some_and(|known| {
            known.part == part && known.error.to_string() == error.to_string()
        });
        let is_news = self.node.take().is_some() || !is_known;
        self.is_due = false;
        if !is_known {
            let error = Arc::new(error);
            self.rejection = Some(Rejection { part, error });
        }
        is_news
    }
}
