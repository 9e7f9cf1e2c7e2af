//! How soon traffic flows again after the underlay was gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::CONVERGENCE;
use podwire_testbed::pulse::{Pulse, recovery};
use podwire_testbed::suite::Context;
use podwire_testbed::{Impairment, Testbed, Topology, matrix, until};

use crate::measure::{AtMost, Measure, seconds};

/// WireGuard's REKEY_TIMEOUT of 5 s, a third of a second of jitter, a tick of 250 ms, and the
/// 200 ms by which it is measured.
const ONE_RETRY: AtMost = AtMost(5.8);

pub(crate) const MEASURES: &[Measure] = &[
    Measure {
        name: "after_ten_seconds_without_underlay_traffic_flows_within_one_handshake_retry",
        promise: "a black hole of 10 s under traffic: every way is answered again",
        bound: ONE_RETRY,
        unit: "s",
        samples: |context| black_holes(context, Impairment::blackhole, SHORT),
    },
    Measure {
        name: "after_a_node_was_mute_for_22_seconds_traffic_flows_within_one_handshake_retry",
        promise: "22 s in which nothing arrives that one node sends: every way is answered again",
        bound: ONE_RETRY,
        unit: "s",
        samples: |context| black_holes(context, || Impairment::blackhole().from(1), LONG),
    },
    Measure {
        name: "after_a_node_was_deaf_for_22_seconds_traffic_flows_within_one_handshake_retry",
        promise: "22 s in which nothing arrives that is sent to one node: every way is answered again",
        bound: ONE_RETRY,
        unit: "s",
        samples: |context| black_holes(context, || Impairment::blackhole().to(1), LONG),
    },
    Measure {
        name: "after_a_start_without_underlay_traffic_flows_within_one_handshake_retry",
        promise: "both agents start in a black hole of 10 s: every way is answered after it",
        bound: ONE_RETRY,
        unit: "s",
        samples: before_any_session,
    },
];

const TIMES: usize = 3;

/// Sessions outlive it: a peer's silence is doubted after 15 s.
const SHORT: Duration = Duration::from_secs(10);

/// Sessions do not: and the handshake that was asked for at 15 s has been repeated by then.
const LONG: Duration = Duration::from_secs(22);

/// Nothing is lost for this long: then it is over.
const QUIET: Duration = Duration::from_secs(3);

fn mesh(context: &Context) -> Result<Arc<Testbed>> {
    let bed = context.mesh(&Topology::new().nodes(2).pods_per_node(1))?;
    matrix::all_reached(&bed.matrix().run())?;
    Ok(bed)
}

fn black_holes(context: &Context, hole: fn() -> Impairment, length: Duration) -> Result<Vec<f64>> {
    let bed = mesh(context)?;
    let pulse = Pulse::start(&bed)?;
    let mut samples = Vec::new();
    for _ in 0..TIMES {
        samples.push(recovery_from(&bed, &pulse, &hole(), length, || Ok(()))?);
    }
    drop(pulse);
    matrix::all_reached(&bed.matrix().run()).context("at the end")?;
    Ok(samples)
}

fn before_any_session(context: &Context) -> Result<Vec<f64>> {
    let bed = mesh(context)?;
    let pulse = Pulse::start(&bed)?;
    let mut samples = Vec::new();
    for _ in 0..TIMES {
        for node in bed.nodes() {
            node.kill_agent()?;
        }
        samples.push(recovery_from(
            &bed,
            &pulse,
            &Impairment::blackhole(),
            SHORT,
            || bed.start_agents(),
        )?);
    }
    drop(pulse);
    matrix::all_reached(&bed.matrix().run()).context("at the end")?;
    Ok(samples)
}

/// How long after the end of a black hole every way is answered; `begun` is done at its begin. Zero
/// says that not one question that was asked after its end was lost.
fn recovery_from(
    bed: &Testbed,
    pulse: &Pulse,
    hole: &Impairment,
    length: Duration,
    begun: impl FnOnce() -> Result<()>,
) -> Result<f64> {
    let ways = 2 * bed.pod(1, 1).addresses().len();
    let hole = bed.impair(hole)?;
    let start = Instant::now();
    begun()?;
    until(length + CONVERGENCE, "the end of the outage", || {
        ensure!(start.elapsed() >= length, "not yet");
        Ok(())
    })?;
    let dropped = bed.dropped_by(hole)?;
    ensure!(dropped > 0, "nothing fell into the black hole");
    bed.heal(hole)?;
    let since = pulse.now();
    let recovered = until(CONVERGENCE, "every way to be answered", || {
        recovery(&pulse.questions(), ways, since, pulse.now(), QUIET).context("some are not yet")
    })?;
    Ok(seconds(recovered))
}
