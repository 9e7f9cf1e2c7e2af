//! A live pair that changes its mode: closed in between, and plaintext only once that is declared.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::wait_peers;
use podwire_testbed::mode_change::{ModeChange, Way, change_mode};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Testbed, Topology, matrix};

pub(crate) const TESTS: &[Test] = &[(
    "a_live_pair_changes_its_mode_through_closed_and_never_through_plaintext",
    there_and_back,
)];

const ARGUMENTS: [&str; 2] = ["--lanes", "1"];

/// The file system's clock ticks at 100 Hz or faster: a record may be that much younger than its
/// time.
const FILE_CLOCK: Duration = Duration::from_millis(10);

fn there_and_back(context: &Context) -> Result<()> {
    let topology = Topology::new()
        .nodes(2)
        .pods_per_node(1)
        .agent_arguments(&ARGUMENTS);
    let bed = context.mesh(&topology)?;
    wait_peers(&bed)?;
    matrix::all_reached(&bed.matrix().run())?;
    ensure!(bed.capture().take_report()?.leaked_frames() == 0, "before");

    let change = change(&bed, "host-network", &Way::all(1, 2))?;
    let report = bed.capture().take_report()?;
    let (first, _) = report
        .offences_between
        .context("no plaintext though it was declared: is the capture blind?")?;
    ensure!(
        first >= change.declared,
        "plaintext {:?} before it was declared: {:#?}",
        change.declared - first,
        report.offenders
    );

    // Only what node 2 sends: node 1 goes on in plaintext until it has read the record.
    let ways: Vec<Way> = Way::all(2, 1)
        .into_iter()
        .filter(|way| way.from == 2)
        .collect();
    let back = self::change(&bed, "encrypted", &ways)?;
    let report = bed.capture().take_report()?;
    if let Some((_, last)) = report.offences_between {
        ensure!(
            last <= back.declared + FILE_CLOCK,
            "plaintext {:?} after encryption was declared: {:#?}",
            last - back.declared,
            report.offenders
        );
    }
    // Both have followed: not a frame of anybody's from here on.
    matrix::all_reached(&bed.matrix().run())?;
    ensure!(bed.capture().take_report()?.leaked_frames() == 0, "after");
    Ok(())
}

#[expect(clippy::print_stdout, reason = "outages are for people to read")]
fn change(bed: &Testbed, mode: &str, ways: &[Way]) -> Result<ModeChange> {
    let pair = (bed.node(2), bed.node(1));
    let change = change_mode(bed, pair, mode, &ARGUMENTS, ways)?;
    for (way, outage) in &change.outages {
        println!(
            "to {mode}: nothing from node {} to node {} over {} for {} ms",
            way.from,
            way.to,
            way.version,
            outage.as_millis()
        );
    }
    Ok(change)
}
