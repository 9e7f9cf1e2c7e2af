//! What changed between two results beyond noise.

use std::fmt::{self, Write as _};

use anyhow::{Result, ensure};

use crate::args::CompareArgs;
use crate::implementation::Implementation;
use crate::measure::Measure;
use crate::output;
use crate::sample::{Results, Sample};
use crate::statistics::Summary;
use crate::summary::{cpu_per_gib, over_rounds, value};

/// A change that is smaller is none, however well the rounds agree.
const CHANGE_MIN: f64 = 0.02;

/// Fewer rounds tell nothing about noise.
const ROUNDS_MIN: usize = 3;

/// What of a measure is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Figure {
    Value,
    Cost,
}

impl Figure {
    fn of(self, sample: &Sample) -> Option<f64> {
        match self {
            Self::Value => value(sample),
            Self::Cost => cpu_per_gib(sample),
        }
    }
}

/// A figure that both results have. Where their machines differ, both are in those of wireguard-go
/// of their own run: two machines of one kind differ by a factor of two.
#[derive(Debug, Clone, PartialEq)]
struct Difference {
    implementation: Implementation,
    measure: Measure,
    figure: Figure,
    before: Summary,
    after: Summary,
}

impl Difference {
    fn ratio(&self) -> f64 {
        self.after.median / self.before.median
    }

    /// The rounds of the two do not overlap.
    fn is_beyond_noise(&self) -> bool {
        let (before, after) = (&self.before, &self.after);
        let is_apart = after.least > before.most || after.most < before.least;
        let is_known = before.rounds.min(after.rounds) >= ROUNDS_MIN;
        is_known && is_apart && (self.ratio() - 1.0).abs() > CHANGE_MIN
    }

    fn is_better(&self) -> bool {
        let more_is_better = self.figure == Figure::Value && self.measure.more_is_better();
        (self.ratio() > 1.0) == more_is_better
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cost = match self.figure {
            Figure::Value => "",
            Figure::Cost => ", CPU seconds per GiB",
        };
        write!(
            formatter,
            "{}, {}{cost}: {:.3} times ({:.3}, {:.3} to {:.3}; then {:.3}, {:.3} to {:.3})",
            self.implementation,
            self.measure,
            self.ratio(),
            self.before.median,
            self.before.least,
            self.before.most,
            self.after.median,
            self.after.least,
            self.after.most,
        )
    }
}

/// Compares two folders of results and returns what to print.
///
/// # Errors
/// When one of them has no results, or they have no figure in common.
pub(crate) fn compare(args: &CompareArgs) -> Result<String> {
    let (before, after) = (output::read(&args.before)?, output::read(&args.after)?);
    let found = differences(&before, &after);
    ensure!(!found.is_empty(), "the two have no figure in common");
    Ok(tell(&before, &after, &found))
}

fn tell(before: &Results, after: &Results, found: &[Difference]) -> String {
    let mut text = circumstances(before, after);
    for (title, better) in [("Better", true), ("Worse", false)] {
        let _ = writeln!(text, "{title} beyond noise:");
        let of_it = |one: &&Difference| one.is_beyond_noise() && one.is_better() == better;
        let lines: Vec<String> = found
            .iter()
            .filter(of_it)
            .map(ToString::to_string)
            .collect();
        if lines.is_empty() {
            text.push_str(
                "  nothing
",
            );
        }
        for line in lines {
            let _ = writeln!(text, "  {line}");
        }
    }
    let noise = found.iter().filter(|one| !one.is_beyond_noise()).count();
    let _ = writeln!(
        text,
        "{noise} of {} figures did not change beyond noise.",
        found.len()
    );
    for (one, other, which) in [(before, after, "first"), (after, before, "second")] {
        for (implementation, measure) in keys(one) {
            if over_rounds(other, implementation, measure, value).is_none() {
                let _ = writeln!(text, "Only in the {which}: {implementation}, {measure}.");
            }
        }
    }
    text
}

