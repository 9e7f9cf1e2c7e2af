//! Three plain sentences: how much faster or slower than what, and how sure.

use crate::implementation::Implementation::{self, Podwire, WireguardGo};
use crate::measure::{Direction, Measure};
use crate::sample::{Results, Sample};
use crate::statistics::SPREAD_MAX;
use crate::summary::{over_rounds, ratio};

pub(super) fn of(results: &Results) -> String {
    let mut lines = Vec::new();
    lines.push(speed(results));
    lines.push(cost(results));
    lines.push(sureness(results));
    lines.retain(|line| !line.is_empty());
    format!("{}\n\n", lines.join("\n"))
}

const fn tcp(streams: u32) -> Measure {
    Measure::Tcp {
        streams,
        direction: Direction::Forward,
    }
}

fn speed(results: &Results) -> String {
    let value = |sample: &Sample| Some(sample.value);
    let times = |streams| {
        let ratio = ratio(results, Podwire, WireguardGo, tcp(streams), value)?;
        Some(ratio.median)
    };
    let share = ratio(results, Podwire, Implementation::Plain, tcp(1), value);
    match (times(1), times(4)) {
        (Some(one), Some(four)) => {
            let plain = share.map_or_else(String::new, |share| {
                format!(
                    ", and with one {:.0} % of what plain routes carry",
                    share.median * 100.0
                )
            });
            format!(
                "Podwire carries {one:.2} times what wireguard-go carries with one TCP stream and \
                 {four:.2} times with four{plain}."
            )
        }
        _ => "How fast Podwire is beside wireguard-go was not measured in this run.".to_owned(),
    }
}

fn cost(results: &Results) -> String {
    let figure = |sample: &Sample| sample.costs.cpu_seconds_per_gib();
    let own = over_rounds(results, Podwire, tcp(1), figure);
    let ratio = ratio(results, Podwire, WireguardGo, tcp(1), figure);
    match (own, ratio) {
        (Some(own), Some(ratio)) => format!(
            "For a GiB of one stream its two agents take {:.2} seconds of processor time, which is \
             {:.2} times wireguard-go's.",
            own.median, ratio.median
        ),
        _ => "What it costs beside wireguard-go was not measured in this run.".to_owned(),
    }
}

fn sureness(results: &Results) -> String {
    let own = over_rounds(results, Podwire, tcp(1), |sample| Some(sample.value));
    let steal: f64 = results.samples.iter().map(|s| s.costs.machine.steal).sum();
    let busy: f64 = results.samples.iter().map(|s| s.costs.machine.busy).sum();
    let neighbour = if steal > 0.02 * busy {
        format!(
            " A neighbour of this machine took {:.0} % as much time as was measured.",
            100.0 * steal / busy
        )
    } else {
        String::new()
    };
    let sure = own.map_or_else(String::new, |own| {
        let spread = own.spread() * 100.0;
        let word = if own.is_sure() { "sure" } else { "unsure" };
        format!(
            "Over {} rounds these figures spread by {spread:.0} %, so they are {word} (a spread over \
             {:.0} % is called unsure).",
            own.rounds,
            SPREAD_MAX * 100.0
        )
    });
    let end = if results.interrupted {
        " The run was interrupted: what is missing was not measured."
    } else {
        ""
    };
    format!("{sure}{neighbour}{end}")
}
