//! Who is in rotation: by every change of every Node, in the API server's own order.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::api::{ListParams, ObjectMeta, WatchEvent, WatchParams};
use podwire_testbed::ControlPlane;
use tokio::time::timeout;

/// The server tells a change within milliseconds: after this long without one, all are known.
const QUIET: Duration = Duration::from_secs(1);

/// Where a node's keys stand, by its record and what is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Of the first generation, and nothing is asked.
    Old,
    Asked,
    Announced,
    Promoted,
    Retired,
}

impl Stage {
    fn of(node: &ObjectMeta) -> Self {
        let generation = annotation(node, "podwire.dev/key-generation");
        let request = annotation(node, "request.podwire.dev/rotate");
        if !annotation(node, "podwire.dev/next-public-key").is_empty() {
            Self::Announced
        } else if !annotation(node, "podwire.dev/previous-public-key").is_empty() {
            Self::Promoted
        } else if request.starts_with(&format!("if-key-generation={generation},")) {
            Self::Asked
        } else if generation == "1" {
            Self::Old
        } else {
            Self::Retired
        }
    }

    fn is_in_rotation(self) -> bool {
        matches!(self, Self::Asked | Self::Announced | Self::Promoted)
    }
}

fn annotation<'a>(node: &'a ObjectMeta, key: &str) -> &'a str {
    let value = node.annotations.as_ref().and_then(|all| all.get(key));
    value.map(String::as_str).unwrap_or_default()
}

/// All Nodes, and what has become of each since the watch began.
#[derive(Debug, Default)]
pub(crate) struct RotationWatch {
    /// Up to where changes are known.
    version: String,
    now: BTreeMap<String, Stage>,
    /// When each came to each stage.
    since: BTreeMap<String, BTreeMap<Stage, Instant>>,
    /// The most that were in rotation at one moment.
    pub(crate) most: usize,
    /// What the record of each promotion says: `promoted confirmed=49/49`.
    pub(crate) promotions: BTreeMap<String, String>,
}

impl RotationWatch {
    /// Begins with how all Nodes are now.
    pub(crate) fn begin(cluster: &ControlPlane) -> Result<Self> {
        let nodes: Api<core::Node> = Api::all(cluster.client());
        let parameters = ListParams::default();
        let list = cluster.run(async { nodes.list_metadata(&parameters).await })?;
        let mut watch = Self::default();
        for node in &list.items {
            watch.take(&node.metadata)?;
        }
        // Not the last Node's own: what came before the list is no news.
        watch.version = list.metadata.resource_version.context("no version")?;
        Ok(watch)
    }

    /// Takes in all changes since then, until it is over.
    pub(crate) fn follow(
        &mut self,
        cluster: &ControlPlane,
        is_over: impl Fn() -> bool + Send + Sync,
    ) -> Result<()> {
        let nodes: Api<core::Node> = Api::all(cluster.client());
        let parameters = WatchParams::default();
        cluster.run(async {
            loop {
                let events = nodes.watch_metadata(&parameters, &self.version).await?;
                let mut events = pin!(events);
                loop {
                    let Ok(event) = timeout(QUIET, events.next()).await else {
                        if is_over() {
                            return Ok(());
                        }
                        continue;
                    };
                    match event.transpose()? {
                        // The server ends every watch after some minutes.
                        None => break,
                        Some(WatchEvent::Added(node) | WatchEvent::Modified(node)) => {
                            self.take(&node.metadata)?;
                        }
                        Some(WatchEvent::Bookmark(mark)) => {
                            self.version = mark.metadata.resource_version;
                        }
                        Some(other) => bail!("the watch tells {other:?}"),
                    }
                }
            }
        })
    }

    fn take(&mut self, node: &ObjectMeta) -> Result<()> {
        let name = node.name.clone().context("a Node without a name")?;
        let version = node.resource_version.clone();
        self.version = version.context("a Node without a version")?;
        let stage = Stage::of(node);
        let since = self.since.entry(name.clone()).or_default();
        since.entry(stage).or_insert_with(Instant::now);
        if stage == Stage::Promoted {
            let phase = annotation(node, "podwire.dev/rotation-phase");
            self.promotions.insert(name.clone(), phase.to_owned());
        }
        self.now.insert(name, stage);
        let in_rotation = self.now.values().filter(|stage| stage.is_in_rotation());
        self.most = self.most.max(in_rotation.count());
        Ok(())
    }

    /// How long each node took from one stage to another one, the shortest first.
    pub(crate) fn lasted(&self, from: Stage, to: Stage) -> Result<Vec<Duration>> {
        let lasted = self.since.iter().map(|(name, since)| {
            let times = since.get(&from).zip(since.get(&to));
            let (from, to) = times.with_context(|| format!("{name} only had {since:?}"))?;
            Ok(to.saturating_duration_since(*from))
        });
        let mut lasted = lasted.collect::<Result<Vec<_>>>()?;
        lasted.sort();
        Ok(lasted)
    }

    /// From the first request to the last keys that were retired.
    pub(crate) fn whole(&self) -> Result<Duration> {
        let all = |stage| self.since.values().filter_map(move |it| it.get(&stage));
        let times = all(Stage::Asked).min().zip(all(Stage::Retired).max());
        let (first, last) = times.context("nobody was asked, or nobody came to the end")?;
        Ok(last.saturating_duration_since(*first))
    }
}
