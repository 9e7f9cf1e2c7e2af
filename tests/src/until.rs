//! Waiting for a condition with a deadline.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// How often a condition is looked at: short against every deadline, long against its cost.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Looks at `condition` until it is `Ok`, at least once, and returns its value.
///
/// # Errors
/// After `deadline`: what was waited for, and the last reason why it was not so.
pub fn until<T>(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(value) => return Ok(value),
            Err(reason) if start.elapsed() >= deadline => {
                let waited = start.elapsed().as_secs();
                return Err(anyhow!("waited {waited} s for {what}: {reason:#}"));
            }
            Err(_) => thread::sleep(POLL_INTERVAL),
        }
    }
}
