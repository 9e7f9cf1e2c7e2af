//! Lanes: equal, unequal, and with a port that the underlay blocks.

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Impairment, IpVersion, Protocol, Testbed, Topology, matrix, until};

use podwire_testbed::agent_view::{CONVERGENCE, peer, peers};

pub(crate) const TESTS: &[Test] = &[
    ("one_two_and_unequal_lanes_carry_every_flow", counts),
    ("flows_of_a_blocked_lane_take_lane_0", blocked),
];

/// Enough flows that each lane gets some.
const FLOWS: usize = 32;

fn mesh(context: &Context, lanes: &[&str]) -> Result<std::sync::Arc<Testbed>> {
    let nodes = u8::try_from(lanes.len())?;
    let bed = context.testbed(&Topology::new().nodes(nodes).pods_per_node(1))?;
    for (node, lanes) in bed.nodes().iter().zip(lanes) {
        node.set_agent_arguments(&["--lanes", lanes]);
    }
    bed.start_agents()?;
    Ok(bed)
}

fn counts(context: &Context) -> Result<()> {
    for lanes in [&["1", "1"][..], &["2", "2"], &["1", "2", "4"]] {
        every_lane(context, lanes).with_context(|| format!("with {lanes:?} lanes"))?;
    }
    Ok(())
}

fn every_lane(context: &Context, lanes: &[&str]) -> Result<()> {
    let bed = mesh(context, lanes)?;
    matrix::all_reached(&bed.matrix().run())?;
    let counts: Vec<usize> = lanes
        .iter()
        .map(|count| count.parse())
        .collect::<Result<_, _>>()?;
    until(CONVERGENCE, "every lane of every pair", || {
        flows(&bed)?;
        for (node, own) in bed.nodes().iter().zip(&counts) {
            for row in peers(node)? {
                let other = bed
                    .nodes()
                    .iter()
                    .position(|other| other.name() == row.node);
                let shared = counts[other.context("a peer of the testbed")?].min(*own);
                ensure!(row.lanes == shared, "{} to {row:?}", node.name());
                ensure!(row.lanes_up == shared, "{} to {row:?}", node.name());
            }
        }
        Ok(())
    })
}

/// New flows between all pairs of nodes, each of which must be answered at once.
fn flows(bed: &Testbed) -> Result<()> {
    for from in bed.pods() {
        for to in bed.pods().filter(|to| to.id() != from.id()) {
            let target = to.host().address(IpVersion::V4)?;
            for _ in 0..FLOWS / bed.nodes().len() {
                bed.probe(from.host(), Protocol::Udp, target).ask()?;
            }
        }
    }
    Ok(())
}

fn blocked(context: &Context) -> Result<()> {
    let bed = context.testbed(
        &Topology::new()
            .nodes(2)
            .pods_per_node(1)
            .agent_arguments(&["--lanes", "2"]),
    )?;
    let rule = bed.impair(&Impairment::blackhole().udp_port(51_881))?;
    bed.start_agents()?;
    matrix::all_reached(&bed.matrix().run())?;
    // Many flows, of which about half belong to the lane that is blocked.
    for _ in 0..4 {
        flows(&bed)?;
    }
    let row = peer(bed.node(1), "node-2")?;
    ensure!(row.lanes == 2 && row.lanes_up == 1, "{row:?}");
    let dropped = bed.dropped_by(rule)?;
    ensure!(
        dropped > 0,
        "nothing tried the blocked lane: the test proves nothing"
    );
    bed.heal(rule)?;
    until(CONVERGENCE, "the healed lane", || {
        flows(&bed)?;
        let row = peer(bed.node(1), "node-2")?;
        ensure!(row.lanes_up == 2, "{row:?}");
        Ok(())
    })
}
