//! A node whose clock went back.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::CONVERGENCE;
use podwire_testbed::suite::Context;
use podwire_testbed::{IpVersion, Protocol, Topology, matrix, until};

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
    let folders = std::fs::read_dir("/usr/lib").context("looking for libfaketime")?;
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
    let (one, two) = (bed.pod(1, 1).host(), bed.pod(2, 1).host());
    let mut samples = Vec::new();
    for round in 1..=RESTARTS {
        node.kill_agent()?;
        node.set_agent_environment("FAKETIME", &format!("-{round}h"));
        let start = Instant::now();
        node.start_agent()?;
        until(CONVERGENCE, "the node to be reached, and to reach", || {
            for (from, to) in [(one, two), (two, one)] {
                let target = to.address(IpVersion::V4)?;
                let probe = bed.probe(from, Protocol::Udp, target).timeout(PATIENCE);
                probe.ask()?;
            }
            Ok(())
        })?;
        samples.push(seconds(start.elapsed()));
        node.wait_ready()?;
        let epoch = node.status_json()?["epoch"].as_u64();
        ensure!(
            epoch >= u64::try_from(round).ok(),
            "the clock did not go back: epoch {epoch:?}"
        );
    }
    Ok(samples)
}
