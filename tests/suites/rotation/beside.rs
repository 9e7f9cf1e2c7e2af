//! Something long happens to a rotation, and beside it the same happens without one.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use podwire_testbed::agent_view::wait_whole;
use podwire_testbed::suite::Context;
use podwire_testbed::{Testbed, Topology};

use crate::report::{self, Try};
use crate::scene::{
    PHASE_DEADLINE, Streams, TRIES, Verb, annotation, ask, generation, lost, sent, wait_phase,
};

/// Node 1 rotates, and the other pair is what it is compared with.
pub(crate) const PAIRS: [(u8, u8); 2] = [(1, 2), (3, 4)];

/// Seconds for which something is away.
pub(crate) const OUTAGE_SECONDS: u64 = 120;

/// Nodes of one pod and one lane each, prepared before their agents start, and the mesh whole.
pub(crate) fn mesh(
    context: &Context,
    nodes: u8,
    prepare: impl FnOnce(&Testbed) -> Result<()>,
) -> Result<Arc<Testbed>> {
    let topology = Topology::new()
        .nodes(nodes)
        .pods_per_node(1)
        .agent_arguments(&["--lanes", "1"]);
    let bed = context.testbed(&topology)?;
    prepare(&bed)?;
    bed.start_agents()?;
    wait_whole(&bed)?;
    // At this rate the search would cost the capture frames; every header is still read.
    bed.capture().search_payloads(false)?;
    Ok(bed)
}

/// Asks node 1 for a rotation and waits until its next keys are announced. Returns its generation.
pub(crate) fn announce(bed: &Testbed) -> Result<u64> {
    let before = generation(bed, 1)?;
    ask(bed, 1, Verb::Rotate, before)?;
    wait_phase(bed, 1, "announced", PHASE_DEADLINE)?;
    Ok(before)
}

/// Checks that node 1 has gone on to its next keys.
pub(crate) fn is_next(bed: &Testbed, before: u64) -> Result<()> {
    let after = generation(bed, 1)?;
    ensure!(after == before + 1, "generation {before}, then {after}");
    let next = annotation(bed, 1, "next-public-key")?;
    ensure!(next.is_empty(), "still announced: {next}");
    Ok(())
}

/// Has something happen between datagrams of both pairs, of which those of the first may lose none
/// where those of the second lose none. Returns when that is so.
pub(crate) fn loses_nothing_beside(
    bed: &Testbed,
    case: &str,
    mut happens: impl FnMut(&Streams) -> Result<String>,
) -> Result<()> {
    let mut tries = Vec::new();
    for _ in 0..TRIES {
        let streams = Streams::start(bed, &PAIRS)?;
        let remarks = happens(&streams).context(case.to_owned())?;
        streams.flow()?;
        let counts = streams.stop()?;
        let (rotated, control) = counts.split_at(counts.len() / PAIRS.len());
        let control_lost = lost(control);
        tries.push(Try {
            sent: sent(rotated),
            lost: i64::try_from(lost(rotated))?,
            control_lost: i64::try_from(control_lost)?,
            remarks,
        });
        report::tell(case, &tries)?;
        if control_lost == 0 {
            ensure!(lost(rotated) == 0, "{counts:?}");
            return Ok(());
        }
    }
    bail!("inconclusive: {tries:?}")
}
