//! Follows the API server: a list at first, then a watch, then what the watch makes necessary.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use kube::Client;
use kube::api::{WatchEvent, WatchParams};
use kube::core::Request;
use podwire_core::node::NodeName;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::Shared;
use super::contents::version;
use super::failure::Failure;
use super::requests::{self, Extent, NODES, within};
use crate::manifest::Manifest;
use crate::nodes::Loss;

/// Between two attempts at first, and at most: an API server that comes back is noticed within
/// seconds, and thousands of agents that have lost it at the same moment do not ask at one again.
const RETRY: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(4)];

/// Most that is waited because the API server asks for it.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// A watch lasts this long, in seconds, then it is made anew: each one another time, so that agents
/// that were started at one spread over the API servers.
const WATCH_SECONDS: std::ops::Range<u32> = 120..180;

/// The end of a watch comes later than it should by what a busy machine takes.
const WATCH_MARGIN: Duration = Duration::from_secs(10);

/// The first events of a streamed list come at once, one after the other; a server that does not
/// know such lists waits for changes instead.
const INITIAL_EVENTS_TIMEOUT: Duration = Duration::from_secs(15);

/// The bookmark that ends a streamed list.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// Most events that are taken in before the Nodes are told: 500 Nodes that join at once are one
/// change, not 500.
const EVENTS_MAX: usize = 512;

/// Nodes that are read whole at the same time: enough for hundreds a second, and no storm.
const READS_MAX: usize = 8;

/// A fresh snapshot lets the first list wait up to this for each of its Nodes, and no longer than
/// this in all: an upgrade of a large cluster restarts many agents within seconds.
const START_DELAY_OF_A_NODE: Duration = Duration::from_millis(5);
const START_DELAY_MAX: Duration = Duration::from_secs(30);

/// Follows the API server until it is dropped.
#[derive(Debug)]
pub struct Follower {
    shared: Arc<Shared>,
    start_delay: Duration,
    /// Up to where all changes are known; `None` before the first list and when that is forgotten.
    position: Option<String>,
    /// Whether the last attempt failed: the server may have gone back since.
    has_failed: bool,
    is_lost: bool,
    retry: ExponentialBackoff,
}

fn retry() -> ExponentialBackoff {
    let [first, most] = RETRY;
    let builder = ExponentialBuilder::new()
        .with_min_delay(first)
        .with_max_delay(most)
        .with_factor(2.0)
        .with_jitter()
        .without_max_times();
    builder.build()
}

/// How long the first list waits, of what is allowed, by a random number below 1.
fn start_delay(known: usize, random: f64) -> Duration {
    let nodes = u32::try_from(known).unwrap_or(u32::MAX);
    let most = START_DELAY_OF_A_NODE.saturating_mul(nodes);
    most.min(START_DELAY_MAX).mul_f64(random)
}

impl Follower {
    pub(super) fn new(shared: Arc<Shared>, known: usize) -> Self {
        Self {
            shared,
            start_delay: start_delay(known, fastrand::f64()),
            position: None,
            has_failed: false,
            is_lost: false,
            retry: retry(),
        }
    }

    /// Never ends.
    pub async fn run(mut self) -> Infallible {
        sleep(self.start_delay).await;
        loop {
            let Err(failure) = self.follow().await;
            debug!(%failure, "following the API server failed");
            self.has_failed = true;
            // Tokens, certificates and addresses may be others by now.
            self.shared.drop_client();
            let delay = self.retry.next().unwrap_or(RETRY[1]);
            let delay = match &failure {
                Failure::Gone(_) => {
                    self.position = None;
                    Duration::ZERO
                }
                Failure::Busy { retry_after, .. } => {
                    delay.max(retry_after.unwrap_or_default().min(RETRY_AFTER_MAX))
                }
                Failure::Unreachable(_)
                | Failure::Denied(_)
                | Failure::Missing(_)
                | Failure::Conflict(_)
                | Failure::Other(_)
                | Failure::Access(_) => delay,
            };
            if !delay.is_zero() {
                self.tell_loss(&failure);
                let loss = Loss::Unreachable(failure.to_string());
                self.shared.contents.lock().lost(loss);
                self.shared.tell();
                sleep(delay).await;
            }
        }
    }

    /// One line for a loss, whatever its attempts fail by.
    fn tell_loss(&mut self, failure: &Failure) {
        if !std::mem::replace(&mut self.is_lost, true) {
            warn!("{failure}; the last known mesh stays in force, trying again");
        }
    }

    /// Reads all there is where that is not known, and follows the changes.
    async fn follow(&mut self) -> Result<Infallible, Failure> {
        let client = self.shared.client().await?;
        if std::mem::take(&mut self.has_failed)
            && let Some(position) = &self.position
            && version(&requests::revision(&client).await?) < version(position)
        {
            // A server that was restored from a backup would tell nothing until it has caught up.
            self.position = None;
        }
        loop {
            let position = match &self.position {
                Some(position) => position.clone(),
                None => self.read_all(&client).await?,
            };
            self.position = Some(position.clone());
            let began = Instant::now();
            self.watch(&client, &position).await?;
            // A server that ends each watch at once is not asked in a circle.
            sleep(RETRY[0].saturating_sub(began.elapsed())).await;
        }
    }

