//! Follows the API server: a list at first, then a watch, then what the watch makes necessary.

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
use tokio::time::{sleep, timeout, timeout_at};
use tracing::{debug, info, warn};

use super::Shared;
use super::contents::{Contents, Source, version};
use super::failure::Failure;
use super::identity;
use super::requests::{self, Extent, NODES, within};
use crate::manifest::Manifest;
use crate::nodes::Loss;

/// Between two attempts at first, and at most: an API server that comes back is noticed within
/// seconds, and thousands of agents that have lost it at the same moment do not ask at one again.
const RETRY: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(4)];

/// Most that is waited after a refusal: credentials and permissions are mended by people.
const REFUSED_RETRY: Duration = Duration::from_secs(30);

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

/// A watch that has lived for so long was in order: what fails after it fails for the first time.
const WATCH_PROVEN: Duration = Duration::from_secs(10);

/// All is listed again after this long, in seconds, whatever was watched meanwhile: what a server
/// that was restored from a backup, or a bug, has kept from this agent is not kept for ever.
const LIST_AGAIN_SECONDS: std::ops::Range<u64> = 3600..7200;

/// Nodes that are asked for after a failure, to see whether the server went back. Some of them may
/// have changed anew since; hardly all.
const ASKED_AFTER_A_FAILURE: usize = 8;

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
    /// Whether the server was asked whom it takes this agent for.
    is_identified: bool,
    is_lost: bool,
    list_again: Instant,
    retry: ExponentialBackoff,
    refused_retry: ExponentialBackoff,
}

fn retry([first, most]: [Duration; 2]) -> ExponentialBackoff {
    let builder = ExponentialBuilder::new()
        .with_min_delay(first)
        .with_max_delay(most)
        .with_factor(2.0)
        .with_jitter()
        .without_max_times();
    builder.build()
}

