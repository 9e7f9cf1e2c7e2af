//! The frame: a promise, how it is measured, and the table of all.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::results;
use podwire_testbed::suite::{self, Case, Context, Test};

/// One at a time: two would measure each other.
const AT_A_TIME: usize = 1;

/// One promise. Another one is one more of these.
#[derive(Clone, Copy)]
pub(crate) struct Measure {
    /// The name of its test: a sentence.
    pub(crate) name: &'static str,
    /// What is promised, for the table.
    pub(crate) promise: &'static str,
    /// The number.
    pub(crate) bound: AtMost,
    /// What the numbers count.
    pub(crate) unit: &'static str,
    /// Measures a few times.
    pub(crate) samples: fn(&Context) -> Result<Vec<f64>>,
}

/// What no sample may exceed.
#[derive(Clone, Copy)]
pub(crate) struct AtMost(pub(crate) f64);

impl AtMost {
    fn is_held(self, sample: f64) -> bool {
        sample <= self.0
    }
}

impl fmt::Display for AtMost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "at most {}", self.0)
    }
}

fn worst(samples: &[f64]) -> Option<f64> {
    samples.iter().copied().reduce(f64::max)
}

/// A duration as a sample of unit `s`.
pub(crate) fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

/// What was measured, by the place in the list of all.
static TAKEN: Mutex<BTreeMap<usize, Vec<f64>>> = Mutex::new(BTreeMap::new());

/// Takes all measures and writes the table, if none was left out. `suites` write tables of their
/// own.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is the result"
)]
pub(crate) fn run(measures: &[Measure], suites: &'static [Test]) -> ExitCode {
    let cases = measures.iter().copied().enumerate().map(case);
    let others = suites.iter().map(|(name, test)| Case {
        name: (*name).to_owned(),
        test: Box::new(test),
    });
    let outcome = suite::run_cases(cases.chain(others).collect(), AT_A_TIME);
    let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    if taken.is_empty() {
        return outcome;
    }
    let text = table(measures, &taken);
    println!("{text}");
    if taken.len() < measures.len() {
        return outcome;
    }
    match results::write("performance", &text) {
        Ok(_) => outcome,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn case((place, measure): (usize, Measure)) -> Case {
    Case {
        name: measure.name.to_owned(),
        test: Box::new(move |context| {
            let samples = (measure.samples)(context)?;
            let worst = worst(&samples).context("no sample")?;
            let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
            taken.insert(place, samples.clone());
            ensure!(
                measure.bound.is_held(worst),
                "{}: promised {} {}, measured {samples:.3?}",
                measure.promise,
                measure.bound,
                measure.unit
            );
            Ok(())
        }),
    }
}

fn table(measures: &[Measure], taken: &BTreeMap<usize, Vec<f64>>) -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let mut text = format!(
        "# Performance: what is promised, and what was measured\n\n\
         Written by `make check-performance`, which fails when a bound is not held. {cores} cores.\n\n\
         | promise | bound | median | worst | samples | held |\n|---|---|---|---|---|---|\n"
    );
    for (place, measure) in measures.iter().enumerate() {
        let Some(samples) = taken.get(&place) else {
            continue;
        };
        let (unit, bound) = (measure.unit, measure.bound);
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN);
        let worst = worst(samples).unwrap_or(f64::NAN);
        let held = if bound.is_held(worst) { "yes" } else { "NO" };
        let _ = writeln!(
            text,
            "| {} | {bound} {unit} | {median:.3} {unit} | {worst:.3} {unit} | {} | {held} |",
            measure.promise,
            samples.len()
        );
    }
    text
}