    /// Returns the position of what was read.
    async fn read_all(&self, client: &Client) -> Result<String, Failure> {
        let shared = &self.shared;
        let is_first = shared.contents.lock().is_empty();
        shared.contents.lock().begin();
        let position = if is_first {
            requests::list(client, Extent::Whole, |object| {
                shared.contents.lock().fetched(object);
            })
            .await?
        } else {
            match self.stream_all(client).await {
                // No server says in advance, reliably, whether it can stream a list.
                Err(failure) if failure.is_about_the_request() => {
                    debug!(%failure, "no streamed list: asking for pages");
                    requests::list(client, Extent::Metadata, |object| {
                        shared.contents.lock().told(object);
                    })
                    .await?
                }
                streamed => streamed?,
            }
        };
        shared.contents.lock().complete();
        shared.tell();
        Ok(position)
    }

    /// A list as the first events of a watch (WatchList), which costs the server the least.
    async fn stream_all(&self, client: &Client) -> Result<String, Failure> {
        let parameters = WatchParams {
            send_initial_events: true,
            ..WatchParams::default()
        };
        // No version: what is told is what is, not what a server that lags behind has heard.
        let request = Request::new(NODES).watch_metadata(&parameters, "");
        let request = request.map_err(|error| Failure::Other(error.to_string()))?;
        let events = within(client.request_events::<Manifest>(request)).await?;
        let mut events = pin!(events);
        let not_ended = || Failure::Other("a streamed list did not come to its end".to_owned());
        while let Ok(event) = timeout(INITIAL_EVENTS_TIMEOUT, events.next()).await {
            match event.ok_or_else(not_ended)?? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    self.shared.contents.lock().told(object);
                }
                WatchEvent::Deleted(object) => self.shared.contents.lock().deleted(&object),
                WatchEvent::Bookmark(bookmark) => {
                    if bookmark
                        .metadata
                        .annotations
                        .contains_key(INITIAL_EVENTS_END)
                    {
                        return Ok(bookmark.metadata.resource_version);
                    }
                }
                // In-stream, one that cannot stream lists says so as an internal error.
                WatchEvent::Error(status) => return Err(Failure::Other(status.message)),
            }
        }
        Err(not_ended())
    }

    /// One watch, and the Nodes that it makes necessary to read, until it ends in order.
    async fn watch(&mut self, client: &Client, position: &str) -> Result<(), Failure> {
        let seconds = fastrand::u32(WATCH_SECONDS);
        let parameters = WatchParams::default().timeout(seconds);
        let request = Request::new(NODES).watch_metadata(&parameters, position);
        let request = request.map_err(|error| Failure::Other(error.to_string()))?;
        let events = within(client.request_events::<Manifest>(request)).await?;
        let mut events = pin!(events.ready_chunks(EVENTS_MAX));
        self.retry = retry();
        if std::mem::take(&mut self.is_lost) {
            info!("the API server is followed again");
        }
        self.shared.contents.lock().followed();
        self.shared.tell();
        let ends = Instant::now() + Duration::from_secs(seconds.into()) + WATCH_MARGIN;
        let mut asked: BTreeSet<NodeName> = BTreeSet::new();
        let mut reads = FuturesUnordered::new();
        loop {
            while reads.len() < READS_MAX
                && let Some(name) = self.due(&asked)
            {
                asked.insert(name.clone());
                reads.push(async move {
                    let read = requests::get(client, &name).await;
                    (name, read)
                });
            }
            tokio::select! {
                chunk = tokio::time::timeout_at(ends.into(), events.next()) => match chunk {
                    Ok(Some(chunk)) => self.take(chunk)?,
                    Ok(None) | Err(_) => return Ok(()),
                },
                Some((name, read)) = reads.next() => {
                    asked.remove(&name);
                    let mut contents = self.shared.contents.lock();
                    match read? {
                        Some(object) => contents.fetched(object),
                        None => contents.not_found(&name),
                    }
                }
            }
            self.shared.tell();
        }
    }

    fn due(&self, asked: &BTreeSet<NodeName>) -> Option<NodeName> {
        self.shared.contents.lock().due(asked)
    }

    fn take(&mut self, events: Vec<kube::Result<WatchEvent<Manifest>>>) -> Result<(), Failure> {
        let mut contents = self.shared.contents.lock();
        for event in events {
            let position = match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let position = object.metadata.resource_version.clone();
                    contents.told(object);
                    position
                }
                WatchEvent::Deleted(object) => {
                    contents.deleted(&object);
                    object.metadata.resource_version
                }
                WatchEvent::Bookmark(bookmark) => bookmark.metadata.resource_version,
                WatchEvent::Error(status) => return Err(Failure::from(&*status)),
            };
            if !position.is_empty() {
                self.position = Some(position);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_list_waits_by_the_size_of_the_mesh_and_not_for_ever() {
        assert_eq!(start_delay(0, 0.9), Duration::ZERO);
        assert_eq!(start_delay(100, 0.5), Duration::from_millis(250));
        assert_eq!(start_delay(100_000, 1.0), START_DELAY_MAX);
    }
}
