//! What SPECIFICATION.md promises of speed and cost, checked against one run.

use anyhow::{Result, ensure};

use crate::args::PromisesArgs;
use crate::output;
use crate::summary::Summary;

/// One figure of `summary.json`, and what it is at least or at most.
#[derive(Debug, Clone, Copy)]
struct Promise {
    /// The figure's name in `summary.json` and in SPECIFICATION.md.
    name: &'static str,
    figure: fn(&Summary) -> Option<f64>,
    bound: Bound,
}

#[derive(Debug, Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// All of them; a row of SPECIFICATION.md each.
const PROMISES: &[Promise] = &[
    Promise {
        name: "ratio_tcp1",
        figure: |summary| summary.ratio_tcp1,
        bound: Bound::AtLeast(0.1),
    },
    Promise {
        name: "ratio_cpu",
        figure: |summary| summary.ratio_cpu,
        bound: Bound::AtMost(10.0),
    },
];

impl Promise {
    /// What is to be told when this run does not keep it: what was not measured is not kept.
    fn broken(&self, summary: &Summary) -> Option<String> {
        let name = self.name;
        let Some(found) = (self.figure)(summary) else {
            return Some(format!("{name}: it was not measured in this run"));
        };
        match self.bound {
            Bound::AtLeast(least) if found < least => Some(format!(
                "{name}: {found:.3} is less than the promised {least}"
            )),
            Bound::AtMost(most) if found > most => Some(format!(
                "{name}: {found:.3} is more than the promised {most}"
            )),
            Bound::AtLeast(_) | Bound::AtMost(_) => None,
        }
    }
}

/// Checks the folder of a run, and returns what to print.
///
/// # Errors
/// With one line for each promise that it does not keep.
pub(crate) fn check(args: &PromisesArgs) -> Result<String> {
    let summary = Summary::of(&output::read(&args.results)?);
    let broken = broken(PROMISES, &summary);
    ensure!(
        broken.is_empty(),
        "promises are not kept:\n  {}",
        broken.join("\n  ")
    );
    Ok(format!("all {} promises are kept\n", PROMISES.len()))
}

fn broken(promises: &[Promise], summary: &Summary) -> Vec<String> {
    let broken = promises.iter().map(|promise| promise.broken(summary));
    broken.flatten().collect()
}
