//! The results of all seeds, for `tests/results/chaos.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use podwire_testbed::fault_plan::{Fault, FaultPlan};
use podwire_testbed::results;

use crate::run::Outcome;

static ROWS: Mutex<BTreeMap<u64, Row>> = Mutex::new(BTreeMap::new());

/// One seed.
#[derive(Debug)]
pub(crate) struct Row {
    seed: u64,
    faults: String,
    outcome: Option<Outcome>,
}

impl Row {
    pub(crate) fn new(plan: &FaultPlan, outcome: Option<Outcome>) -> Self {
        let faults: Vec<_> = plan
            .faults
            .iter()
            .map(|planned| planned.to_string().trim().to_owned())
            .collect();
        Self {
            seed: plan.seed,
            faults: faults.join("; "),
            outcome,
        }
    }
}

/// How often each kind of fault was made, and how often there was nothing to act on.
static STRIKES: Mutex<BTreeMap<Fault, [usize; 2]>> = Mutex::new(BTreeMap::new());

/// Counts a fault; whether it has hit anything.
pub(crate) fn struck(fault: Fault, is_hit: bool) {
    let mut strikes = STRIKES.lock().unwrap_or_else(PoisonError::into_inner);
    strikes.entry(fault).or_default()[usize::from(!is_hit)] += 1;
}

/// Takes a row in.
pub(crate) fn enter(row: Row) {
    let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
    rows.insert(row.seed, row);
}

/// Writes the table of all rows; nothing when no seed was run.
///
/// # Errors
/// Also when all kinds of faults were to hit something, and one never did.
pub(crate) fn write(must_all_hit: bool) -> Result<()> {
    let rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
    if rows.is_empty() {
        return Ok(());
    }
    let recoveries: Vec<Duration> = rows
        .values()
        .filter_map(|row| Some(row.outcome?.recovery))
        .collect();
    let failed = rows.len() - recoveries.len();
    let mut text = String::from("# Chaos: random faults against five nodes\n\n");
    let _ = writeln!(
        text,
        "{} seeds, {failed} failed. Time from the end of the last fault until every way between all \
         pods is answered: median {}, worst {}. No frame between pods was in plaintext in any of \
         them. How to read a seed, and how to replay it: `tests/suites/chaos/main.rs`.\n",
        rows.len(),
        seconds(median(recoveries.clone())),
        seconds(recoveries.iter().max().copied()),
    );
    text.push_str(
        "| seed | recovered after | asked | answered | lost between bystanders | faults |\n",
    );
    text.push_str("|---|---|---|---|---|---|\n");
    for row in rows.values() {
        let _ = match &row.outcome {
            Some(outcome) => writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                row.seed,
                seconds(Some(outcome.recovery)),
                outcome.asked,
                outcome.answered,
                outcome
                    .bystanders_lost
                    .map_or_else(|| "-".to_owned(), |lost| lost.to_string()),
                row.faults
            ),
            None => writeln!(text, "| {} | FAILED | | | | {} |", row.seed, row.faults),
        };
    }
    let strikes = STRIKES.lock().unwrap_or_else(PoisonError::into_inner);
    text.push_str("\n| fault | hit | void, as nothing was left to act on |\n|---|---|---|\n");
    for fault in Fault::ALL {
        let [hit, void] = strikes.get(&fault).copied().unwrap_or_default();
        let _ = writeln!(text, "| {fault} | {hit} | {void} |");
    }
    results::write("chaos", &text)?;
    let missed = Fault::ALL.into_iter().filter(|fault| {
        let strikes = strikes.get(fault);
        strikes.is_none_or(|[hit, _]| *hit == 0)
    });
    let missed: Vec<_> = missed.map(|fault| fault.to_string()).collect();
    ensure!(
        !must_all_hit || missed.is_empty(),
        "in no seed was anything hit by: {}",
        missed.join(", ")
    );
    Ok(())
}

fn median(mut durations: Vec<Duration>) -> Option<Duration> {
    durations.sort_unstable();
    durations.get(durations.len() / 2).copied()
}

fn seconds(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "-".to_owned(), |d| format!("{:.1} s", d.as_secs_f64()))
}