fn list_again() -> Instant {
    Instant::now() + Duration::from_secs(fastrand::u64(LIST_AGAIN_SECONDS))
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
            is_identified: false,
            is_lost: false,
            list_again: list_again(),
            retry: retry(RETRY),
            refused_retry: retry([RETRY[0], REFUSED_RETRY]),
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
                    delay
                }
                Failure::Busy { retry_after, .. } => {
                    delay.max(retry_after.unwrap_or_default().min(RETRY_AFTER_MAX))
                }
                Failure::Denied(_) | Failure::Access(_) => {
                    self.refused_retry.next().unwrap_or(REFUSED_RETRY)
                }
                Failure::Unreachable(_)
                | Failure::Missing(_)
                | Failure::Conflict(_)
                | Failure::Other(_) => delay,
            };
            if !matches!(failure, Failure::Gone(_)) {
                self.tell_loss(&failure);
                let loss = Loss::Unreachable(failure.to_string());
                self.shared.contents.lock().lost(loss);
                self.shared.tell();
            }
            sleep(delay).await;
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
        loop {
            if let Some(position) = self.position.clone().filter(|_| self.has_failed)
                && self.has_gone_back(&client, &position).await?
            {
                self.position = None;
            }
            self.has_failed = false;
            if Instant::now() >= self.list_again {
                self.position = None;
            }
            let position = match &self.position {
                Some(position) => position.clone(),
                None => self.read_all(&client).await?,
            };
            self.position = Some(position.clone());
            if !self.is_identified {
                self.is_identified = identity::check(&client, &self.shared.own).await;
            }
            let (began, planned) = (Instant::now(), fastrand::u32(WATCH_SECONDS));
            let ended = self.watch(&client, &position, planned).await;
            if began.elapsed() >= WATCH_PROVEN {
                self.retry = retry(RETRY);
                self.refused_retry = retry([RETRY[0], REFUSED_RETRY]);
            }
            ended?;
            // One that ends before its time ends with its server.
            self.has_failed = began.elapsed() < Duration::from_secs(planned.into());
            // A server that ends each watch at once is not asked in a circle.
            sleep(RETRY[0].saturating_sub(began.elapsed())).await;
        }
    }

    /// Whether the server was restored from a backup of before this position. It would tell nothing
    /// until it has caught up; and once it has, by writes of its own, nothing of what was lost. So
    /// the Nodes that changed last are asked for, too.
    async fn has_gone_back(&self, client: &Client, position: &str) -> Result<bool, Failure> {
        if version(&requests::revision(client).await?) < version(position) {
            return Ok(true);
        }
        let latest = self.shared.contents.lock().latest(ASKED_AFTER_A_FAILURE);
        for known in latest {
            let read = requests::get(client, Extent::Metadata, &known.0).await?;
            if Contents::is_from_before(&known, read.as_ref()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the position of what was read.
    async fn read_all(&mut self, client: &Client) -> Result<String, Failure> {
        let shared = &self.shared;
        shared.contents.lock().begin();
        let mut position = None;
        if !shared.contents.lock().is_whole_needed() {
            position = Some(self.read_metadata(client).await?);
        }
        // A snapshot that knew few of them leaves too many to be read one by one.
        let is_whole = shared.contents.lock().is_whole_needed();
        if is_whole {
            let listed = requests::list(client, Extent::Whole, |object| {
                let now = Instant::now();
                shared.contents.lock().fetched(object, Source::List, now);
            });
            position = Some(listed.await?);
        }
        if !shared.contents.lock().complete(is_whole) {
            return Err(Failure::Other(
                "it knows no Node at all: is its store the right one?".to_owned(),
            ));
        }
        shared.tell();
        self.list_again = list_again();
        position.ok_or_else(|| Failure::Other("a list without a position".to_owned()))
    }

    async fn read_metadata(&self, client: &Client) -> Result<String, Failure> {
        match self.stream_all(client).await {
            // No server says in advance, reliably, whether it can stream a list.
            Err(failure) if failure.is_about_the_request() => {
                debug!(%failure, "no streamed list: asking for pages");
                let shared = &self.shared;
                let listed = requests::list(client, Extent::Metadata, |object| {
                    let now = Instant::now();
                    shared.contents.lock().told(object, Source::List, now);
                });
                listed.await
            }
            streamed => streamed,
        }
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
                    let now = Instant::now();
                    self.shared.contents.lock().told(object, Source::List, now);
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

    /// One watch of so many seconds, and the Nodes that it makes necessary to read, until it ends
    /// in order.
    async fn watch(
        &mut self,
        client: &Client,
        position: &str,
        seconds: u32,
    ) -> Result<(), Failure> {
        let parameters = WatchParams::default().timeout(seconds);
        let request = Request::new(NODES).watch_metadata(&parameters, position);
        let request = request.map_err(|error| Failure::Other(error.to_string()))?;
        let events = within(client.request_events::<Manifest>(request)).await?;
        let mut events = pin!(events.ready_chunks(EVENTS_MAX));
        if std::mem::take(&mut self.is_lost) {
            info!("the API server is followed again");
        }
        self.shared.contents.lock().followed();
        self.shared.tell();
        let ends = Instant::now() + Duration::from_secs(seconds.into()) + WATCH_MARGIN;
        let mut reads = FuturesUnordered::new();
        loop {
            while reads.len() < READS_MAX
                && let Some((name, uid)) = self.due()
            {
                reads.push(async move {
                    let read = requests::get(client, Extent::Whole, &name).await;
                    (name, uid, read)
                });
            }
            // What has to be read later is waited for only while there is room for it.
            let due_at = self.shared.contents.lock().due_at();
            let due_at = due_at.filter(|_| reads.len() < READS_MAX);
            let wakes = due_at.map_or(ends, |due| due.min(ends));
            tokio::select! {
                chunk = timeout_at(wakes.into(), events.next()) => match chunk {
                    Ok(Some(chunk)) => self.take(chunk)?,
                    Ok(None) => return Ok(()),
                    Err(_) if Instant::now() >= ends => return Ok(()),
                    Err(_) => {}
                },
                Some((name, uid, read)) = reads.next() => self.read(&name, &uid, read),
            }
            self.shared.tell();
        }
    }

    fn due(&self) -> Option<(NodeName, String)> {
        self.shared.contents.lock().due(Instant::now())
    }

    /// A read that fails is made again, later: the watch tells whether the server is there.
    fn read(&self, name: &NodeName, uid: &str, read: Result<Option<Manifest>, Failure>) {
        let now = Instant::now();
        let mut contents = self.shared.contents.lock();
        match read {
            Ok(Some(object)) => contents.fetched(object, Source::News, now),
            Ok(None) => contents.not_found(name, uid),
            Err(failure) => {
                debug!(%name, %failure, "a Node cannot be read");
                contents.not_read(name, now);
            }
        }
    }

    fn take(&mut self, events: Vec<kube::Result<WatchEvent<Manifest>>>) -> Result<(), Failure> {
        let now = Instant::now();
        let mut contents = self.shared.contents.lock();
        for event in events {
            let position = match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let position = object.metadata.resource_version.clone();
                    contents.told(object, Source::News, now);
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
