//! Processor time of an agent.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use podwire_testbed::Node;

/// Fields of `/proc/PID/stat` after the name that ends in ')': user and system time in ticks.
const USER_TICKS: usize = 11;
const SYSTEM_TICKS: usize = 12;

/// `USER_HZ`, the same on every Linux that this runs on.
const TICKS_PER_SECOND: u64 = 100;

/// What the running agent of a node has used so far.
pub(crate) fn processor_time(node: &Node) -> Result<Duration> {
    let path = format!("/proc/{}/stat", node.agent_pid()?);
    let stat = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let (_, fields) = stat.rsplit_once(')').context("a name in parentheses")?;
    let fields: Vec<_> = fields.split_whitespace().collect();
    let ticks = |field: usize| -> Result<u64> { Ok(fields[field].parse()?) };
    let ticks = ticks(USER_TICKS)? + ticks(SYSTEM_TICKS)?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}
