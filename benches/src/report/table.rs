//! The tables.

use std::fmt::Write as _;

use clap::ValueEnum as _;
use comfy_table::{CellAlignment, Table, presets};

use crate::implementation::Implementation;
use crate::measure::Measure;
use crate::sample::{Percentiles, Results, Sample};
use crate::statistics::Summary;
use crate::summary::{cpu_per_gib, over_rounds, ratio, ratio_to_floor, value};

/// All of it, for the page.
pub(super) fn of(results: &Results) -> String {
    let mut text = String::from(HOW_TO_READ);
    for measure in measures(results) {
        let _ = write!(text, "## {measure}\n\n{}\n\n", one(results, measure));
    }
    text.push_str(&floors(results));
    text.push_str(&absences(results));
    text.push_str(&settings(results));
    text
}

/// One line an implementation, one column a measure: for the terminal.
pub(super) fn medians(results: &Results) -> String {
    let measures = measures(results);
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut header = vec![String::new()];
    header.extend(measures.iter().map(ToString::to_string));
    table.set_header(header);
    for implementation in implementations(results) {
        let mut row = vec![implementation.to_string()];
        row.extend(measures.iter().map(|measure| {
            over_rounds(results, implementation, *measure, value)
                .map_or_else(String::new, |rounds| figure(rounds.median))
        }));
        table.add_row(row);
    }
    let absent = results
        .absences
        .iter()
        .filter(|absence| absence.measure.is_none());
    let absent: Vec<_> = absent
        .map(|absence| absence.implementation.to_string())
        .collect();
    if absent.is_empty() {
        return table.to_string();
    }
    format!("{table}\nnot here: {}", absent.join(", "))
}

const HOW_TO_READ: &str = "\
Medians of the rounds; *spread* is from the least to the most, in medians, and a ratio is the median
of the ratios of the same rounds. Processor time is that of the implementation's processes on all
nodes, user and system apart; *machine* is everything that this machine did meanwhile, iperf3 and the
kernel's own work among it. What each number means is in `benches/README.md`.

";

/// The measures that have samples, in order.
pub(super) fn measures(results: &Results) -> Vec<Measure> {
    let mut measures: Vec<Measure> = results
        .samples
        .iter()
        .map(|sample| sample.measure)
        .collect();
    measures.sort_unstable();
    measures.dedup();
    measures
}

/// The implementations that have samples, in the order of tables.
pub(super) fn implementations(results: &Results) -> Vec<Implementation> {
    let has = |one: &Implementation| results.samples.iter().any(|s| s.implementation == *one);
    Implementation::value_variants()
        .iter()
        .copied()
        .filter(has)
        .collect()
}

/// Three digits, as people read figures.
pub(super) fn figure(value: f64) -> String {
    match value.abs() {
        large if large >= 10_000.0 => format!("{:.0}k", value / 1000.0),
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A column's title and what of an implementation stands in it.
type Cell = (&'static str, String);

fn one(results: &Results, measure: Measure) -> String {
    let rows: Vec<(Implementation, Vec<Cell>)> = implementations(results)
        .into_iter()
        .filter_map(|one| Some((one, row(results, one, measure)?)))
        .collect();
    let Some((_, first)) = rows.first() else {
        return String::new();
    };
    // What nobody has, such as round trips of bytes, is no column.
    let shown: Vec<usize> = (0..first.len())
        .filter(|column| rows.iter().any(|(_, row)| !row[*column].1.is_empty()))
        .collect();
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    let titles = shown.iter().map(|column| first[*column].0);
    table.set_header([""].into_iter().chain(titles));
    for (implementation, row) in &rows {
        let cells = shown.iter().map(|column| row[*column].1.clone());
        table.add_row([implementation.to_string()].into_iter().chain(cells));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

/// One implementation's cells: as many, in the same order, for each.
fn row(results: &Results, implementation: Implementation, measure: Measure) -> Option<Vec<Cell>> {
    let over = |figure: &dyn Fn(&Sample) -> Option<f64>| {
        over_rounds(results, implementation, measure, figure)
    };
    let shown = |figure_of: &dyn Fn(&Sample) -> Option<f64>| {
        over(figure_of).map_or_else(String::new, |rounds| figure(rounds.median))
    };
    let own = over(&value)?;
    let shown_ratio = |ratio: Option<Summary>| {
        ratio.map_or_else(String::new, |ratio| format!("{:.2}", ratio.median))
    };
    let to = |other| shown_ratio(ratio(results, implementation, other, measure, value));
    let go = Implementation::WireguardGo;
    let cpu_to_go = shown_ratio(ratio(results, implementation, go, measure, cpu_per_gib));
    let to_floor = shown_ratio(ratio_to_floor(results, implementation, measure));
    let unsure = if own.is_sure() { "" } else { " (unsure)" };
    #[expect(clippy::cast_precision_loss, reason = "segments of one run are few")]
    let retransmits = shown(&|sample| {
        let is_counted = matches!(sample.measure, Measure::Tcp { .. });
        is_counted.then_some(sample.costs.retransmits as f64)
    });
    let percentile = |of: &dyn Fn(&Percentiles) -> f64| {
        shown(&|sample| Some(of(sample.percentiles.as_ref()?)))
    };
    let limited = over(&|sample| Some(f64::from(u8::from(sample.costs.is_generators_limit))));
    let at_least = if limited.is_some_and(|share| share.median > 0.5) {
        "≥ "
    } else {
        ""
    };
    Some(vec![
        (measure.unit(), format!("{at_least}{}", figure(own.median))),
        ("spread", format!("{:.0} %{unsure}", own.spread() * 100.0)),
        ("to wireguard-go", to(Implementation::WireguardGo)),
        ("to plain", to(Implementation::Plain)),
        ("p50", percentile(&|round| round.p50)),
        ("p90", percentile(&|round| round.p90)),
        ("p99", percentile(&|round| round.p99)),
        ("max", percentile(&|round| round.max)),
        ("lost %", percentile(&lost_share)),
        ("CPU s/GiB", shown(&cpu_per_gib)),
        ("CPU to wireguard-go", cpu_to_go),
        ("CPU to AEAD floor", to_floor),
        (
            "CPU s/Mpacket",
            shown(&|sample| more_than_nothing(sample.costs.cpu_seconds_per_million_packets())),
        ),
        ("of it user", shown_share(over(&user_share))),
        (
            "machine s/GiB",
            shown(&|sample| sample.costs.machine_seconds_per_gib()),
        ),
        (
            "machine busy",
            shown_share(over(&|sample| busy_share(results, sample))),
        ),
        ("sent again", retransmits),
        ("MiB a node", shown(&resident_mib)),
    ])
}

/// Questions that were not answered, in percent.
fn lost_share(round: &Percentiles) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "questions of two seconds are few"
    )]
    let share = round.lost as f64 / (round.answers + round.lost).max(1) as f64;
    100.0 * share
}

/// What the kernel carries takes no time of a process.
fn more_than_nothing(cost: Option<f64>) -> Option<f64> {
    cost.filter(|cost| *cost > 0.0)
}

fn shown_share(rounds: Option<Summary>) -> String {
    rounds.map_or_else(String::new, |rounds| {
        format!("{:.0} %", rounds.median * 100.0)
    })
}

/// The part of all processors' time that was not idle.
fn busy_share(results: &Results, sample: &Sample) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "processors are few")]
    let all = sample.costs.seconds * results.machine.cpus as f64;
    (all > 0.0 && sample.costs.machine.busy > 0.0).then(|| sample.costs.machine.busy / all)
}

