//! An agent that is killed in any phase of a rotation goes on with it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, status};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Topology, matrix, until};

use crate::scene::{
    PHASE_DEADLINE, Verb, annotation, ask, generation, rotate, settled, wait_phase,
};

pub(crate) const TESTS: &[Test] = &[(
    "an_agent_killed_at_any_moment_of_a_rotation_ends_it_after_its_next_start",
    killed,
)];

/// Moments after the request at which the agent is killed: before, within and behind each of its
/// writes, the first of which comes within half a second.
const MOMENTS: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(150),
    Duration::from_millis(400),
    Duration::from_millis(700),
    Duration::from_millis(1_100),
    Duration::from_millis(1_600),
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
        // What of a rotation before is left is refused at once, so that another can begin.
        ask(&bed, 1, Verb::Rotate, before)?;
        std::thread::sleep(moment);
        node.kill_agent()?;
        seen.insert(annotation(&bed, 1, "rotation-phase")?);
        node.start_agent()?;
        node.wait_ready()?;
        wait_phase(&bed, 1, "promoted", PHASE_DEADLINE)
            .with_context(|| format!("killed after {moment:?}"))?;
        ensure!(
            generation(&bed, 1)? == before + 1,
            "killed after {moment:?}"
        );
        ensure!(annotation(&bed, 1, "public-key")? != key, "the key stays");
        until(CONVERGENCE, "the mesh to be whole", || {
            matrix::all_reached(&bed.matrix().run())
        })?;
        // The next one begins with settled keys.
        ask(&bed, 1, Verb::Revoke, before + 1)?;
        until(PHASE_DEADLINE, "the keys to be revoked", || {
            ensure!(generation(&bed, 1)? == before + 2, "not yet");
            Ok(())
        })?;
        until(CONVERGENCE, "the mesh to be whole", || {
            matrix::all_reached(&bed.matrix().run())
        })?;
    }
    ensure!(seen.len() > 1, "killed in one phase only: {seen:?}");
    rotate(&bed, &[1, 2])?;
    settled(&bed, &[1, 2])?;
    let shown = status(node)?.public_key.context("a key")?;
    ensure!(shown == annotation(&bed, 1, "public-key")?, "{shown}");
    matrix::all_reached(&bed.matrix().run())
}
