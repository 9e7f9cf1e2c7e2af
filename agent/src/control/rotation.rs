//! Rotates the own keys: looks where they stand, has the core decide, and does the step: first the
//! disk, then the data plane, then the record.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use podwire_core::key::PublicKey;
use podwire_core::record::{Mode, Record};
use podwire_core::request::{self, Request, RequestError, Verb};
use podwire_core::rotation::Situation;
use podwire_dataplane::PeerStatus;
use tracing::info;

use super::agent::Agent;
use super::key_rotation::{Peers, is_confirmed_by_peers};
use super::mode::ModeDecision;
use super::status::RotationStatus;

/// Peers that are named in status. Their number is told in any case.
const WAITING_MAX: usize = 20;

const PROBLEM: &str = "cannot go on with the rotation of the own keys";

impl Agent {
    /// One turn. `in_use` are the peers with which the data plane has to do.
    pub(super) fn rotate_keys(&mut self, in_use: &[PeerStatus]) {
        let requests = self.requests();
        let local = self.local_request();
        if self.data_plane.is_none() {
            let why = if self.mode == ModeDecision::Declared(Mode::HostNetwork) {
                "a host-network node uses no keys"
            } else {
                "this node has no data plane, and so uses no keys"
            };
            self.rotation
                .refuse(requests, local.as_deref().cloned(), why);
            self.problems.keys.put(None);
            return;
        }
        let rotation = self.state.rotation();
        self.rotation.peers = if is_confirmed_by_peers(rotation.phase) {
            Peers::of(in_use)
        } else {
            Peers::default()
        };
        let asked = self.rotation.ask(rotation, requests, local.as_deref());
        let done = self.step(asked);
        if let Some(request) = &local
            && !self.rotation.keeps(self.state.rotation(), request)
        {
            // Unless another was asked meanwhile.
            self.shown.asked.compare_and_swap(&local, None);
        }
        self.problems.keys.set(PROBLEM, done);
    }

    fn step(&mut self, asked: Option<Verb>) -> anyhow::Result<()> {
        let now = Instant::now();
        let put = self.put_keys_in_force(now);
        let before = self.state.rotation();
        let is_told = self.is_told();
        let situation = Situation {
            is_in_force: put.is_ok(),
            published_for: self.rotation.published_for(before, is_told, now),
            confirmations: self.rotation.peers.confirmations(),
            asked,
        };
        let Some(step) = before.step(&situation) else {
            return put;
        };
        self.state.rotate(step, SystemTime::now())?;
        let after = self.state.rotation();
        if after == before.after(step) {
            self.rotation.made(step, after, now);
        }
        info!(generation = after.key_generation, phase = %after.phase, ?step, "own keys rotated");
        self.put_keys_in_force(now)?;
        // Until the record is out, and the mesh is derived with the keys of now.
        self.converged = false;
        self.publish();
        Ok(())
    }

    /// Gives the data plane the keys on disk, if it has those of another phase.
    fn put_keys_in_force(&mut self, now: Instant) -> anyhow::Result<()> {
        let rotation = self.state.rotation();
        let Some(data_plane) = &mut self.data_plane else {
            return Ok(());
        };
        if data_plane.has_keys_of(rotation) {
            return Ok(());
        }
        // Reading them may find that a step was made after all.
        let keys = self.state.own_keys()?;
        data_plane.set_keys(keys, self.state.rotation(), now)
    }

    /// Whether the registry has the keys and the phase of now; `None` while it says nothing.
    fn is_told(&self) -> Option<bool> {
        if !self.nodes.is_synchronised() {
            return None;
        }
        let node = self.own_node()?;
        let wanted = self.own_record_for(node)?;
        let published = self.own_published();
        Some(published.is_some_and(|published| tells_the_same_keys(&published, &wanted)))
    }

    /// What is asked of the present generation at the own Node. A registry that is lost may have
    /// taken it back.
    fn requests(&self) -> (Option<Request>, Vec<RequestError>) {
        let node = self.own_node().filter(|_| self.nodes.is_synchronised());
        node.map_or((None, Vec::new()), |node| {
            let rotation = self.state.rotation();
            request::in_force(&node.annotations, |request| rotation.holds(request))
        })
    }

    /// What was asked last over the admin socket, as long as it is of the present generation.
    fn local_request(&self) -> Option<Arc<Request>> {
        let local = self.shown.asked.load_full()?;
        if local.if_key_generation == self.state.key_generation() {
            return Some(local);
        }
        self.shown.asked.store(None);
        None
    }

    /// Lane 0's key that peers have yet to come to, if they have.
    fn newer_public_key(&self) -> Option<PublicKey> {
        let told = self.state.told_keys();
        let newer = told.next.or_else(|| told.previous.and(Some(told.current)));
        newer?.first().copied()
    }

    pub(super) fn rotation_status(&self) -> RotationStatus {
        let peers = &self.rotation.peers;
        let waiting = peers.waiting.iter().take(WAITING_MAX);
        let request = self.rotation.request.as_ref();
        RotationStatus {
            phase: self.state.rotation().phase.to_string(),
            key_created: self.state.key_created(),
            newer_public_key: self.newer_public_key().map(|key| key.to_string()),
            confirmed: peers.confirmed,
            waiting: waiting.map(ToString::to_string).collect(),
            waiting_total: peers.waiting.len(),
            asked_at_node: self
                .rotation
                .asked_at_node
                .map(|verb| verb.name().to_owned()),
            request: request.map(|(request, answer)| {
                let Request {
                    verb,
                    if_key_generation: generation,
                    by,
                } = request;
                let verb = verb.name();
                format!("{verb} of key generation {generation} by {by}: {answer}")
            }),
            refused: self.rotation.refused.clone(),
            last_seconds: self.rotation.lasted.map(|lasted| lasted.as_secs()),
        }
    }
}

/// Whether two records tell the same of the keys.
fn tells_the_same_keys(one: &Record, other: &Record) -> bool {
    let keys = |record: &Record| {
        let Record {
            current,
            next,
            previous,
            key_generation,
            rotation_phase,
            ..
        } = record.clone();
        (current, next, previous, key_generation, rotation_phase)
    };
    keys(one) == keys(other)
}
