//! What counts of what was seen in the folder. Pure: looks and times go in, a snapshot comes out.
//!
//! A folder that is being emptied, unmounted, copied or edited in place looks, for a moment, like a
//! mesh that lost nodes. So in a folder that is in force, what is *there* counts at once, and what
//! is *missing* counts late; any other folder counts as a whole or not at all:
//! - a file that vanished or became unreadable stays in force until it has been so, and no other
//!   one has become so, for [`DOUBT_SETTLE`], the folder being there all that time. A file that
//!   comes and goes puts the others off once only;
//! - a folder without any manifest, or none that can be opened, is a lost folder, not an empty
//!   mesh;
//! - a folder found at the start, one that came back, and one that took another's place come into
//!   force only when the set of their manifests has not changed for [`RETURN_SETTLE`]. Until then
//!   what was told before stays; at the start that is nothing, and the state is still
//!   [`Synchronisation::Starting`], so that whoever kept an older snapshot goes on with that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use podwire_core::node::{Node, NodeName};

use super::folder::{Document, FileKey, Files, Listing, ReadFile};
use crate::manifest::{self, Annotated, ManifestError};
use crate::nodes::{Loss, Nodes, Part, Rejection, Synchronisation};

/// How long missing or unreadable files are waited for. Longer than removing a folder of thousands
/// takes between two files; short beside the second in which a deleted Node's peer may stay.
pub(super) const DOUBT_SETTLE: Duration = Duration::from_millis(500);

/// How long the manifests of a folder that is not in force must stay the same: copying pauses less.
/// Half of it would not do at the start either: a Node has up to three files, so a copy that takes
/// four round trips for each (open, write, set times, close) is 600 ms between two manifests where
/// one takes 50 ms. An agent with a snapshot goes on with that meanwhile; only a first start waits.
pub(super) const RETURN_SETTLE: Duration = Duration::from_secs(1);

/// Which watch of which folder a listing was made under: another one is another folder.
pub(super) type Generation = u64;

/// Files in force that are missing or unreadable.
#[derive(Debug, Default)]
struct Doubts {
    since: BTreeMap<FileKey, Instant>,
    /// What was in force when the first doubt arose, without what has been doubted since.
    steady: BTreeSet<FileKey>,
    /// When the last of those came to be doubted.
    grown: Option<Instant>,
}

/// A set of files that is the same since a moment.
#[derive(Debug)]
struct Settling {
    keys: BTreeSet<FileKey>,
    since: Instant,
}

/// A folder that does not count yet.
#[derive(Debug)]
struct Arriving {
    generation: Generation,
    files: Files,
    manifests: Settling,
}

#[derive(Debug, Default)]
pub(super) struct Contents {
    generation: Generation,
    files: Files,
    doubts: Doubts,
    arriving: Option<Arriving>,
    nodes: Arc<Nodes>,
}

impl Doubts {
    /// These are doubted now.
    fn follow(&mut self, keys: &BTreeSet<FileKey>, in_force: &Files, now: Instant) {
        if keys.is_empty() {
            *self = Self::default();
            return;
        }
        if self.grown.is_none() {
            self.steady = in_force.keys().cloned().collect();
        }
        self.since.retain(|key, _| keys.contains(key));
        for key in keys {
            if self.steady.remove(key) {
                self.grown = Some(now);
            }
            self.since.entry(key.clone()).or_insert(now);
        }
    }

    /// Those that do not count yet, each with what is left of its time.
    fn open(&self, now: Instant) -> impl Iterator<Item = (&FileKey, Duration)> {
        self.since.iter().filter_map(move |(key, since)| {
            let since = self.grown.map_or(*since, |grown| grown.max(*since));
            let left = DOUBT_SETTLE.saturating_sub(now.saturating_duration_since(since));
            (!left.is_zero()).then_some((key, left))
        })
    }
}

impl Settling {
    /// The same set since when it was, or another one since now.
    fn follow(before: Option<Self>, keys: BTreeSet<FileKey>, now: Instant) -> Self {
        match before {
            Some(before) if before.keys == keys => before,
            Some(_) | None => Self { keys, since: now },
        }
    }

    /// What is left of `settle`; `None` when it is over.
    fn left(&self, settle: Duration, now: Instant) -> Option<Duration> {
        let left = settle.saturating_sub(now.saturating_duration_since(self.since));
        (!left.is_zero()).then_some(left)
    }
}

impl Contents {
    /// The files whose content need not be read again when their stamp is the same.
    pub(super) fn known(&self) -> &Files {
        self.arriving
            .as_ref()
            .map_or(&self.files, |arriving| &arriving.files)
    }

    /// The snapshot in force.
    pub(super) fn nodes(&self) -> &Arc<Nodes> {
        &self.nodes
    }

    /// The folder is out of reach: nothing changes but the state.
    pub(super) fn lost(&mut self, loss: Loss) {
        self.arriving = None;
        self.doubts = Doubts::default();
        self.enter(Synchronisation::Lost(loss));
    }

    /// The folder was listed as a whole. Returns after which time to look again even if nothing
    /// happens, because something is to settle.
    pub(super) fn listed(
        &mut self,
        generation: Generation,
        listing: Listing,
        now: Instant,
    ) -> Option<Duration> {
        if let Some(loss) = loss(&listing.files) {
            self.lost(loss);
            return None;
        }
        if self.nodes.is_synchronised() && generation == self.generation {
            self.follow(listing, now)
        } else {
            self.arrive(generation, listing, now)
        }
    }

