//! The search for the highest rate that a path carries.

/// Above it the generator is what is measured; below it nothing is carried.
const RATE_MIN: f64 = 100.0;
const RATE_MAX: f64 = 2_000_000.0;

/// Where the first round begins.
const RATE_FIRST: f64 = 20_000.0;

/// Factor of the search's first steps; and where an earlier round has been near.
const GROWTH: f64 = 2.0;
const GROWTH_NEAR: f64 = 1.15;
const ACCELERATION: f64 = 1.2;

/// The search ends when what is carried and what is not are so close.
const RESOLUTION: f64 = 0.04;

/// A rate that was too much is tried again so often: two processors that do everything are held up
/// by anything.
const TRIES: u32 = 2;

/// Rates a second: faster until it is too much, slower until it is not, then halved between the
/// two.
#[derive(Debug, Clone)]
pub(crate) struct RateSearch {
    rate: f64,
    growth: f64,
    carried: f64,
    too_much: f64,
    failed: u32,
}

impl RateSearch {
    /// Begins where an earlier round has ended, if there was one.
    pub(crate) fn new(near: Option<f64>) -> Self {
        Self {
            rate: near.unwrap_or(RATE_FIRST).clamp(RATE_MIN, RATE_MAX),
            growth: near.map_or(GROWTH, |_| GROWTH_NEAR),
            carried: 0.0,
            too_much: RATE_MAX,
            failed: 0,
        }
    }

    /// What to try next; none when it is over.
    pub(crate) fn next(&self) -> Option<f64> {
        let is_close = self.too_much - self.carried <= RESOLUTION * self.too_much;
        (!is_close && self.too_much > RATE_MIN).then_some(self.rate)
    }

    /// Takes note of whether that was carried.
    pub(crate) fn tried(&mut self, is_carried: bool) {
        if is_carried {
            self.carried = self.rate;
        } else {
            self.failed += 1;
            if self.failed < TRIES {
                return;
            }
            self.too_much = self.rate;
        }
        self.failed = 0;
        let growth = self.growth;
        // Who has begun far off does not creep.
        self.growth = (growth * ACCELERATION).min(GROWTH);
        self.rate = if self.too_much >= RATE_MAX {
            (self.rate * growth).min(RATE_MAX * (1.0 - RESOLUTION))
        } else if self.carried <= 0.0 {
            self.rate / growth
        } else {
            f64::midpoint(self.carried, self.too_much)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a search finds on a path that carries so much, and after how many tries.
    fn search(near: Option<f64>, capacity: f64) -> (f64, u32) {
        let (mut search, mut found, mut tries) = (RateSearch::new(near), 0.0, 0);
        while let Some(rate) = search.next() {
            tries += 1;
            assert!(tries < 100, "it ends");
            let is_carried = rate <= capacity;
            if is_carried {
                found = rate;
            }
            search.tried(is_carried);
        }
        (found, tries)
    }

    #[test]
    fn a_search_finds_what_a_path_carries_wherever_it_begins() {
        for near in [None, Some(150.0), Some(90_000.0), Some(1_900_000.0)] {
            for capacity in [500.0, 33_000.0, 250_000.0, 1_500_000.0] {
                let (found, _) = search(near, capacity);
                let share = found / capacity;
                assert!(
                    (0.95..=1.0).contains(&share),
                    "{near:?} {capacity}: {found}"
                );
            }
        }
    }

    #[test]
    fn a_search_that_begins_near_is_short() {
        let (_, tries) = search(Some(100_000.0), 104_000.0);
        assert!(tries <= 8, "{tries}");
    }

    #[test]
    fn a_path_that_carries_nothing_or_everything_ends_a_search() {
        assert!(search(None, 0.0).0 <= 0.0);
        assert!(search(None, f64::MAX).0 > 1_900_000.0);
    }

    #[test]
    fn one_hiccup_is_no_limit() {
        let (mut search, mut found, mut hiccup) = (RateSearch::new(None), 0.0, true);
        while let Some(rate) = search.next() {
            let is_carried = rate <= 300_000.0 && !std::mem::take(&mut hiccup);
            if is_carried {
                found = rate;
            }
            search.tried(is_carried);
        }
        assert!(found > 280_000.0, "{found}");
    }
}
