//! A node whose clock went back.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::CONVERGENCE;
use podwire_testbed::suite::Context;
use podwire_testbed::{IpVersion, Protocol, Testbed, Topology, matrix, until};
use serde_json::Value;

use crate::measure::{AtMost, Measure, seconds};

pub(crate) const MEASURES: &[Measure] = &[Measure {
    name: "a_node_whose_clock_is_an_hour_back_is_accepted_within_ten_seconds",
    promise: "a restart with a clock that is an hour back: peers reach the node, and it them",
    bound: AtMost(10.0),
    unit: "s",
    samples: an_hour_back,
}];

/// Each an hour further back.
const RESTARTS: usize = 4;

/// Short against what is measured.
const PATIENCE: Duration = Duration::from_millis(200);

/// libfaketime, for threads; /usr/lib has a folder for each architecture.
fn library() -> Result<PathBuf> {
    let folders = fs::read_dir("/usr/lib").context("looking for libfaketime")?;
    folders
        .filter_map(|entry| Some(entry.ok()?.path().join("faketime/libfaketimeMT.so.1")))
        .find(|path| path.exists())
        .context("no libfaketime: run `apt-get install faketime`")
}

fn an_hour_back(context: &Context) -> Result<Vec<f64>> {
    let library = library()?;
    let bed = context.mesh(&Topology::new().nodes(2).pods_per_node(1))?;
    matrix::all_reached(&bed.matrix().run())?;
    let node = bed.node(1);
    node.set_agent_environment("LD_PRELOAD", &library.to_string_lossy());
    // What must not jump does not: timers run on the monotonic clock.
    node.set_agent_environment("DONT_FAKE_MONOTONIC", "1");
    node.set_agent_environment("FAKETIME", "+0h");
    let mut samples = Vec::new();
    for round in 1..=RESTARTS {
        show_a_stamp(&bed)?;
        node.kill_agent()?;
        node.set_agent_environment("FAKETIME", &format!("-{round}h"));
        let start = Instant::now();
        node.start_agent()?;
        until(CONVERGENCE, "the node to be reached, and to reach", || {
            reached(&bed)
        })?;
        samples.push(seconds(start.elapsed()));
        node.wait_ready()?;
        let epoch = node.status_json()?["epoch"].as_u64();
        ensure!(
            epoch == u64::try_from(round).ok(),
            "the clock did not go back: epoch {epoch:?}"
        );
    }
    Ok(samples)
}

/// Both ways.
fn reached(bed: &Testbed) -> Result<()> {
    let (one, two) = (bed.pod(1, 1).host(), bed.pod(2, 1).host());
    for (from, to) in [(one, two), (two, one)] {
        let target = to.address(IpVersion::V4)?;
        let probe = bed.probe(from, Protocol::Udp, target).timeout(PATIENCE);
        probe.ask()?;
    }
    Ok(())
}

/// Has the peer see a stamp of the node, by which it would refuse older ones: the node starts, and
/// asks for a handshake that the peer, which is stopped meanwhile, has no chance to ask for first.
fn show_a_stamp(bed: &Testbed) -> Result<()> {
    let (node, peer) = (bed.node(1), bed.node(2));
    peer.pause_agent()?;
    node.kill_agent()?;
    node.start_agent()?;
    let path = node.state_dir().join("history.json");
    let kept = until(CONVERGENCE, "a stamp on disk", || {
        let history: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
        let stamp = history["highest_stamp"].as_u64();
        ensure!(stamp > Some(0), "{history}");
        Ok(())
    });
    peer.resume_agent()?;
    kept?;
    until(CONVERGENCE, "the peer to answer", || reached(bed))
}
