//! What must hold of a measurement, so that a blind check can never pass.
//!
//! A count of zero proves nothing by itself. The encrypted mesh must also have carried at least
//! as many WireGuard bytes as its questions have, and the host-network mesh, which is the positive
//! control, must have shown each question and each answer in the clear, by address and by cookie.

use podwire_testbed::PairResult;

use crate::args::Mode;
use crate::measurement::{Measurement, QUESTION_BYTES};
use crate::reachability::Reachability;

/// A question and its answer.
const FRAMES_OF_A_QUESTION: u64 = 2;

/// Failed questions in a reason: a mesh that is down has thousands.
const FAILURES_SHOWN: usize = 5;

/// Everything that does not hold; empty when all does.
pub(crate) fn faults(measurement: &Measurement) -> Vec<String> {
    let mut faults = reachability(&measurement.results);
    match measurement.mode {
        Mode::Encrypted => encrypted(measurement, &mut faults),
        Mode::HostNetwork => host_network(measurement, &mut faults),
    }
    if measurement.iperf3.bytes == 0 {
        faults.push("iperf3 moved no byte".to_owned());
    }
    faults.extend(measurement.at_the_end.clone());
    faults
        .iter()
        .map(|fault| format!("{}: {fault}", measurement.mode))
        .collect()
}

fn reachability(results: &[PairResult]) -> Vec<String> {
    let reachability = Reachability::of(results);
    if reachability.pairs == 0 {
        return vec!["no pod asked another".to_owned()];
    }
    if reachability.pairs_reachable == reachability.pairs {
        return Vec::new();
    }
    let mut text = format!(
        "{} of {} pairs of pods reach each other with the source kept",
        reachability.pairs_reachable, reachability.pairs
    );
    for failure in results
        .iter()
        .filter(|result| !result.source_kept())
        .take(FAILURES_SHOWN)
    {
        text.push_str(&format!("\n  {failure}"));
    }
    vec![text]
}

fn encrypted(measurement: &Measurement, faults: &mut Vec<String>) {
    let (asked, moved) = (&measurement.underlay, &measurement.underlay_during_iperf3);
    for (when, seen) in [("the questions", asked), ("iperf3", moved)] {
        if seen.plaintext.frames > 0 {
            faults.push(format!(
                "{} frames of plaintext between pods during {when}",
                seen.plaintext.frames
            ));
        }
        if seen.one_sided.frames > 0 {
            faults.push(format!(
                "{} frames with one pod's address in the clear during {when}",
                seen.one_sided.frames
            ));
        }
        if seen.wireguard.malformed.frames > 0 {
            faults.push(format!(
                "{} frames on WireGuard's ports that are no WireGuard messages during {when}",
                seen.wireguard.malformed.frames
            ));
        }
    }
    if asked.cookies.frames > 0 {
        faults.push(format!(
            "{} frames carried the probes' cookie",
            asked.cookies.frames
        ));
    }
    let least = FRAMES_OF_A_QUESTION
        * questions_between_nodes(&measurement.results)
        * u64::try_from(QUESTION_BYTES).expect("a small constant");
    if asked.wireguard.transport.frames == 0 {
        faults.push("the capture saw no WireGuard transport data: it is blind".to_owned());
    } else if asked.wireguard.transport.bytes < least {
        faults.push(format!(
            "the capture saw {} bytes of WireGuard transport data, but the questions alone have \
             {least}",
            asked.wireguard.transport.bytes
        ));
    }
    if moved.wireguard.transport.bytes < measurement.iperf3.bytes {
        faults.push(format!(
            "the capture saw {} bytes of WireGuard transport data while iperf3 moved {}",
            moved.wireguard.transport.bytes, measurement.iperf3.bytes
        ));
    }
}

fn host_network(measurement: &Measurement, faults: &mut Vec<String>) {
    let (asked, moved) = (&measurement.underlay, &measurement.underlay_during_iperf3);
    let least = FRAMES_OF_A_QUESTION * questions_between_nodes(&measurement.results);
    if asked.plaintext.frames == 0 {
        faults.push("the control saw no plaintext: the capture is blind".to_owned());
    } else if asked.plaintext.frames < least {
        faults.push(format!(
            "the control saw {} frames of plaintext of at least {least}",
            asked.plaintext.frames
        ));
    }
    if asked.cookies.frames == 0 {
        faults.push(
            "the control saw no frame with the probes' cookie: the search is blind".to_owned(),
        );
    } else if asked.cookies.frames < least {
        faults.push(format!(
            "the control saw {} frames with the probes' cookie of at least {least}",
            asked.cookies.frames
        ));
    }
    if asked.wireguard.transport.frames > 0 {
        faults.push(format!(
            "the control carried {} frames of WireGuard transport data: it is no control",
            asked.wireguard.transport.frames
        ));
    }
    if moved.plaintext.bytes < measurement.iperf3.bytes {
        faults.push(format!(
            "the control saw {} bytes of plaintext while iperf3 moved {}",
            moved.plaintext.bytes, measurement.iperf3.bytes
        ));
    }
}

/// Answered questions that crossed the underlay.
fn questions_between_nodes(results: &[PairResult]) -> u64 {
    let crossed = results
        .iter()
        .filter(|it| it.from.node != it.to.node && it.reached());
    u64::try_from(crossed.count()).expect("fewer than 2^64 results fit in memory")
}

#[cfg(test)]
mod tests;
