//! An underlay that loses, delays, reorders and repeats, or swallows everything for a while.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::wait_peers;
use podwire_testbed::suite::{self, Context, Test};
use podwire_testbed::{
    FlowCount, Impairment, IpVersion, LinkQuality, Testbed, Topology, Traffic, until,
};

pub(crate) const TESTS: &[Test] = &[
    (
        "an_underlay_that_loses_costs_those_datagrams_and_no_others",
        loses,
    ),
    (
        "an_underlay_that_delays_reorders_and_repeats_costs_nothing",
        disorders,
    ),
    (
        "a_black_hole_in_one_direction_is_over_when_it_ends",
        black_holes,
    ),
];

const VERSIONS: [IpVersion; 2] = [IpVersion::V4, IpVersion::V6];

/// Datagrams a second of each of four flows.
const RATE: u32 = 100;

/// The same where a first session takes some round trips of 400 ms: 128 wait for it at most.
const RATE_FAR: u32 = 20;

/// Longer than the pause between two datagrams of such a flow.
const OVERTAKEN: Duration = Duration::from_millis(120);

/// What a black hole costs after its end at most: the 15 s of silence after which a peer is
/// doubted, had they begun just then, and one retry of a handshake.
const RECOVERY_MAX: Duration = Duration::from_secs(21);

fn short_or_soak(short: u64, soak: u64) -> Duration {
    Duration::from_secs(if suite::is_soak() { soak } else { short })
}

/// Lets traffic pass for a while.
fn wait(length: Duration) -> Result<()> {
    let start = Instant::now();
    until(length * 2, "some traffic", || {
        ensure!(start.elapsed() >= length, "not yet");
        Ok(())
    })
}

fn pair(context: &Context, topology: &Topology) -> Result<std::sync::Arc<Testbed>> {
    let bed = context.mesh(&topology.clone().nodes(2).pods_per_node(1))?;
    wait_peers(&bed)?;
    Ok(bed)
}

fn lost(flows: &[FlowCount]) -> u64 {
    flows.iter().map(|flow| flow.count.lost()).sum()
}

/// Nothing is lost that the underlay has not lost: also not while sessions are made and renewed
/// (in the soak: over two rekeys). The handshakes that it has lost are among its count. Each
/// datagram leaves by itself, as on a wire: the rule would count a train as one.
fn loses(context: &Context) -> Result<()> {
    let apart = Topology::new().agent_arguments(&["--offload", "udp-gso=off"]);
    let bed = pair(context, &apart)?;
    for percent in [5.0, 20.0] {
        let traffic = Traffic::between_all(&bed, &VERSIONS, RATE)?;
        traffic.passes()?;
        let id = bed.impair(&Impairment::loss(percent))?;
        wait(short_or_soak(4, 280))?;
        let flows = traffic.stop()?;
        let dropped = bed.dropped_by(id)?;
        bed.heal(id)?;
        let lost = lost(&flows);
        ensure!(
            lost > 0 && lost <= dropped,
            "{lost} lost, and {dropped} by the underlay at {percent} %: {flows:?}"
        );
    }
    // A first session under such loss: an agent that starts knows nobody.
    let id = bed.impair(&Impairment::loss(20.0))?;
    let traffic = Traffic::between_all(&bed, &VERSIONS, RATE)?;
    traffic.restart_all().context("under a loss of 20 %")?;
    bed.heal(id)?;
    traffic.stop().map(drop)
}

fn disorders(context: &Context) -> Result<()> {
    let bed = pair(context, &Topology::new().userspace_link(2))?;
    let link = bed.node(2).link()?;
    let delayed = LinkQuality {
        delay: Duration::from_millis(200),
        ..LinkQuality::default()
    };
    let qualities = [
        delayed,
        LinkQuality {
            reorder_percent: 20.0,
            reorder_by: OVERTAKEN,
            ..delayed
        },
        LinkQuality {
            duplicate_percent: 20.0,
            ..delayed
        },
        LinkQuality {
            delay: Duration::ZERO,
            reorder_percent: 20.0,
            reorder_by: OVERTAKEN,
            duplicate_percent: 20.0,
            ..LinkQuality::default()
        },
    ];
    for quality in qualities {
        link.set_quality(quality);
        let before = link.count();
        let traffic = Traffic::between_all(&bed, &VERSIONS, RATE_FAR)?;
        traffic.passes()?;
        wait(short_or_soak(2, 140))?;
        let flows = traffic.stop()?;
        let counted = link.count();
        ensure!(
            lost(&flows) == 0 && counted.dropped == before.dropped,
            "{quality:?}: {flows:?}"
        );
        let repeated: u64 = flows.iter().map(|flow| flow.count.repeated).sum();
        ensure!(repeated == 0, "a copy was delivered: {flows:?}");
        let reordered: u64 = flows.iter().map(|flow| flow.count.reordered).sum();
        // Some are, all the same, where a flow that waits for a session goes over to its own lane.
        let is_reordered = quality.reorder_percent == 0.0 || reordered > 0;
        let is_repeated =
            quality.duplicate_percent == 0.0 || counted.duplicated > before.duplicated;
        ensure!(
            is_reordered && is_repeated,
            "the link did not do what it was told: {quality:?}, {counted:?}, {flows:?}"
        );
    }
    // Sessions that are made over such a link.
    let traffic = Traffic::between_all(&bed, &VERSIONS, RATE_FAR)?;
    traffic.restart_all().context("over a link in disorder")?;
    traffic.stop().map(drop)
}

/// The first ones hit sessions that live; the last, a pair that has none yet.
#[expect(
    clippy::print_stdout,
    reason = "how long recovery takes is for people to read"
)]
fn black_holes(context: &Context) -> Result<()> {
    let bed = pair(context, &Topology::new())?;
    let traffic = Traffic::between_all(&bed, &VERSIONS, RATE)?;
    traffic.passes()?;
    let lengths: &[u64] = if suite::is_soak() {
        &[1, 10, 200]
    } else {
        &[1, 10]
    };
    for seconds in lengths {
        let impairment = Impairment::blackhole().from(2);
        let recovery = traffic.ride_over(&impairment, Duration::from_secs(*seconds))?;
        println!(
            "{seconds} s without what node 2 sends: over after {} ms",
            recovery.as_millis()
        );
        is_soon_over(recovery)?;
    }
    for node in bed.nodes() {
        node.kill_agent()?;
        node.start_agent()?;
    }
    let first = traffic.ride_over(&Impairment::blackhole().from(1), Duration::from_secs(10))?;
    println!(
        "10 s at the start of both: over after {} ms",
        first.as_millis()
    );
    is_soon_over(first)?;
    traffic.stop().map(drop)
}

/// Only in the soak, whose agents are optimised and do not share the machine with other suites.
fn is_soon_over(recovery: Duration) -> Result<()> {
    ensure!(
        !suite::is_soak() || recovery <= RECOVERY_MAX,
        "over only after {recovery:?}"
    );
    Ok(())
}
