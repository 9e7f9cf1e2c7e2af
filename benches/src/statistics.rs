//! Medians, spreads and ratios: what the rounds say, and how sure.

use serde::Serialize;

/// A spread above which a figure is called unsure: half a difference between two implementations
/// may be the machine's then.
pub(crate) const SPREAD_MAX: f64 = 0.15;

/// What several rounds say together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    pub(crate) rounds: usize,
}

impl Summary {
    /// None of no value.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self {
            median,
            least,
            most,
            rounds: sorted.len(),
        })
    }

    /// The distance from the least to the most, in medians.
    pub(crate) fn spread(&self) -> f64 {
        if self.median > 0.0 {
            (self.most - self.least) / self.median
        } else {
            0.0
        }
    }

    /// Whether the rounds agree.
    pub(crate) fn is_sure(&self) -> bool {
        self.rounds > 1 && self.spread() <= SPREAD_MAX
    }
}

/// The ratio of two implementations: of the pairs of one round each, since a machine that is slower
/// for a while is so for both.
pub(crate) fn ratio(of: &[(u32, f64)], to: &[(u32, f64)]) -> Option<Summary> {
    let ratios: Vec<f64> = of
        .iter()
        .filter_map(|(round, value)| {
            let (_, other) = to.iter().find(|(other, _)| other == round)?;
            (*other > 0.0).then(|| value / other)
        })
        .collect();
    Summary::of(&ratios)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_in_the_middle() {
        let median = |values: &[f64]| Summary::of(values).map(|summary| summary.median);
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn a_spread_over_15_percent_is_unsure_and_so_is_a_single_round() {
        let sure = |values: &[f64]| Summary::of(values).is_some_and(|summary| summary.is_sure());
        assert!(sure(&[1.0, 1.1, 1.14]));
        assert!(!sure(&[1.0, 1.1, 1.17]));
        assert!(!sure(&[1.0]));
    }

    #[test]
    fn a_ratio_pairs_the_rounds_and_leaves_out_what_has_no_pair() {
        let of = [(1, 2.0), (2, 6.0), (3, 8.0)];
        let to = [(1, 1.0), (3, 2.0), (4, 0.0)];
        let ratio = ratio(&of, &to).expect("two pairs");
        assert_eq!((ratio.least, ratio.most, ratio.rounds), (2.0, 4.0, 2));
    }
}