    /// The folder in force was looked at again.
    fn follow(&mut self, mut listing: Listing, now: Instant) -> Option<Duration> {
        let doubtful = |key: &FileKey, file: &ReadFile| match listing.files.get(key) {
            None => true,
            Some(found) => found.content.is_err() && file.content.is_ok(),
        };
        let keys: BTreeSet<FileKey> = self
            .files
            .iter()
            .filter(|(key, file)| doubtful(key, file))
            .map(|(key, _)| key.clone())
            .collect();
        self.doubts.follow(&keys, &self.files, now);
        let mut wait = None;
        for (key, left) in self.doubts.open(now) {
            listing.files.extend(self.files.remove_entry(key));
            wait = Some(wait.map_or(left, |wait: Duration| wait.min(left)));
        }
        self.adopt(self.generation, listing.files, listing.misnamed);
        wait
    }

    /// A folder is there at the start, came back, or took the place of another one.
    fn arrive(
        &mut self,
        generation: Generation,
        listing: Listing,
        now: Instant,
    ) -> Option<Duration> {
        let manifests = listing
            .files
            .keys()
            .filter(|key| key.part == Part::Manifest)
            .cloned()
            .collect();
        let before = self
            .arriving
            .take()
            .filter(|before| before.generation == generation);
        let manifests = Settling::follow(before.map(|before| before.manifests), manifests, now);
        let wait = manifests.left(RETURN_SETTLE, now);
        if wait.is_some() {
            self.arriving = Some(Arriving {
                generation,
                files: listing.files,
                manifests,
            });
            if self.nodes.state != Synchronisation::Starting {
                self.enter(Synchronisation::Lost(Loss::Returning));
            }
        } else {
            self.adopt(generation, listing.files, listing.misnamed);
        }
        wait
    }

    fn adopt(&mut self, generation: Generation, files: Files, misnamed: BTreeSet<String>) {
        self.generation = generation;
        self.files = files;
        let mut next = snapshot(&self.files, &self.nodes.nodes);
        next.misnamed = misnamed;
        self.replace(next);
    }

    fn enter(&mut self, state: Synchronisation) {
        if self.nodes.state != state {
            self.nodes = Arc::new(Nodes {
                state,
                ..Nodes::clone(&self.nodes)
            });
        }
    }

    fn replace(&mut self, next: Nodes) {
        if *self.nodes != next {
            self.nodes = Arc::new(next);
        }
    }
}

/// What a folder tells that is looked at once: all of it counts at once.
pub(super) fn once(listing: Listing) -> Result<Nodes, Loss> {
    match loss(&listing.files) {
        Some(loss) => Err(loss),
        None => Ok(Nodes {
            misnamed: listing.misnamed,
            ..snapshot(&listing.files, &BTreeMap::new())
        }),
    }
}

/// How the folder is lost although it can be listed.
fn loss(files: &Files) -> Option<Loss> {
    let mut loss = Loss::Empty;
    for (_, file) in files.iter().filter(|(key, _)| key.part == Part::Manifest) {
        match file.content.as_ref().map_err(Arc::as_ref) {
            Err(ManifestError::Unreadable(error)) => loss = Loss::Unreadable(error.to_string()),
            Ok(_) | Err(_) => return None,
        }
    }
    Some(loss)
}

/// The Nodes that the files tell; those that are as before are shared with it.
fn snapshot(files: &Files, before: &BTreeMap<NodeName, Arc<Node>>) -> Nodes {
    let mut next = Nodes {
        state: Synchronisation::Synchronised,
        ..Nodes::default()
    };
    for (key, file) in files {
        // Orphans: a Node exists by its manifest.
        let manifest_key = FileKey {
            node: key.node.clone(),
            part: Part::Manifest,
        };
        if !files.contains_key(&manifest_key) {
            continue;
        }
        if let Err(error) = &file.content {
            let rejection = Rejection {
                part: key.part,
                error: Arc::clone(error),
            };
            // Keys come in order of severity: the first one stays.
            next.rejected.entry(key.node.clone()).or_insert(rejection);
        }
        if let (Part::Manifest, Ok(document)) = (key.part, &file.content)
            && let Document::Manifest(manifest) = &**document
        {
            let node = node(manifest, files);
            let node = match before.get(&key.node) {
                Some(before) if **before == node => Arc::clone(before),
                Some(_) | None => Arc::new(node),
            };
            next.nodes.insert(key.node.clone(), node);
        }
    }
    next
}

fn node(manifest: &Node, files: &Files) -> Node {
    let silent = Annotated {
        uid: manifest.uid.clone(),
        annotations: BTreeMap::new(),
    };
    let file = |part| {
        files.get(&FileKey {
            node: manifest.name.clone(),
            part,
        })
    };
    let part = |part| {
        match &file(part)?.content {
            Ok(document) => match &**document {
                Document::Annotated(annotated) => Some(annotated),
                Document::Manifest(_) => None,
            },
            // What is unreadable says nothing, and nobody else speaks in its place.
            Err(_) => Some(&silent),
        }
    };
    let is_unread = |file: &ReadFile| file.content.is_err();
    Node {
        is_record_unread: file(Part::Record).is_some_and(is_unread),
        ..manifest::join(manifest, part(Part::Record), part(Part::Requests))
    }
}

#[cfg(test)]
mod tests;
