//! What SPECIFICATION.md promises of speed and cost, checked against one run.

use anyhow::{Result, ensure};

use crate::args::PromisesArgs;
use crate::output;
use crate::summary::Summary;

/// Takes a figure out of a summary.
type Figure = fn(&Summary) -> Option<f64>;

/// One figure of `summary.json`, and what it is at least or at most.
#[derive(Debug, Clone, Copy)]
struct Promise {
    /// The figure's name in `summary.json` and in SPECIFICATION.md.
    name: &'static str,
    figure: Figure,
    bound: Bound,
    /// The same where the processor has AVX-512, when it is more.
    with_avx512: Option<Bound>,
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
        bound: Bound::AtLeast(1.5),
        with_avx512: Some(Bound::AtLeast(1.8)),
    },
    Promise {
        name: "ratio_tcp4",
        figure: |summary| summary.ratio_tcp4,
        bound: Bound::AtLeast(1.9),
        with_avx512: Some(Bound::AtLeast(2.3)),
    },
    Promise {
        name: "ratio_cpu",
        figure: |summary| summary.ratio_cpu,
        bound: Bound::AtMost(0.6),
        with_avx512: Some(Bound::AtMost(0.46)),
    },
    Promise {
        name: "ratio_cpu_floor",
        figure: |summary| summary.ratio_cpu_floor,
        bound: Bound::AtMost(2.6),
        with_avx512: Some(Bound::AtMost(2.2)),
    },
    Promise {
        name: "ratio_pps_64",
        figure: |summary| summary.ratio_pps_64,
        bound: Bound::AtLeast(2.8),
        with_avx512: None,
    },
    Promise {
        name: "ratio_rtt_p50",
        figure: |summary| summary.ratio_rtt_p50,
        bound: Bound::AtMost(1.0),
        with_avx512: None,
    },
    Promise {
        name: "ratio_rtt_loaded_p99",
        figure: |summary| summary.ratio_rtt_loaded_p99,
        bound: Bound::AtMost(0.5),
        with_avx512: None,
    },
];

impl Promise {
    /// What is to be told when this run does not keep it: what was not measured is not kept.
    fn broken(&self, summary: &Summary, has_avx512: bool) -> Option<String> {
        let name = self.name;
        let Some(found) = (self.figure)(summary) else {
            return Some(format!("{name}: it was not measured in this run"));
        };
        let with_avx512 = self.with_avx512.filter(|_| has_avx512);
        match with_avx512.unwrap_or(self.bound) {
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
    let results = output::read(&args.results)?;
    let summary = Summary::of(&results);
    let has_avx512 = results.machine.has_avx512();
    ensure!(
        !summary.interrupted,
        "the run was interrupted: it proves nothing"
    );
    let broken = broken(PROMISES, &summary, has_avx512);
    ensure!(
        broken.is_empty(),
        "promises are not kept:\n  {}",
        broken.join("\n  ")
    );
    Ok(format!("all {} promises are kept\n", PROMISES.len()))
}

fn broken(promises: &[Promise], summary: &Summary, has_avx512: bool) -> Vec<String> {
    let broken = promises
        .iter()
        .map(|promise| promise.broken(summary, has_avx512));
    broken.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::implementation::Implementation::{Podwire, WireguardGo};
    use crate::summary::forward;
    use crate::test_results::results;

    #[test]
    fn a_promise_is_broken_by_too_little_by_too_much_and_by_no_figure() {
        let promise = |figure, bound| Promise {
            name: "a_figure",
            figure,
            bound,
            with_avx512: None,
        };
        let rows = [
            (Podwire, forward(1), 4.0, 6.0),
            (WireguardGo, forward(1), 2.0, 8.0),
        ];
        let summary = Summary::of(&results(&rows));
        let speed: Figure = |summary| summary.ratio_tcp1;
        let cost: Figure = |summary| summary.ratio_cpu;
        let kept = [
            promise(speed, Bound::AtLeast(2.0)),
            promise(cost, Bound::AtMost(0.75)),
        ];
        assert_eq!(broken(&kept, &summary, false), Vec::<String>::new());
        let others = [
            promise(speed, Bound::AtLeast(2.1)),
            promise(cost, Bound::AtMost(0.7)),
            promise(|summary| summary.ratio_tcp4, Bound::AtLeast(0.0)),
        ];
        let told = broken(&others, &summary, true);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[2].contains("not measured"), "{told:?}");
        let more = [Promise {
            with_avx512: Some(Bound::AtLeast(2.1)),
            ..promise(speed, Bound::AtLeast(2.0))
        }];
        assert_eq!(broken(&more, &summary, false), Vec::<String>::new());
        assert_eq!(broken(&more, &summary, true).len(), 1);
    }
}
