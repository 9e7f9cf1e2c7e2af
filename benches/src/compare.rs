//! What changed between two results beyond noise.

use std::fmt::Write as _;

use anyhow::{Result, ensure};

use crate::args::CompareArgs;
use crate::implementation::Implementation;
use crate::measure::Measure;
use crate::output;
use crate::sample::{Results, Sample};
use crate::statistics::Summary;
use crate::summary::over_rounds;

/// A figure that differs, and whether that is more than noise.
#[derive(Debug, Clone, PartialEq)]
struct Difference {
    implementation: Implementation,
    measure: Measure,
    before: Summary,
    after: Summary,
    /// After by before, each relative to wireguard-go of its own run where both have it: two
    /// machines of one kind differ by a factor of two.
    ratio: f64,
}

impl Difference {
    /// The rounds do not overlap, and the medians differ by more than half a spread.
    fn is_beyond_noise(&self) -> bool {
        let noise = self.before.spread().max(self.after.spread()) / 2.0;
        (self.ratio - 1.0).abs() > noise.max(0.02)
    }

    fn is_better(&self) -> bool {
        (self.ratio > 1.0) == self.measure.more_is_better()
    }
}

/// Compares two folders of results and returns what to print.
///
/// # Errors
/// When one of them has no results.
pub(crate) fn compare(args: &CompareArgs) -> Result<String> {
    let (before, after) = (output::read(&args.before)?, output::read(&args.after)?);
    let found = differences(&before, &after);
    ensure!(!found.is_empty(), "the two have no figure in common");
    Ok(tell(&before, &after, &found))
}

fn tell(before: &Results, after: &Results, found: &[Difference]) -> String {
    let mut text = String::new();
    if before.machine != after.machine {
        text.push_str(
            "The machines differ: figures are compared in those of wireguard-go of their own run.\n\n",
        );
    }
    for (title, better) in [("Better", true), ("Worse", false)] {
        let of_it = found
            .iter()
            .filter(|one| one.is_beyond_noise() && one.is_better() == better);
        let _ = writeln!(text, "{title} beyond noise:");
        let mut none = true;
        for one in of_it {
            none = false;
            let _ = writeln!(
                text,
                "  {}, {}: {:.3} times ({:.3} to {:.3} {})",
                one.implementation,
                one.measure,
                one.ratio,
                one.before.median,
                one.after.median,
                one.measure.unit()
            );
        }
        if none {
            text.push_str("  nothing\n");
        }
    }
    let noise = found.iter().filter(|one| !one.is_beyond_noise()).count();
    let _ = writeln!(
        text,
        "{noise} of {} figures did not change beyond noise.",
        found.len()
    );
    text
}

fn differences(before: &Results, after: &Results) -> Vec<Difference> {
    let mut keys: Vec<_> = after
        .samples
        .iter()
        .map(|sample| (sample.implementation, sample.measure))
        .collect();
    keys.sort_unstable();
    keys.dedup();
    let value = |sample: &Sample| Some(sample.value);
    let difference = |(implementation, measure): (Implementation, Measure)| {
        let old = over_rounds(before, implementation, measure, value)?;
        let new = over_rounds(after, implementation, measure, value)?;
        let reference = |results| {
            let rounds = over_rounds(results, Implementation::WireguardGo, measure, value)?;
            Some(rounds.median)
        };
        let scale = match (reference(before), reference(after)) {
            _ if before.machine == after.machine => 1.0,
            (Some(old), Some(new)) if new > 0.0 => old / new,
            _ => 1.0,
        };
        Some(Difference {
            implementation,
            measure,
            before: old,
            after: new,
            ratio: new.median / old.median * scale,
        })
    };
    keys.into_iter().filter_map(difference).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(before: &[f64], after: &[f64], measure: Measure) -> Difference {
        let (before, after) = (
            Summary::of(before).expect("values"),
            Summary::of(after).expect("values"),
        );
        Difference {
            implementation: Implementation::Podwire,
            measure,
            before,
            after,
            ratio: after.median / before.median,
        }
    }

    #[test]
    fn what_lies_within_the_rounds_spread_is_noise() {
        let noise = difference(&[1.0, 1.1, 1.2], &[1.05, 1.12, 1.2], Measure::Connect);
        assert!(!noise.is_beyond_noise());
        let change = difference(&[1.0, 1.01, 1.02], &[1.2, 1.21, 1.22], Measure::Connect);
        assert!(change.is_beyond_noise() && change.is_better());
    }

    #[test]
    fn a_longer_round_trip_is_worse() {
        let longer = difference(&[100.0, 101.0], &[150.0, 151.0], Measure::RttIdle);
        assert!(longer.is_beyond_noise() && !longer.is_better());
    }
}
