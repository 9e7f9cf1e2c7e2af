//! What tests of a whole program share, as its user starts it: one at a time, signalled, and heard.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::binaries;

/// One at a time within a suite: each has several busy processes, and measures.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The agent, built once, so that no program waits for another's build.
///
/// # Panics
/// When it cannot be built; the compiler's output went to standard error.
pub fn agent() -> &'static Path {
    static AGENT: OnceLock<PathBuf> = OnceLock::new();
    AGENT.get_or_init(|| binaries::agent().expect("the agent can be built"))
}

/// What a program said, and how it ended.
#[must_use]
pub fn said(output: &Output) -> String {
    format!(
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Sends a signal to a process.
///
/// # Errors
/// When it has ended.
pub fn signal(id: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
    Ok(kill_process(
        pid.context("no process has this id")?,
        signal,
    )?)
}
