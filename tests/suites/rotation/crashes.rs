//! An agent that is killed in any phase of a rotation goes on with it.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, status};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Testbed, Topology, matrix, until};

use crate::scene::{PHASE_DEADLINE, Verb, annotation, ask, generation, wait_phase};

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
    let topology = Topology::new().nodes(2).pods_per_node(1);
    let bed = context.mesh(&topology)?;
    matrix::all_reached(&bed.matrix().run())?;
    let node = bed.node(1);
    let mut seen = BTreeSet::new();
    for moment in MOMENTS {
        let before = generation(&bed, 1)?;
        let key = annotation(&bed, 1, "public-key")?;
        ask(&bed, 1, Verb::Rotate, before)?;
        wait_for(&bed, moment)?;
        node.kill_agent()?;
        seen.insert(annotation(&bed, 1, "rotation-phase")?);
        node.start_agent()?;
        node.wait_ready()?;
        wait_phase(&bed, 1, "promoted", PHASE_DEADLINE)
            .with_context(|| format!("killed when {moment:?}"))?;
        ensure!(generation(&bed, 1)? == before + 1, "killed when {moment:?}");
        let shown = status(node)?.public_key.context("a key")?;
        ensure!(shown == annotation(&bed, 1, "public-key")?, "{shown}");
        ensure!(shown != key, "the key stays");
        whole(&bed)?;
        // What is left of this rotation goes at once, so that the next one can begin.
        ask(&bed, 1, Verb::Revoke, before + 1)?;
        until(PHASE_DEADLINE, "the keys to be revoked", || {
            ensure!(generation(&bed, 1)? == before + 2, "not yet");
            Ok(())
        })?;
        whole(&bed)?;
    }
    ensure!(seen.len() > 2, "killed in few phases only: {seen:?}");
    Ok(())
}

fn wait_for(bed: &Testbed, moment: Moment) -> Result<()> {
    match moment {
        Moment::Asked => Ok(()),
        Moment::OnDisk(phase) => {
            let path = bed.node(1).state_dir().join("keys");
            until(PHASE_DEADLINE, "the phase on the disk", || {
                let text = fs::read_to_string(&path)?;
                let line = text.lines().find_map(|line| line.strip_prefix("phase="));
                ensure!(line.is_some_and(|it| it.starts_with(phase)), "{line:?}");
                Ok(())
            })
        }
        Moment::Told(phase) => wait_phase(bed, 1, phase, PHASE_DEADLINE),
    }
}

fn whole(bed: &Testbed) -> Result<()> {
    until(CONVERGENCE, "the mesh to be whole", || {
        matrix::all_reached(&bed.matrix().run())
    })
}
