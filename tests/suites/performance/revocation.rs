//! How long a revocation interrupts each pair of the node whose keys it replaces.

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, peer, status};
use podwire_testbed::suite::Context;
use podwire_testbed::{IpVersion, Testbed, Topology, UdpCounter, matrix, until};

use crate::measure::{AtMost, Measure, seconds};

pub(crate) const MEASURES: &[Measure] = &[Measure {
    name: "a_revocation_interrupts_each_pair_for_a_second_at_most",
    promise: "a node of five revokes its keys: longest silence of each of its pairs",
    bound: AtMost(1.0),
    unit: "s",
    samples: each_pair,
}];

const NODES: u8 = 5;

/// Revocations, of which each has as many samples as the node has peers.
const TIMES: usize = 3;

/// Datagrams a second each way.
const RATE: u32 = 1_000;

fn each_pair(context: &Context) -> Result<Vec<f64>> {
    let bed = context.mesh(&Topology::new().nodes(NODES).pods_per_node(1))?;
    until(CONVERGENCE, "the mesh to be whole", || {
        matrix::all_reached(&bed.matrix().run())
    })?;
    let mut samples = Vec::new();
    for _ in 0..TIMES {
        samples.extend(revoke(&bed)?);
    }
    Ok(samples)
}

fn revoke(bed: &Testbed) -> Result<Vec<f64>> {
    let pairs = (2..=NODES).map(|other| both_ways(bed, other));
    let pairs: Vec<_> = pairs.collect::<Result<_>>()?;
    let flow = || {
        let mut counters = pairs.iter().flatten();
        counters.try_for_each(|counter| counter.wait_for_more(u64::from(RATE), CONVERGENCE))
    };
    flow()?;
    let node = bed.node(1);
    let key = || status(node)?.public_key.context("no key");
    let before = key()?;
    node.agent_output(&["revoke", "--yes"])?;
    for other in 2..=NODES {
        until(CONVERGENCE, "the new key to be read", || {
            let (now, row) = (key()?, peer(bed.node(other), "node-1")?);
            ensure!(now != before && row.public_key == Some(now), "{row:?}");
            Ok(())
        })?;
    }
    flow()?;
    pairs.into_iter().map(longest_silence).collect()
}

/// One over each version.
fn both_ways(bed: &Testbed, other: u8) -> Result<[UdpCounter; 2]> {
    let (one, other) = (bed.pod(1, 1).host(), bed.pod(other, 1).host());
    Ok([
        bed.udp_counter(one, other, IpVersion::V4, RATE)?,
        bed.udp_counter(other, one, IpVersion::V6, RATE)?,
    ])
}

fn longest_silence(counters: [UdpCounter; 2]) -> Result<f64> {
    let mut longest = 0_f64;
    for counter in counters {
        let count = counter.stop()?;
        ensure!(count.repeated == 0, "{count:?}");
        longest = longest.max(seconds(count.longest_gap));
    }
    Ok(longest)
}
