//! Numbered datagrams from each pod to each other one, in both families, and what of them is lost.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use podwire_testbed::{Cluster, until};
use serde::Deserialize;

use crate::rollout::MeshPod;
use crate::scene::DEADLINE;
use crate::talks::{Place, others};

/// Longer than any test.
const LASTS: &str = "1h";

/// So many must follow what has happened before a stream is ended: what it interrupts is over.
const FURTHER: u64 = 300;

/// What a receiver has of one stream.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Stream {
    id: String,
    from: String,
    pub(crate) received: u64,
    duplicates: u64,
    /// Of the numbers up to the highest that came.
    pub(crate) lost: u64,
    pub(crate) longest_gap_milliseconds: u64,
}

/// Streams that are on their way.
pub(crate) struct Streams<'a> {
    pods: Vec<Place<'a>>,
    port: u16,
    senders: Vec<String>,
}

impl<'a> Streams<'a> {
    /// Starts them, all at the same rate, to a port that no others had before them.
    pub(crate) fn start(
        cluster: &'a Cluster,
        pods: &[MeshPod],
        port: u16,
        a_second: u32,
    ) -> Result<Self> {
        let place = |(name, _): &MeshPod| Place::Pod(cluster, name.clone());
        let mut streams = Self {
            pods: pods.iter().map(place).collect(),
            port,
            senders: Vec::new(),
        };
        for pod in &streams.pods {
            pod.start(&format!("pod-tools count-receive {port}"))?;
        }
        until(DEADLINE, "all receivers", || streams.counts())?;
        for (place, (name, _)) in streams.pods.iter().zip(pods) {
            let targets = others(pods, name, port);
            let targets: Vec<_> = targets.iter().map(ToString::to_string).collect();
            let sender = place.start(&format!(
                "pod-tools count-send -rate {a_second} -for {LASTS} {}",
                targets.join(" ")
            ))?;
            streams.senders.push(sender);
        }
        let expected = pods.iter().map(|(name, _)| others(pods, name, port).len());
        let expected: usize = expected.sum();
        until(DEADLINE, "all streams", || {
            let count = streams.counts()?.len();
            ensure!(count == expected, "{count} of {expected}");
            Ok(())
        })?;
        Ok(streams)
    }

    /// Waits until so many more of each stream have come.
    pub(crate) fn wait_for_more(&self, more: u64) -> Result<()> {
        let before = self.counts()?;
        until(DEADLINE, "more datagrams of each stream", || {
            let now = self.counts()?;
            let slow: Vec<_> = before
                .iter()
                .filter(|(id, stream)| {
                    let received = now.get(*id).map_or(0, |now| now.received);
                    received < stream.received + more
                })
                .collect();
            ensure!(slow.is_empty(), "{slow:?} are as they were in {now:?}");
            Ok(())
        })
    }

    /// Ends them once all of them flow again, and tells what came of each.
    pub(crate) fn end(self) -> Result<Vec<Stream>> {
        self.wait_for_more(FURTHER)?;
        for (pod, sender) in self.pods.iter().zip(&self.senders) {
            pod.run(&["kill", sender])?;
        }
        let mut last = self.counts()?;
        until(DEADLINE, "the last datagrams", || {
            let before = std::mem::replace(&mut last, self.counts()?);
            ensure!(before == last, "some came still");
            Ok(())
        })?;
        let streams: Vec<_> = last.into_values().collect();
        for stream in &streams {
            let (from, twice) = (&stream.from, stream.duplicates);
            ensure!(twice == 0, "{twice} of {from} came twice");
        }
        Ok(streams)
    }

    fn counts(&self) -> Result<BTreeMap<String, Stream>> {
        let mut all = BTreeMap::new();
        for pod in &self.pods {
            for stream in pod.told::<Vec<Stream>>(self.port)? {
                all.insert(stream.id.clone(), stream);
            }
        }
        Ok(all)
    }
}