/// In what the two runs differ beside their code.
fn circumstances(before: &Results, after: &Results) -> String {
    let mut text = String::new();
    if before.machine != after.machine {
        text.push_str(
            "The machines differ: figures are in those of wireguard-go of their own run.\n",
        );
    }
    let (old, new) = (&before.settings, &after.settings);
    let settings = [
        (
            "TCP congestion control",
            old.congestion.clone(),
            new.congestion.clone(),
        ),
        (
            "seconds of a run",
            old.seconds.to_string(),
            new.seconds.to_string(),
        ),
        (
            "root",
            old.privileged.to_string(),
            new.privileged.to_string(),
        ),
        (
            "socket buffer",
            old.socket_buffer_bytes.to_string(),
            new.socket_buffer_bytes.to_string(),
        ),
    ];
    for (name, old, new) in settings.iter().filter(|(_, old, new)| old != new) {
        let _ = writeln!(text, "The runs differ: {name}: {old}, then {new}.");
    }
    text
}

fn keys(results: &Results) -> Vec<(Implementation, Measure)> {
    let samples = results.samples.iter();
    let mut keys: Vec<_> = samples
        .map(|sample| (sample.implementation, sample.measure))
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn differences(before: &Results, after: &Results) -> Vec<Difference> {
    let is_same_machine = before.machine == after.machine;
    let scaled = |results: &Results, implementation, measure, figure: Figure| {
        let of = |implementation| over_rounds(results, implementation, measure, |s| figure.of(s));
        let own: Summary = of(implementation)?;
        if is_same_machine {
            return Some(own);
        }
        let reference = of(Implementation::WireguardGo).filter(|rounds| rounds.least > 0.0)?;
        // The reference's own spread is noise, too.
        Some(Summary {
            median: own.median / reference.median,
            least: own.least / reference.most,
            most: own.most / reference.least,
            rounds: own.rounds.min(reference.rounds),
        })
    };
    let mut found = Vec::new();
    for (implementation, measure) in keys(after) {
        for figure in [Figure::Value, Figure::Cost] {
            let old = scaled(before, implementation, measure, figure);
            let new = scaled(after, implementation, measure, figure);
            found.extend(old.zip(new).map(|(before, after)| Difference {
                implementation,
                measure,
                figure,
                before,
                after,
            }));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::forward;
    use crate::test_results::results;

    fn difference(before: &[f64], after: &[f64], measure: Measure) -> Difference {
        Difference {
            implementation: Implementation::Podwire,
            measure,
            figure: Figure::Value,
            before: Summary::of(before).expect("values"),
            after: Summary::of(after).expect("values"),
        }
    }

    #[test]
    fn rounds_that_overlap_are_noise_and_so_are_few_of_them() {
        let overlap = difference(&[1.0, 1.0, 1.3], &[1.16, 1.18, 1.2], Measure::Connect);
        assert!(!overlap.is_beyond_noise());
        let few = difference(&[1.0], &[2.0], Measure::Connect);
        assert!(!few.is_beyond_noise());
        let change = difference(&[1.0, 1.01, 1.02], &[1.2, 1.21, 1.22], Measure::Connect);
        assert!(change.is_beyond_noise() && change.is_better());
    }

    #[test]
    fn a_longer_round_trip_and_a_higher_cost_are_worse() {
        let rounds = (&[100.0, 101.0, 102.0], &[150.0, 151.0, 152.0]);
        let longer = difference(rounds.0, rounds.1, Measure::RttIdle);
        assert!(longer.is_beyond_noise() && !longer.is_better());
        let dearer = Difference {
            figure: Figure::Cost,
            ..difference(rounds.0, rounds.1, forward(1))
        };
        assert!(dearer.is_beyond_noise() && !dearer.is_better());
    }

    #[test]
    fn another_machine_is_compared_in_wireguard_gos_figures() {
        use Implementation::{Podwire, WireguardGo};
        let before = results(&[
            (Podwire, forward(1), 2.0, 4.0),
            (WireguardGo, forward(1), 1.0, 8.0),
        ]);
        // Twice as fast, with everything.
        let mut after = results(&[
            (Podwire, forward(1), 4.0, 2.0),
            (WireguardGo, forward(1), 2.0, 4.0),
        ]);
        after.machine.cpu_model = "another".to_owned();
        let found = differences(&before, &after);
        assert_eq!(found.len(), 4);
        assert!(
            found.iter().all(|one| (one.ratio() - 1.0).abs() < 1e-9),
            "{found:?}"
        );
        let alone = results(&[(Podwire, forward(1), 4.0, 2.0)]);
        assert!(tell(&before, &alone, &differences(&before, &alone)).contains("Only in the first"));
    }
}