/// The part of processor time that is user space's.
fn user_share(sample: &Sample) -> Option<f64> {
    let user: f64 = sample.costs.processes.values().map(|it| it.user).sum();
    let all = sample.costs.cpu_seconds();
    (all > 0.0).then(|| user / all)
}

/// The most that one of the processes takes.
fn resident_mib(sample: &Sample) -> Option<f64> {
    let most = sample
        .costs
        .processes
        .values()
        .map(|it| it.resident_kib)
        .max()?;
    #[expect(clippy::cast_precision_loss, reason = "megabytes")]
    let mib = most as f64 / 1024.0;
    Some(mib)
}

fn floors(results: &Results) -> String {
    let floors: Vec<f64> = results.aead_floor.iter().map(|(_, floor)| *floor).collect();
    Summary::of(&floors).map_or_else(String::new, |floor| {
        format!(
            "## Floors\n\nSealing and opening the same payload on all processors at once, and nothing \
             else: {} CPU s/GiB for both ends (spread {:.0} %). All but the cipher is *Podwire, null \
             cipher*; all but the tunnel is *plain routes*.\n\n",
            figure(floor.median),
            floor.spread() * 100.0
        )
    })
}

fn absences(results: &Results) -> String {
    if results.absences.is_empty() {
        return String::new();
    }
    let mut text = String::from("## What is not here\n\n");
    for absence in &results.absences {
        let what = absence
            .measure
            .map_or_else(String::new, |measure| format!(", {measure}"));
        let _ = writeln!(
            text,
            "- {}{what}: {}",
            absence.implementation, absence.reason
        );
    }
    text.push('\n');
    text
}

fn settings(results: &Results) -> String {
    let settings = &results.settings;
    let privileges = if settings.privileged {
        "as root"
    } else {
        "without root, in a user namespace"
    };
    let mut text = format!(
        "## How\n\nPodwire at {}. {} {}, {} s a TCP run, TCP congestion control {}, {privileges}; a \
         UDP socket gets a receive buffer of {} bytes. The processor has {}.\n\n",
        settings.commit,
        settings.rounds,
        if settings.rounds == 1 {
            "round"
        } else {
            "rounds"
        },
        settings.seconds,
        settings.congestion,
        settings.socket_buffer_bytes,
        results.machine.vector_units.join(", ")
    );
    for (name, version) in &settings.versions {
        let _ = writeln!(text, "- {name}: {version}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_or_so() {
        let shown: Vec<_> = [0.123_4, 9.876, 98.76, 987.6, 123_456.0]
            .into_iter()
            .map(figure)
            .collect();
        assert_eq!(shown, ["0.12", "9.88", "98.8", "988", "123k"]);
    }
}
