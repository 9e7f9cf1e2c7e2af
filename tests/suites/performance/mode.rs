//! What a change of a node's mode interrupts: the pair is closed in between.

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, wait_status};
use podwire_testbed::suite::Context;
use podwire_testbed::{IpVersion, Testbed, Topology, matrix};

use crate::measure::{AtMost, Measure, seconds};

/// A restart, and a record that is written and read.
const WITHIN: AtMost = AtMost(5.0);

pub(crate) const MEASURES: &[Measure] = &[
    Measure {
        name: "a_node_that_becomes_host_network_is_silent_for_five_seconds_at_most",
        promise: "a node changes from encrypted to host-network: longest silence with a peer",
        bound: WITHIN,
        unit: "s",
        samples: |context| changes(context, "host-network"),
    },
    Measure {
        name: "a_node_that_becomes_encrypted_is_silent_for_five_seconds_at_most",
        promise: "a node changes from host-network to encrypted: longest silence with a peer",
        bound: WITHIN,
        unit: "s",
        samples: |context| changes(context, "encrypted"),
    },
];

/// Changes there and back.
const TIMES: usize = 4;

/// Datagrams a second.
const RATE: u32 = 200;

fn changes(context: &Context, measured: &str) -> Result<Vec<f64>> {
    let bed = context.mesh(&Topology::new().nodes(2).pods_per_node(1))?;
    bed.expect_plaintext();
    matrix::all_reached(&bed.matrix().run())?;
    let mut samples = Vec::new();
    for _ in 0..TIMES {
        for mode in ["host-network", "encrypted"] {
            let silence = change(&bed, mode).with_context(|| format!("to {mode}"))?;
            if mode == measured {
                samples.push(silence);
            }
        }
    }
    Ok(samples)
}

/// The longest silence in either direction, one over each version.
fn change(bed: &Testbed, mode: &str) -> Result<f64> {
    let (one, two) = (bed.pod(1, 1).host(), bed.pod(2, 1).host());
    let counters = [
        bed.udp_counter(one, two, IpVersion::V4, RATE)?,
        bed.udp_counter(two, one, IpVersion::V6, RATE)?,
    ];
    for counter in &counters {
        counter.wait_for_more(u64::from(RATE), CONVERGENCE)?;
    }
    let node = bed.node(2);
    node.stop_agent()?;
    node.set_agent_arguments(&["--mode", mode]);
    node.start_agent()?;
    node.wait_ready()?;
    wait_status(bed.node(1), "the peer in its new mode", |status| {
        let plaintext = usize::from(mode == "host-network");
        status.peers.host_network == plaintext && status.peers.encrypted == 1 - plaintext
    })?;
    let mut longest = 0_f64;
    for counter in counters {
        counter.wait_for_more(u64::from(RATE), CONVERGENCE)?;
        let count = counter.stop()?;
        ensure!(count.repeated == 0, "{count:?}");
        longest = longest.max(seconds(count.longest_gap));
    }
    Ok(longest)
}
