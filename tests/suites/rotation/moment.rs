//! The very moment at which something is in a folder.

use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};

/// Room for some events; what they say is not looked at.
const EVENTS_BYTES: usize = 4096;

/// What a busy disk is given to write at a time, so that a small file beside it takes some
/// milliseconds to be safe: both are in one commit of the journal.
const WRITTEN_BYTES: usize = 8 << 20;

/// Has something happen while the disk below a folder is busy.
pub(crate) fn on_a_busy_disk<T>(folder: &Path, happens: impl FnOnce() -> Result<T>) -> Result<T> {
    let is_over = AtomicBool::new(false);
    let write = || -> Result<()> {
        let bytes = vec![0x5a; WRITTEN_BYTES];
        while !is_over.load(Ordering::Relaxed) {
            let mut file = tempfile::tempfile_in(folder)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let writer = scope.spawn(write);
        let happened = happens();
        is_over.store(true, Ordering::Relaxed);
        let written = writer.join().map_err(|_| anyhow!("the writer panicked"))?;
        written.with_context(|| format!("writing in {}", folder.display()))?;
        happened
    })
}

/// Waits until `is_so`, which looks at what is in the folder, and looks at each change as it
/// happens: what is there for a millisecond is seen.
pub(crate) fn at_once(
    folder: &Path,
    deadline: Duration,
    what: &str,
    mut is_so: impl FnMut() -> bool,
) -> Result<()> {
    let events = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    let flags = WatchFlags::CREATE | WatchFlags::MOVED_TO;
    add_watch(&events, folder, flags)?;
    let start = Instant::now();
    while !is_so() {
        let left = deadline.saturating_sub(start.elapsed());
        if left.is_zero() {
            bail!("waited {} s for {what}", deadline.as_secs());
        }
        let mut ready = [PollFd::new(&events, PollFlags::IN)];
        let _ = poll(&mut ready, Timespec::try_from(left).ok().as_ref());
        // Nothing is there to be read at the deadline.
        let _ = rustix::io::read(&events, &mut [0_u8; EVENTS_BYTES]);
    }
    Ok(())
}
