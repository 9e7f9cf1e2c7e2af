//! The very moment at which something is in a folder.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};

/// Room for some events; what they say is not looked at.
const EVENTS_BYTES: usize = 4096;

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
