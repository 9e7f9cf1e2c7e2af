//! TCP congestion control: pinned, as algorithms differ by more than implementations may.

use std::fs;

use anyhow::{Context as _, Result, ensure};

/// What the kernel has loaded. Root of a network namespace may use all of it.
const AVAILABLE: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";

/// Checks that an algorithm can be used, before anything is measured with another.
///
/// # Errors
/// With those that can be.
pub(crate) fn check(algorithm: &str) -> Result<()> {
    let list = fs::read_to_string(AVAILABLE).with_context(|| format!("reading {AVAILABLE}"))?;
    ensure!(
        list.split_whitespace().any(|name| name == algorithm),
        "the kernel has not loaded TCP congestion control {algorithm:?}: `modprobe tcp_{algorithm}`, or \
         --congestion with one of: {}",
        list.trim()
    );
    Ok(())
}
