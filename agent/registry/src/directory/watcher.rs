//! Looks at the folder whenever something happens in it, and now and then in any case.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use inotify::{EventMask, EventOwned, EventStream, Inotify, WatchDescriptor, Watches};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{info, warn};

use super::contents::{Contents, Generation};
use super::folder::{self, FolderId, Suspects};
use crate::nodes::{Loss, Nodes, Synchronisation};

/// Events that follow each other within this time make one snapshot.
const QUIET: Duration = Duration::from_millis(50);

/// Events that never end do not hold a snapshot back for longer.
const QUIET_DEADLINE: Duration = Duration::from_millis(500);

/// How often the folder is looked at without an event: a network file system reports no changes
/// that other machines make, and what is mounted over the folder makes no event either.
const RESCAN_INTERVAL: Duration = Duration::from_secs(10);

/// First and longest pause between two looks for a lost folder.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Room for some hundred events at once.
const EVENT_BUFFER_SIZE: usize = 16 * 1024;

/// Keeps the Nodes of a [`super::Directory`] up to date while it runs.
#[derive(Debug)]
pub struct Watcher {
    path: PathBuf,
    events: EventStream<Vec<u8>>,
    watched: Option<Watched>,
    /// Counts the folders that were watched: an inode number may be used again.
    generation: Generation,
    suspects: Suspects,
    contents: Contents,
    sender: watch::Sender<Arc<Nodes>>,
}

#[derive(Clone, Debug)]
struct Watched {
    folder: FolderId,
    descriptor: WatchDescriptor,
}

impl Watcher {
    pub(super) fn new(path: PathBuf, sender: watch::Sender<Arc<Nodes>>) -> io::Result<Self> {
        Ok(Self {
            path,
            events: Inotify::init()?.into_event_stream(vec![0; EVENT_BUFFER_SIZE])?,
            watched: None,
            generation: 0,
            suspects: Suspects::All,
            contents: Contents::default(),
            sender,
        })
    }

    /// Follows the folder until it is dropped; never returns.
    pub async fn run(mut self) -> Infallible {
        let mut backoff = BACKOFF_MIN;
        loop {
            let settling = self.look().await;
            self.publish();
            // An empty folder is watched, so that its first file is an event.
            let wait = if self.watched.is_some() {
                backoff = BACKOFF_MIN;
                settling.unwrap_or(RESCAN_INTERVAL)
            } else {
                let wait = backoff;
                backoff = (backoff * 2).min(BACKOFF_MAX);
                wait
            };
            self.events(Instant::now() + wait).await;
        }
    }

    /// Looks at the folder once; returns after which time to look again without an event.
    async fn look(&mut self) -> Option<Duration> {
        let path = self.path.clone();
        let watches = self.events.watches();
        let watched = self.watched.clone();
        let known = self.contents.known().clone();
        let suspects = std::mem::replace(&mut self.suspects, Suspects::Some(BTreeSet::new()));
        // A folder on a network may answer late: not on the thread that keeps the mesh in repair.
        let looked = tokio::task::spawn_blocking(move || {
            attach(&path, watches, watched)
                .map(|(folder, watched)| (watched, folder::list(&folder, &known, &suspects)))
        });
        let looked = match looked.await {
            Ok(looked) => looked,
            Err(stopped) => match stopped.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(Loss::Unreadable("the process is ending".to_owned())),
            },
        };
        let listing = looked.and_then(|(watched, listing)| {
            if self
                .watched
                .as_ref()
                .is_none_or(|old| old.descriptor != watched.descriptor)
            {
                self.generation += 1;
            }
            self.watched = Some(watched);
            listing
        });
        match listing {
            Ok(listing) => {
                self.contents
                    .listed(self.generation, listing, Instant::now().into_std())
            }
            Err(loss) => {
                self.detach();
                self.contents.lost(loss);
                None
            }
        }
    }

    fn detach(&mut self) {
        if let Some(watched) = self.watched.take() {
            // Fails when the folder is gone, and its watch with it.
            let _ = self.events.watches().remove(watched.descriptor);
        }
        self.suspects = Suspects::All;
    }

    /// Tells the receivers what changed, and people whether the folder is there. Which files do not
    /// count is part of what the receivers are told, who tell people in their own way.
    fn publish(&self) {
        let next = self.contents.nodes();
        let before = Arc::clone(&self.sender.borrow());
        if Arc::ptr_eq(&before, next) {
            return;
        }
        let folder = self.path.display();
        match &next.state {
            state if *state == before.state => {}
            Synchronisation::Lost(loss) => {
                warn!(%folder, nodes = next.nodes.len(), "registry lost, its nodes stay: {loss}");
            }
            Synchronisation::Synchronised => {
                info!(%folder, nodes = next.nodes.len(), "registry read as a whole");
            }
            Synchronisation::Starting => {}
        }
        self.sender.send_replace(Arc::clone(next));
    }

    /// Waits for events, or until the deadline; then, as long as they go on, a little longer.
    async fn events(&mut self, deadline: Instant) {
        if timeout_at(deadline, self.event()).await.is_err() {
            return;
        }
        let end = Instant::now() + QUIET_DEADLINE;
        while Instant::now() < end {
            let quiet = Instant::now() + QUIET;
            tokio::select! {
                () = sleep_until(quiet.min(end)) => return,
                () = self.event() => {}
            }
        }
    }

    /// Waits for an event that matters, and takes it in.
    async fn event(&mut self) {
        loop {
            match self.events.next().await {
                Some(Ok(event)) if self.take(&event) => return,
                Some(Ok(_)) => {}
                // Neither happens to an inotify descriptor; looks without events go on.
                Some(Err(_)) | None => std::future::pending().await,
            }
        }
    }

    /// Takes an event in; whether it matters.
    fn take(&mut self, event: &EventOwned) -> bool {
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            self.suspects = Suspects::All;
            return true;
        }
        if self
            .watched
            .as_ref()
            .is_none_or(|watched| watched.descriptor != event.wd)
        {
            return false;
        }
        if event.mask.contains(EventMask::IGNORED) {
            self.watched = None;
            self.suspects = Suspects::All;
            return true;
        }
        let name = event
            .name
            .as_ref()
            .map(|name| name.to_string_lossy().into_owned());
        // Temporary files: those of every writer in the folder, our own among them.
        if name.as_ref().is_some_and(|name| name.starts_with('.')) {
            return false;
        }
        if let (Suspects::Some(names), Some(name)) = (&mut self.suspects, name) {
            names.insert(name);
        }
        true
    }
}

/// Opens the folder, and watches it unless it is the one that is watched already.
fn attach(
    path: &Path,
    mut watches: Watches,
    watched: Option<Watched>,
) -> Result<(OwnedFd, Watched), Loss> {
    let (folder, id) = folder::open(path)?;
    match watched {
        Some(watched) if watched.folder == id => return Ok((folder, watched)),
        // Fails when that folder is gone, and its watch with it.
        Some(other) => drop(watches.remove(other.descriptor)),
        None => {}
    }
    // Before the listing, so that no change falls between the two.
    let descriptor = folder::watch(watches, path)?;
    Ok((
        folder,
        Watched {
            folder: id,
            descriptor,
        },
    ))
}
