//! `summary.json`: the few figures that promises are made of. Ratios are of Podwire with its
//! default lanes to wireguard-go unless the name says otherwise.

use serde::Serialize;

use crate::implementation::Implementation::{self, Podwire, WireguardGo};
use crate::measure::{Direction, Measure};
use crate::sample::{Absence, Results, Sample};
use crate::statistics::{self, Summary as Rounds};

/// The figures; what was not measured is null.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) privileged: bool,
    pub(crate) socket_buffer_bytes: u64,
    pub(crate) interrupted: bool,
    /// What is not in the results.
    pub(crate) absences: Vec<Absence>,
    pub(crate) ratio_tcp1: Option<f64>,
    pub(crate) ratio_tcp4: Option<f64>,
    pub(crate) ratio_tcp16: Option<f64>,
    /// CPU seconds for each GiB, one stream.
    pub(crate) ratio_cpu: Option<f64>,
    /// The same, four streams.
    pub(crate) ratio_cpu_tcp4: Option<f64>,
    /// CPU seconds for each GiB of one stream, in those of the AEAD floor.
    pub(crate) ratio_cpu_floor: Option<f64>,
    /// The same, four streams.
    pub(crate) ratio_cpu_floor_tcp4: Option<f64>,
    pub(crate) ratio_pps_64: Option<f64>,
    pub(crate) ratio_pps_512: Option<f64>,
    pub(crate) ratio_pps_1200: Option<f64>,
    pub(crate) ratio_pps_64_trains: Option<f64>,
    pub(crate) ratio_pps_512_trains: Option<f64>,
    pub(crate) ratio_rtt_p50: Option<f64>,
    pub(crate) ratio_rtt_loaded_p99: Option<f64>,
    /// Of one TCP stream, to plain routes.
    pub(crate) ratio_plain_tcp1: Option<f64>,
    /// The largest spread of one of these ratios over the rounds.
    pub(crate) spread_max: f64,
}

impl Summary {
    pub(crate) fn of(results: &Results) -> Self {
        let mut spread_max = 0.0_f64;
        let mut median = |ratio: Option<Rounds>| {
            let ratio = ratio?;
            spread_max = spread_max.max(ratio.spread());
            Some(ratio.median)
        };
        let to_go = |measure| ratio(results, Podwire, WireguardGo, measure, value);
        let udp = |bytes, trains| to_go(Measure::udp(bytes, trains));
        let cpu = |streams| ratio(results, Podwire, WireguardGo, forward(streams), cpu_per_gib);
        let floor = |streams| ratio_to_floor(results, Podwire, forward(streams));
        let plain = ratio(results, Podwire, Implementation::Plain, forward(1), value);
        Self {
            privileged: results.settings.privileged,
            socket_buffer_bytes: results.settings.socket_buffer_bytes,
            interrupted: results.interrupted,
            absences: results.absences.clone(),
            ratio_tcp1: median(to_go(forward(1))),
            ratio_tcp4: median(to_go(forward(4))),
            ratio_tcp16: median(to_go(forward(16))),
            ratio_cpu: median(cpu(1)),
            ratio_cpu_tcp4: median(cpu(4)),
            ratio_cpu_floor: median(floor(1)),
            ratio_cpu_floor_tcp4: median(floor(4)),
            ratio_pps_64: median(udp(64, false)),
            ratio_pps_512: median(udp(512, false)),
            ratio_pps_1200: median(udp(1200, false)),
            ratio_pps_64_trains: median(udp(64, true)),
            ratio_pps_512_trains: median(udp(512, true)),
            ratio_rtt_p50: median(to_go(Measure::RttIdle)),
            ratio_rtt_loaded_p99: median(to_go(Measure::RttLoaded)),
            ratio_plain_tcp1: median(plain),
            spread_max,
        }
    }
}

/// So many TCP streams, one way.
pub(crate) const fn forward(streams: u32) -> Measure {
    Measure::Tcp {
        streams,
        direction: Direction::Forward,
    }
}

/// A sample's own figure.
pub(crate) fn value(sample: &Sample) -> Option<f64> {
    Some(sample.value)
}

/// Processor seconds for each GiB; none where no process takes any.
pub(crate) fn cpu_per_gib(sample: &Sample) -> Option<f64> {
    let cost = sample.costs.cpu_seconds_per_gib();
    cost.filter(|cost| *cost > 0.0)
}

/// The samples of one measure of one implementation, by round.
pub(crate) fn rounds(
    results: &Results,
    implementation: Implementation,
    measure: Measure,
    figure: impl Fn(&Sample) -> Option<f64>,
) -> Vec<(u32, f64)> {
    let of_it =
        |sample: &&Sample| sample.implementation == implementation && sample.measure == measure;
    let samples = results.samples.iter().filter(of_it);
    samples
        .filter_map(|sample| Some((sample.round, figure(sample)?)))
        .collect()
}

/// Its median and spread over the rounds.
pub(crate) fn over_rounds(
    results: &Results,
    implementation: Implementation,
    measure: Measure,
    figure: impl Fn(&Sample) -> Option<f64>,
) -> Option<Rounds> {
    let rounds = rounds(results, implementation, measure, figure);
    let values: Vec<f64> = rounds.into_iter().map(|(_, value)| value).collect();
    Rounds::of(&values)
}

/// The median of the ratios of the same rounds.
pub(crate) fn ratio(
    results: &Results,
    of: Implementation,
    to: Implementation,
    measure: Measure,
    figure: impl Fn(&Sample) -> Option<f64>,
) -> Option<Rounds> {
    let of = rounds(results, of, measure, &figure);
    let to = rounds(results, to, measure, &figure);
    statistics::ratio(&of, &to)
}

/// Processor seconds for each GiB, in those of the AEAD floor of the same round.
pub(crate) fn ratio_to_floor(
    results: &Results,
    of: Implementation,
    measure: Measure,
) -> Option<Rounds> {
    let of = rounds(results, of, measure, cpu_per_gib);
    statistics::ratio(&of, &results.aead_floor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_results::results;

    #[test]
    fn a_ratio_is_podwires_figure_by_the_others() {
        let results = results(&[
            (Podwire, forward(1), 4.0, 6.0),
            (WireguardGo, forward(1), 2.0, 8.0),
            (Implementation::Plain, forward(1), 16.0, 0.0),
            (Podwire, Measure::RttIdle, 90.0, 0.0),
            (WireguardGo, Measure::RttIdle, 100.0, 0.0),
        ]);
        let summary = Summary::of(&results);
        assert_eq!(summary.ratio_tcp1, Some(2.0));
        assert_eq!(summary.ratio_cpu, Some(0.75));
        assert_eq!(summary.ratio_plain_tcp1, Some(0.25));
        assert_eq!(summary.ratio_rtt_p50, Some(0.9));
        // The floor of these results is 2 CPU seconds per GiB.
        assert_eq!(summary.ratio_cpu_floor, Some(3.0));
        assert_eq!(summary.ratio_tcp4, None, "it was not measured");
        assert!(summary.spread_max.abs() < 1e-9);
    }
}
