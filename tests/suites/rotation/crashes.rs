//! An agent that is killed in any phase of a rotation goes on with it.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, status};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Testbed, Topology, matrix, until};

use crate::scene::{PHASE_DEADLINE, Verb, annotation, ask, generation, phase_on_disk, wait_phase};

pub(crate) const TESTS: &[Test] = &[(
    "an_agent_killed_at_any_moment_of_a_rotation_ends_it_after_its_next_start",
    killed,
)];

/// When the agent is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// It is asked.
    Asked,
    /// A phase is on its disk, and may be nowhere else.
    OnDisk(&'static str),
    /// Its record tells of the phase.
    Told(&'static str),
}

const MOMENTS: [Moment; 5] = [
    Moment::Asked,
    Moment::OnDisk("announced"),
    Moment::Told("announced"),
    Moment::OnDisk("promoted"),
    Moment::Told("promoted"),
];

fn killed(context: &Context) -> Result<()> {
    // Keys that were replaced keep a node from another rotation for minutes: each has one.
    let nodes = u8::try_from(MOMENTS.len())?;
    let topology = Topology::new().nodes(nodes).pods_per_node(1);
    let bed = context.mesh(&topology)?;
    matrix::all_reached(&bed.matrix().run())?;
    let mut seen = BTreeSet::new();
    for (number, moment) in (1..).zip(MOMENTS) {
        let node = bed.node(number);
        let key = annotation(&bed, number, "public-key")?;
        ask(&bed, number, Verb::Rotate, 1)?;
        wait_for(&bed, number, moment)?;
        node.kill_agent()?;
        seen.insert(annotation(&bed, number, "rotation-phase")?);
        node.start_agent()?;
        node.wait_ready()?;
        wait_phase(&bed, number, "promoted", PHASE_DEADLINE)
            .with_context(|| format!("killed when {moment:?}"))?;
        let after = generation(&bed, number)?;
        ensure!(after == 2, "generation {after}, killed when {moment:?}");
        let shown = status(node)?.public_key.context("a key")?;
        ensure!(shown == annotation(&bed, number, "public-key")?, "{shown}");
        ensure!(shown != key, "the key stays");
        until(CONVERGENCE, "the mesh to be whole", || {
            matrix::all_reached(&bed.matrix().run())
        })?;
    }
    ensure!(seen.len() > 2, "killed in few phases only: {seen:?}");
    Ok(())
}

fn wait_for(bed: &Testbed, number: u8, moment: Moment) -> Result<()> {
    match moment {
        Moment::Asked => Ok(()),
        Moment::OnDisk(phase) => until(PHASE_DEADLINE, "the phase on the disk", || {
            let now = phase_on_disk(bed, number)?;
            ensure!(now.starts_with(phase), "{now}");
            Ok(())
        }),
        Moment::Told(phase) => wait_phase(bed, number, phase, PHASE_DEADLINE),
    }
}
