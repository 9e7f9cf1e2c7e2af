//! Three plain sentences: how much faster or slower than what, and how sure.

use crate::implementation::Implementation::{Plain, Podwire, WireguardGo};
use crate::sample::Results;
use crate::statistics::{SPREAD_MAX, Summary as Rounds};
use crate::summary::{cpu_per_gib, forward, over_rounds, ratio, value};

/// Of what was measured, so much taken by a neighbour is worth a word.
const STEAL_MIN: f64 = 0.02;

/// Processes that wanted to run before the run began, above which it is worth a word.
const LOAD_MIN: f64 = 0.3;

/// The ratios that the sentences tell.
struct Told {
    one: Option<Rounds>,
    four: Option<Rounds>,
    plain: Option<Rounds>,
    cost: Option<Rounds>,
}

pub(super) fn of(results: &Results) -> String {
    let told = Told {
        one: ratio(results, Podwire, WireguardGo, forward(1), value),
        four: ratio(results, Podwire, WireguardGo, forward(4), value),
        plain: ratio(results, Podwire, Plain, forward(1), value),
        cost: ratio(results, Podwire, WireguardGo, forward(1), cpu_per_gib),
    };
    let sentences = [speed(&told), cost(results, &told), sureness(results, &told)];
    format!("{}\n\n", sentences.join("\n"))
}

fn speed(told: &Told) -> String {
    let (Some(one), Some(four)) = (told.one, told.four) else {
        return "How fast Podwire is beside wireguard-go was not measured in this run.".to_owned();
    };
    let plain = told.plain.map_or_else(String::new, |share| {
        let percent = share.median * 100.0;
        format!(", and with one {percent:.0} % of what plain routes carry")
    });
    format!(
        "Podwire carries {:.2} times what wireguard-go carries with one TCP stream and {:.2} times \
         with four{plain}.",
        one.median, four.median
    )
}

fn cost(results: &Results, told: &Told) -> String {
    let own = over_rounds(results, Podwire, forward(1), cpu_per_gib);
    match (own, told.cost) {
        (Some(own), Some(ratio)) => format!(
            "For a GiB of one stream its two agents take {:.2} seconds of processor time, which is \
             {:.2} times wireguard-go's.",
            own.median, ratio.median
        ),
        _ => "What it costs beside wireguard-go was not measured in this run.".to_owned(),
    }
}

fn sureness(results: &Results, told: &Told) -> String {
    let ratios = [told.one, told.four, told.plain, told.cost];
    let ratios: Vec<Rounds> = ratios.into_iter().flatten().collect();
    let spread = ratios.iter().map(Rounds::spread).fold(0.0, f64::max);
    let word = if !ratios.is_empty() && ratios.iter().all(Rounds::is_sure) {
        "sure"
    } else {
        "unsure"
    };
    let rounds = ratios.iter().map(|ratio| ratio.rounds).min().unwrap_or(0);
    let mut text = format!(
        "Over {rounds} rounds these ratios spread by up to {:.0} %, so they are {word} (over {:.0} % is \
         called unsure).",
        spread * 100.0,
        SPREAD_MAX * 100.0
    );
    let sum = |of: fn(&crate::sample::MachineCost) -> f64| -> f64 {
        let machines = results.samples.iter().map(|sample| &sample.costs.machine);
        machines.map(of).sum()
    };
    let (steal, busy) = (sum(|machine| machine.steal), sum(|machine| machine.busy));
    if steal > STEAL_MIN * busy {
        let percent = 100.0 * steal / busy;
        text.push_str(&format!(
            " A neighbour of this machine took {percent:.0} % as much time as was measured."
        ));
    }
    let load = results.settings.load_before;
    if load > LOAD_MIN {
        text.push_str(&format!(
            " This machine was busy when it began (load {load:.1})."
        ));
    }
    if results.interrupted {
        text.push_str(" The run was interrupted: what is missing was not measured.");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_results::results;

    #[test]
    fn three_sentences_tell_speed_cost_and_how_sure() {
        let mut results = results(&[
            (Podwire, forward(1), 4.0, 6.0),
            (WireguardGo, forward(1), 2.0, 8.0),
            (Plain, forward(1), 16.0, 0.0),
            (Podwire, forward(4), 5.0, 6.0),
            (WireguardGo, forward(4), 2.0, 8.0),
        ]);
        let text = of(&results);
        for part in [
            "2.00 times what wireguard-go carries with one TCP stream and 2.50 times with four",
            "25 % of what plain routes carry",
            "6.00 seconds of processor time, which is 0.75 times",
            "so they are sure",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        // One round of the other's is far off.
        results.samples[1].value = 1.0;
        assert!(
            of(&results).contains("so they are unsure"),
            "{}",
            of(&results)
        );
    }
}
