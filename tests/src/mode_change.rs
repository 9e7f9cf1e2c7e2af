//! A node that changes its mode under traffic: when it said so, and how long nothing passed.

use std::fs;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};

use crate::address::IpVersion;
use crate::agent_view::{CONVERGENCE, wait_status};
use crate::counter::UdpCounter;
use crate::node::Node;
use crate::testbed::Testbed;
use crate::until::until;

/// Datagrams a second each way: what an outage is measured by.
const RATE: u32 = 200;

/// Datagrams that must pass before the change, and after it.
const WARM: u64 = 50;

/// One way between two pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Node whose first pod sends.
    pub from: u8,
    /// Node whose first pod receives.
    pub to: u8,
    /// In which version.
    pub version: IpVersion,
}

impl Way {
    /// Both directions between two nodes' pods, both versions.
    #[must_use]
    pub fn all(one: u8, other: u8) -> Vec<Self> {
        let mut ways = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            ways.extend([(one, other), (other, one)].map(|(from, to)| Self { from, to, version }));
        }
        ways
    }
}

/// What a change of mode was like.
#[derive(Debug, Clone)]
pub struct ModeChange {
    /// When the record with the new mode was written, since the Unix epoch, by the file system's
    /// clock.
    pub declared: Duration,
    /// The longest time that nothing arrived, for each way.
    pub outages: Vec<(Way, Duration)>,
}

/// Restarts the agent of `node` with these arguments, which name another mode, under traffic on
/// these ways, until `other` has followed and traffic passes again.
///
/// # Errors
/// When one of them does not follow, or traffic does not pass before or after.
pub fn change_mode(
    bed: &Testbed,
    (node, other): (&Node, &Node),
    mode: &str,
    arguments: &[&str],
    ways: &[Way],
) -> Result<ModeChange> {
    let counters = ways
        .iter()
        .map(|way| count(bed, *way))
        .collect::<Result<Vec<_>>>()?;
    node.stop_agent()?;
    node.set_agent_arguments(&[arguments, &["--mode", mode]].concat());
    node.start_agent()?;
    let declared = declaration(bed, node, mode)?;
    let is_plaintext = mode == "host-network";
    wait_status(other, "the pair's other mode", |status| {
        status.plaintext.iter().any(|name| name == node.name()) == is_plaintext
    })?;
    for counter in &counters {
        counter.wait_for_more(WARM, CONVERGENCE)?;
    }
    let outages = ways
        .iter()
        .zip(counters)
        .map(|(way, counter)| Ok((*way, counter.stop()?.longest_gap)))
        .collect::<Result<_>>()?;
    Ok(ModeChange { declared, outages })
}

fn count(bed: &Testbed, way: Way) -> Result<UdpCounter> {
    let (from, to) = (bed.pod(way.from, 1).host(), bed.pod(way.to, 1).host());
    let counter = bed.udp_counter(from, to, way.version, RATE)?;
    counter.wait_for_more(WARM, CONVERGENCE)?;
    Ok(counter)
}

/// Waits for the record that says so.
fn declaration(bed: &Testbed, node: &Node, mode: &str) -> Result<Duration> {
    let path = bed.directory().record_path(node.name());
    let what = format!("{} to declare {mode}", node.name());
    until(CONVERGENCE, &what, || {
        let written = fs::metadata(&path)?.modified()?;
        let record = fs::read_to_string(&path)?;
        ensure!(
            record.contains(&format!("podwire.dev/mode: {mode}")),
            "{record}"
        );
        // Replaced meanwhile: that was another record's time.
        ensure!(fs::metadata(&path)?.modified()? == written, "it changes");
        written
            .duration_since(SystemTime::UNIX_EPOCH)
            .context("the file system's clock")
    })
}
