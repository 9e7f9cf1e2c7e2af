//! `summary.json`: the few figures that promises are made of. Ratios are of Podwire with its
//! default lanes to wireguard-go unless the name says otherwise.

use serde::Serialize;

use crate::implementation::Implementation::{self, Podwire, WireguardGo};
use crate::measure::{Direction, Measure};
use crate::sample::{Results, Sample};
use crate::statistics::{self, Summary as Rounds};

/// The figures; what was not measured is null.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) privileged: bool,
    pub(crate) socket_buffer_bytes: u64,
    pub(crate) interrupted: bool,
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
    pub(crate) ratio_rtt_p50: Option<f64>,
    pub(crate) ratio_rtt_loaded_p99: Option<f64>,
    /// Of one TCP stream, to plain routes.
    pub(crate) ratio_plain_tcp1: Option<f64>,
    /// The largest spread among the figures that these are made of.
    pub(crate) spread_max: f64,
}

impl Summary {
    pub(crate) fn of(results: &Results) -> Self {
        let value =
            |measure| median_ratio(results, Podwire, WireguardGo, measure, |s| Some(s.value));
        let forward = |streams| Measure::Tcp {
            streams,
            direction: Direction::Forward,
        };
        let cpu = |streams| {
            let cost = |sample: &Sample| sample.costs.cpu_seconds_per_gib();
            median_ratio(results, Podwire, WireguardGo, forward(streams), cost)
        };
        Self {
            privileged: results.settings.privileged,
            socket_buffer_bytes: results.settings.socket_buffer_bytes,
            interrupted: results.interrupted,
            ratio_tcp1: value(forward(1)),
            ratio_tcp4: value(forward(4)),
            ratio_tcp16: value(forward(16)),
            ratio_cpu: cpu(1),
            ratio_cpu_tcp4: cpu(4),
            ratio_cpu_floor: cpu_to_floor(results, forward(1)),
            ratio_cpu_floor_tcp4: cpu_to_floor(results, forward(4)),
            ratio_pps_64: value(Measure::Udp { bytes: 64 }),
            ratio_pps_512: value(Measure::Udp { bytes: 512 }),
            ratio_pps_1200: value(Measure::Udp { bytes: 1200 }),
            ratio_rtt_p50: value(Measure::RttIdle),
            ratio_rtt_loaded_p99: value(Measure::RttLoaded),
            ratio_plain_tcp1: median_ratio(
                results,
                Podwire,
                Implementation::Plain,
                forward(1),
                |sample| Some(sample.value),
            ),
            spread_max: spread_max(results),
        }
    }
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

fn median_ratio(
    results: &Results,
    of: Implementation,
    to: Implementation,
    measure: Measure,
    figure: impl Fn(&Sample) -> Option<f64>,
) -> Option<f64> {
    ratio(results, of, to, measure, figure).map(|ratio| ratio.median)
}

fn cpu_to_floor(results: &Results, measure: Measure) -> Option<f64> {
    let cost = |sample: &Sample| sample.costs.cpu_seconds_per_gib();
    let cpu = over_rounds(results, Podwire, measure, cost)?;
    let floor = Rounds::of(&results.aead_floor)?;
    Some(cpu.median / floor.median)
}

fn spread_max(results: &Results) -> f64 {
    let of = [Podwire, WireguardGo];
    let mut measures: Vec<Measure> = results
        .samples
        .iter()
        .map(|sample| sample.measure)
        .collect();
    measures.sort_unstable();
    measures.dedup();
    measures
        .into_iter()
        .flat_map(|measure| of.map(|one| over_rounds(results, one, measure, |s| Some(s.value))))
        .flatten()
        .map(|rounds| rounds.spread())
        .fold(0.0, f64::max)
}
