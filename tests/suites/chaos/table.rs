//! The results of all seeds, for `tests/results/chaos.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use podwire_testbed::fault_plan::FaultPlan;
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

/// Takes a row in.
pub(crate) fn enter(row: Row) {
    let mut rows = ROWS.lock().unwrap_or_else(PoisonError::into_inner);
    rows.insert(row.seed, row);
}

/// Writes the table of all rows; nothing when no seed was run.
pub(crate) fn write() -> Result<()> {
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
    results::write("chaos", &text).map(drop)
}

fn median(mut durations: Vec<Duration>) -> Option<Duration> {
    durations.sort_unstable();
    durations.get(durations.len() / 2).copied()
}

fn seconds(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "-".to_owned(), |d| format!("{:.1} s", d.as_secs_f64()))
}
