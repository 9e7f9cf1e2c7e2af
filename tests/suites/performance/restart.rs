//! What a restart of one agent, and of all, interrupts.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, wait_peers};
use podwire_testbed::pulse::{Pulse, recovery};
use podwire_testbed::suite::Context;
use podwire_testbed::{IpVersion, Topology, matrix, until};

use crate::measure::{AtMost, Measure, seconds};

pub(crate) const MEASURES: &[Measure] = &[
    Measure {
        name: "a_restart_interrupts_a_connection_for_two_seconds_at_most",
        promise: "longest silence of a TCP connection whose node's agent is killed and started",
        bound: AtMost(2.0),
        unit: "s",
        samples: one,
    },
    Measure {
        name: "eight_nodes_restarted_at_once_reach_each_other_within_ten_seconds",
        promise: "eight agents killed and started at once: every pod reaches every other",
        bound: AtMost(10.0),
        unit: "s",
        samples: all,
    },
];

const RESTARTS: usize = 5;

/// Messages a second of the connection.
const RATE: u32 = 100;

fn one(context: &Context) -> Result<Vec<f64>> {
    let bed = context.mesh(&Topology::new().nodes(2).pods_per_node(1))?;
    matrix::all_reached(&bed.matrix().run())?;
    let (from, to) = (bed.pod(1, 1).host(), bed.pod(2, 1).host());
    let mut samples = Vec::new();
    for round in 0..RESTARTS {
        let version = [IpVersion::V4, IpVersion::V6][round % 2];
        let connection = bed.tcp_counter(from, to.address(version)?, RATE)?;
        connection.wait_for_more(u64::from(RATE), CONVERGENCE)?;
        bed.node(1).kill_agent()?;
        bed.node(1).start_agent()?;
        bed.node(1).wait_ready()?;
        connection.wait_for_more(u64::from(RATE), CONVERGENCE)?;
        let count = connection.stop()?;
        ensure!(
            count.broken.is_none() && count.echoed == count.sent,
            "{count:?}"
        );
        samples.push(seconds(count.longest_gap));
    }
    Ok(samples)
}

const NODES: u8 = 8;
const ALL_RESTARTS: usize = 5;

/// Nothing is lost for this long: then it is over.
const QUIET: Duration = Duration::from_secs(3);

fn all(context: &Context) -> Result<Vec<f64>> {
    let bed = context.mesh(&Topology::new().nodes(NODES).pods_per_node(1))?;
    wait_peers(&bed)?;
    matrix::all_reached(&bed.matrix().run())?;
    let pulse = Pulse::start(&bed)?;
    let ways = usize::from(NODES) * usize::from(NODES - 1) * bed.pod(1, 1).addresses().len();
    let mut samples = Vec::new();
    for _ in 0..ALL_RESTARTS {
        for node in bed.nodes() {
            node.kill_agent()?;
        }
        let since = pulse.now();
        for node in bed.nodes() {
            node.start_agent()?;
        }
        let recovered = until(2 * CONVERGENCE, "every way to be answered", || {
            recovery(&pulse.questions(), ways, since, pulse.now(), QUIET)
                .context("some are not yet")
        })?;
        samples.push(seconds(recovered));
    }
    drop(pulse);
    matrix::all_reached(&bed.matrix().run()).context("at the end")?;
    Ok(samples)
}
