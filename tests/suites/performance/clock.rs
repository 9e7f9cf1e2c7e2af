//! A node whose clock is set: before a restart, and while its agent runs.
//!
//! Node 2 starts no handshake, so that node 1 gets no help: what is measured is how soon a
//! handshake of its own is accepted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, peer, wait_whole};
use podwire_testbed::suite::Context;
use podwire_testbed::{IpVersion, Node, Protocol, Testbed, Topology, until};

use crate::measure::{AtMost, Measure, seconds};

/// What is promised of each.
const WITHIN: AtMost = AtMost(10.0);

pub(crate) const MEASURES: &[Measure] = &[
    Measure {
        name: "a_node_whose_clock_is_an_hour_back_is_accepted_within_ten_seconds",
        promise: "a restart with a clock that is an hour back: peers reach the node, and it them",
        bound: WITHIN,
        unit: "s",
        samples: |context| before_a_restart(context, HOUR),
    },
    Measure {
        name: "a_node_whose_clock_is_a_year_back_is_accepted_within_ten_seconds",
        promise: "a restart with a clock that is a year back: peers reach the node, and it them",
        bound: WITHIN,
        unit: "s",
        samples: |context| before_a_restart(context, YEAR),
    },
    Measure {
        name: "a_running_clock_that_goes_an_hour_back_is_accepted_within_ten_seconds",
        promise: "a running clock that goes an hour back: a new handshake, and both reach the other",
        bound: WITHIN,
        unit: "s",
        samples: back,
    },
    Measure {
        name: "a_running_clock_that_goes_a_year_ahead_and_is_set_right_is_accepted_each_time",
        promise: "a running clock that goes a year ahead, and is set right again: a new handshake \
                  each time, and both reach the other",
        bound: WITHIN,
        unit: "s",
        samples: ahead_and_right_again,
    },
];

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;

/// How often each is done.
const TIMES: i64 = 4;

/// Short against what is measured.
const PATIENCE: Duration = Duration::from_millis(200);

/// Two nodes of one lane each: of several, each remembers stamps of its own.
fn mesh(context: &Context) -> Result<Arc<Testbed>> {
    let topology = Topology::new()
        .nodes(2)
        .pods_per_node(1)
        .agent_arguments(&["--lanes", "1"]);
    let bed = context.testbed(&topology)?;
    bed.node(1).set_clock(0)?;
    bed.node(2).mute_initiations()?;
    bed.start_agents()?;
    wait_whole(&bed)?;
    Ok(bed)
}

/// Each further back than the one before.
fn before_a_restart(context: &Context, by: i64) -> Result<Vec<f64>> {
    let bed = mesh(context)?;
    let node = bed.node(1);
    let mut samples = Vec::new();
    for round in 1..=TIMES {
        show_a_stamp(&bed)?;
        node.kill_agent()?;
        node.set_clock(-round * by)?;
        let start = Instant::now();
        node.start_agent()?;
        until(CONVERGENCE, "the node to be reached, and to reach", || {
            reached(&bed)
        })?;
        samples.push(seconds(start.elapsed()));
        node.wait_ready()?;
        has_epoch(node, round)?;
    }
    Ok(samples)
}

/// Each an hour further back.
fn back(context: &Context) -> Result<Vec<f64>> {
    let bed = mesh(context)?;
    let node = bed.node(1);
    let mut samples = Vec::new();
    for round in 1..=TIMES {
        let handshakes = handshakes(&bed)?;
        node.set_clock(-round * HOUR)?;
        samples.push(accepted(&bed, handshakes)?);
        has_epoch(node, round)?;
    }
    Ok(samples)
}

/// The stamps of the future are sent to a peer that is met under that clock: to one of before, the
/// clock of before goes on.
fn ahead_and_right_again(context: &Context) -> Result<Vec<f64>> {
    let bed = mesh(context)?;
    let (node, other) = (bed.node(1), bed.node(2));
    let mut samples = Vec::new();
    for round in 1..=TIMES {
        other.kill_agent()?;
        other.forget_state()?;
        node.set_clock(YEAR)?;
        other.start_agent()?;
        other.wait_ready()?;
        // What it has counted with the peer of before is forgotten with that one's key.
        samples.push(accepted(&bed, 0)?);
        let handshakes = handshakes(&bed)?;
        node.set_clock(0)?;
        samples.push(accepted(&bed, handshakes)?);
        has_epoch(node, round)?;
    }
    Ok(samples)
}

/// How long from now until node 1 has completed another handshake, and both are reached.
fn accepted(bed: &Testbed, before: u64) -> Result<f64> {
    let start = Instant::now();
    until(CONVERGENCE, "a new handshake, and an answer", || {
        reached(bed)?;
        let now = handshakes(bed)?;
        ensure!(now > before, "{now} handshakes");
        Ok(())
    })?;
    Ok(seconds(start.elapsed()))
}

/// Completed handshakes of node 1 with node 2.
fn handshakes(bed: &Testbed) -> Result<u64> {
    Ok(peer(bed.node(1), bed.node(2).name())?.handshakes)
}

fn has_epoch(node: &Node, number: i64) -> Result<()> {
    let epoch = node.status_json()?["epoch"].as_i64();
    ensure!(
        epoch == Some(number),
        "the clock did not go back: epoch {epoch:?}"
    );
    Ok(())
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

/// Has the peer see a stamp of the node, by which it would refuse older ones: an initiation is on
/// the wire, and the peer, which is stopped meanwhile, reads it when it goes on.
fn show_a_stamp(bed: &Testbed) -> Result<()> {
    let (node, peer) = (bed.node(1), bed.node(2));
    peer.pause_agent()?;
    node.kill_agent()?;
    bed.capture().take_report()?;
    node.start_agent()?;
    let sent = until(CONVERGENCE, "an initiation of the node", || {
        let initiations = bed.capture().report()?.wireguard.initiation.frames;
        ensure!(initiations > 0, "none");
        Ok(())
    });
    peer.resume_agent()?;
    sent?;
    until(CONVERGENCE, "the peer to answer", || reached(bed)).context("under the clock of before")
}
