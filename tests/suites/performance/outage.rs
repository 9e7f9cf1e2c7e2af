//! How soon traffic flows again after the underlay was gone.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::CONVERGENCE;
use podwire_testbed::pulse::{Pulse, recovery};
use podwire_testbed::suite::Context;
use podwire_testbed::{Impairment, Topology, matrix, until};

use crate::measure::{AtMost, Measure, seconds};

pub(crate) const MEASURES: &[Measure] = &[Measure {
    name: "after_ten_seconds_without_underlay_traffic_flows_within_one_handshake_retry",
    promise: "a black hole of 10 s under traffic: every way is answered again",
    // WireGuard's REKEY_TIMEOUT of 5 s, a third of a second of jitter, a tick of 250 ms, and the
    // 200 ms by which it is measured.
    bound: AtMost(5.8),
    unit: "s",
    samples: black_hole,
}];

const TIMES: usize = 3;
const OUTAGE: Duration = Duration::from_secs(10);

/// Nothing is lost for this long: then it is over.
const QUIET: Duration = Duration::from_secs(3);

/// Zero says that not one question that was asked after its end was lost.
fn black_hole(context: &Context) -> Result<Vec<f64>> {
    let bed = context.mesh(&Topology::new().nodes(2).pods_per_node(1))?;
    matrix::all_reached(&bed.matrix().run())?;
    let pulse = Pulse::start(&bed)?;
    let ways = 2 * bed.pod(1, 1).addresses().len();
    let mut samples = Vec::new();
    for _ in 0..TIMES {
        let hole = bed.impair(&Impairment::blackhole())?;
        let start = Instant::now();
        until(CONVERGENCE, "the end of the outage", || {
            ensure!(start.elapsed() >= OUTAGE, "not yet");
            Ok(())
        })?;
        let dropped = bed.dropped_by(hole)?;
        ensure!(dropped > 0, "nothing fell into the black hole");
        bed.heal(hole)?;
        let since = pulse.now();
        let recovered = until(CONVERGENCE, "every way to be answered", || {
            recovery(&pulse.questions(), ways, since, pulse.now(), QUIET)
                .context("some are not yet")
        })?;
        samples.push(seconds(recovered));
    }
    drop(pulse);
    matrix::all_reached(&bed.matrix().run()).context("at the end")?;
    Ok(samples)
}
