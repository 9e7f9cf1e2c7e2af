//! Publishing the own record beside the control loop: a registry's folder may be on a network and
//! answer late or never, and the mesh is kept in repair meanwhile.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use podwire_core::node::Node;
use podwire_core::record::{ANNOTATION_PREFIX, Mode, Record};
use podwire_registry::registry::Published;
use tokio::task::JoinHandle;
use tracing::info;

use super::agent::Agent;
use super::data_plane::DataPlane;
use super::mode::ModeDecision;
use super::own_record::{OwnRecordInputs, own_record};
use super::write_budget::Permission;

/// How long a registry may take for a record before that is told. A busy disk syncs within it.
const ANSWER_TIME: Duration = Duration::from_secs(5);

const PROBLEM: &str = "cannot publish the own record";

const FIGHT: &str = "the own record does not stay in the registry as it is written: who else writes \
                     annotations that begin with podwire.dev/?";

/// A record on its way into the registry.
#[derive(Debug)]
pub(super) struct Publishing {
    task: JoinHandle<anyhow::Result<Published>>,
    since: Instant,
}

impl Publishing {
    /// Waits for its end. Dropping the future loses nothing.
    pub(super) async fn ended(&mut self) -> anyhow::Result<Published> {
        match (&mut self.task).await {
            Ok(done) => done,
            Err(stopped) => match stopped.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => bail!("the process is ending"),
            },
        }
    }
}

/// What the registry is to hold.
struct Wanted {
    uid: String,
    annotations: BTreeMap<String, String>,
}

impl Agent {
    /// Has the own record published, if it differs from what the registry holds. One at a time:
    /// what differs while one is on its way is for the first pass after its end.
    pub(super) fn publish(&mut self) {
        if let Some(publishing) = &self.publishing {
            if publishing.since.elapsed() >= ANSWER_TIME {
                let problem = format!("{PROBLEM}: the registry does not answer");
                self.problems.publish.put(Some(problem));
            }
            return;
        }
        match self.record_due() {
            Ok(Some(wanted)) => match self.write_budget.ask(Instant::now()) {
                // How the last one went is known until this one has gone better.
                Permission::Granted => self.publishing = Some(self.start_publishing(wanted)),
                Permission::Spent => self.problems.publish.put(Some(FIGHT.to_owned())),
                Permission::Refused => {}
            },
            Ok(None) => self.problems.publish.put(None),
            Err(error) => self.problems.publish.set(PROBLEM, Err(error)),
        }
    }

    /// Takes the outcome. What there is to do next is for the next pass: the registry tells what it
    /// took, and what it did not take is tried again.
    pub(super) fn published(&mut self, done: anyhow::Result<Published>) {
        self.publishing = None;
        if matches!(done, Ok(Published::Written)) {
            info!("published the own record");
            self.registry_writes += 1;
        }
        match &done {
            Ok(Published::Written) => self.write_budget.written(Instant::now()),
            Ok(Published::Unchanged) => {}
            Err(_) => self.write_budget.failed(Instant::now()),
        }
        self.problems.publish.set(PROBLEM, done.map(drop));
    }

    fn start_publishing(&mut self, wanted: Wanted) -> Publishing {
        let (registry, tidying) = (self.registry.clone(), self.tidying.take());
        let own = self.config.node_name.clone();
        let task = tokio::spawn(async move {
            if let Some(tidying) = tidying {
                tidying.await.context("clearing the registry")?;
            }
            let Wanted { uid, annotations } = wanted;
            Ok(registry.publish(&own, &uid, &annotations).await?)
        });
        let since = Instant::now();
        Publishing { task, since }
    }

    fn record_due(&mut self) -> anyhow::Result<Option<Wanted>> {
        let ModeDecision::Declared(mode) = self.mode else {
            return Ok(None);
        };
        let encrypted = mode == Mode::Encrypted;
        let unfit = self.problems.configuration.is_some()
            || !self.guarded
            || (encrypted && self.data_plane.is_none())
            || !self.nodes.is_synchronised();
        if unfit {
            return Ok(None);
        }
        let Some(node) = self.own_node().cloned() else {
            return Ok(None);
        };
        if node.pod_cidrs.is_empty() {
            return Ok(None);
        }
        let published = self.own_published();
        let generation = published.as_ref().map_or(0, |record| record.key_generation);
        self.state.continue_key_generation(generation)?;
        if let Some(published) = published {
            self.state.continue_epoch(published.epoch)?;
        }
        // A key is told to nobody before it is used here. Asked only now: what is above reads the
        // keys, and may find that a step was made after all.
        let has_keys = |data_plane: &DataPlane| data_plane.has_keys_of(self.state.rotation());
        if encrypted && !self.data_plane.as_ref().is_some_and(has_keys) {
            return Ok(None);
        }
        let Some(record) = self.own_record_for(&node) else {
            return Ok(None);
        };
        let annotations = record.to_annotations();
        let held = node.annotations.iter();
        let is_record = |(key, _): &(&String, &String)| key.starts_with(ANNOTATION_PREFIX);
        if held.filter(is_record).eq(&annotations) {
            return Ok(None);
        }
        let uid = node.uid.clone();
        Ok(Some(Wanted { uid, annotations }))
    }

    /// The record of the present mode and keys for the own Node.
    pub(super) fn own_record_for(&self, node: &Node) -> Option<Record> {
        let ModeDecision::Declared(mode) = self.mode else {
            return None;
        };
        let inputs = OwnRecordInputs {
            mode,
            keys: &self.state.told_keys(),
            listen_port: self.config.listen_port,
            publish_endpoint: self.config.publish_endpoint,
            rotation: self.state.rotation(),
            key_created: self.state.key_created(),
            epoch: self.state.epoch(),
        };
        Some(own_record(node, &inputs))
    }
}
