//! A registry that stands still for one peer or goes away for all, in the middle of a rotation.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{status, wait_status};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Node, Testbed};

use crate::beside::{OUTAGE_SECONDS, announce, is_next, loses_nothing_beside, mesh};
use crate::scene::{PHASE_DEADLINE, annotation, phase_on_disk, settled, wait_phase};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_peer_whose_view_of_the_registry_stands_still_in_a_rotation_loses_no_packet",
        stands_still,
    ),
    (
        "a_registry_that_goes_away_after_the_announcement_costs_no_packet",
        goes_away,
    ),
];

/// A peer of the node that rotates, and the same in the control.
const FROZEN: [u8; 2] = [2, 4];

fn stands_still(context: &Context) -> Result<()> {
    let each = |bed: &Testbed, action: fn(&Node) -> Result<()>| {
        FROZEN.iter().try_for_each(|it| action(bed.node(*it)))
    };
    let bed = mesh(context, 4, |bed| each(bed, Node::use_own_view))?;
    let case = format!("a peer's view of the registry stands still for {OUTAGE_SECONDS} s");
    loses_nothing_beside(&bed, &case, |streams| {
        each(&bed, Node::freeze_view)?;
        let before = announce(&bed)?;
        streams.flow_for(OUTAGE_SECONDS)?;
        let waiting = bed.node(1).status_json()?["rotation"]["waiting"].to_string();
        ensure!(waiting.contains("node-2"), "only {waiting} are waited for");
        wait_phase(&bed, 1, "announced", PHASE_DEADLINE)?;
        let thawed = Instant::now();
        each(&bed, Node::thaw_view)?;
        wait_phase(&bed, 1, "promoted", PHASE_DEADLINE)?;
        let later = thawed.elapsed().as_secs_f64();
        let phase = annotation(&bed, 1, "rotation-phase")?;
        streams.flow()?;
        settled(&bed, &[1])?;
        is_next(&bed, before)?;
        Ok(format!(
            "it waited for {}, and was {phase} {later:.1} s after their view went on",
            waiting.replace('"', "")
        ))
    })
}

fn goes_away(context: &Context) -> Result<()> {
    let bed = mesh(context, 4, |_| Ok(()))?;
    let folder = bed.directory().path();
    let aside = folder.with_extension("aside");
    let case = format!("the registry goes away after the announcement, for {OUTAGE_SECONDS} s");
    loses_nothing_beside(&bed, &case, |streams| {
        let before = announce(&bed)?;
        fs::rename(folder, &aside).context("taking the registry away")?;
        wait_status(bed.node(1), "the registry lost", |status| {
            status.registry.lost.is_some()
        })?;
        streams.flow_for(OUTAGE_SECONDS)?;
        let on_disk = phase_on_disk(&bed, 1)?;
        ensure!(status(bed.node(1))?.registry.lost.is_some(), "it is back");
        let back = Instant::now();
        fs::rename(&aside, folder).context("bringing the registry back")?;
        wait_phase(&bed, 1, "promoted", PHASE_DEADLINE)?;
        let later = back.elapsed().as_secs_f64();
        streams.flow()?;
        settled(&bed, &[1])?;
        is_next(&bed, before)?;
        Ok(format!(
            "meanwhile {on_disk:?} on disk; the record said promoted {later:.1} s after it was back"
        ))
    })
}
