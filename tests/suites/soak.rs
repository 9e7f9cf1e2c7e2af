//! Five real minutes of traffic: two rekeys of every session, and not one datagram lost.
//!
//! `make soak` runs it; plain `cargo test` does not (`test = false` in the manifest).

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::suite::{self, Context};
use podwire_testbed::{IpVersion, Iperf, Node, ProcessMemory, Testbed, Topology, matrix, until};
use serde_json::Value;

/// WireGuard makes a new session every 120 s under load: two of them, and time around.
const SOAK: Duration = Duration::from_secs(300);

/// Datagrams a second each way.
const RATE: u32 = 1_000;

/// One bulk transfer, again and again.
const BULK_SECONDS: u32 = 10;

/// Two rekeys after the first handshake.
const HANDSHAKES_MIN: u64 = 3;

/// After so many every buffer has been in use, in either direction.
const WARM_TRANSFERS: u32 = 4;

/// What an agent may grow by afterwards, in KiB: two rekeys' sessions and the allocator's rest.
const GROWTH_MAX: u64 = 1024;

fn main() -> ExitCode {
    suite::run(vec![(
        "five_minutes_over_two_rekeys_lose_no_datagram",
        soak,
    )])
}

/// Completed handshakes of node 1 with node 2, all lanes together.
fn handshakes(bed: &Testbed) -> Result<u64> {
    let rows: Value = serde_json::from_str(&bed.node(1).agent_output(&["peers", "-o", "json"])?)?;
    rows[0]["handshakes"]
        .as_u64()
        .with_context(|| format!("no handshakes in {rows}"))
}

/// Resident memory of each agent, in KiB.
fn memory(bed: &Testbed) -> Result<Vec<u64>> {
    let of = |node: &Node| Ok(ProcessMemory::of(node.agent_pid()?)?.resident);
    bed.nodes().iter().map(of).collect()
}

#[expect(
    clippy::print_stdout,
    reason = "a soak's counts are for people to read"
)]
fn soak(context: &Context) -> Result<()> {
    let topology = Topology::new()
        .nodes(2)
        .pods_per_node(1)
        .agent_arguments(&["--lanes", "1"]);
    let bed = context.mesh(&topology)?;
    matrix::all_reached(&bed.matrix().run())?;
    // At full speed the search for cookies would lose frames of the capture to the same two
    // processors; the addresses in every header are still read.
    bed.capture().search_payloads(false)?;
    let (one, two) = (bed.pod(1, 1).host(), bed.pod(2, 1).host());
    let ways = [
        (one, two, IpVersion::V4),
        (two, one, IpVersion::V4),
        (one, two, IpVersion::V6),
        (two, one, IpVersion::V6),
    ];
    let counters = ways
        .iter()
        .map(|(from, to, version)| bed.udp_counter(from, to, *version, RATE))
        .collect::<Result<Vec<_>>>()?;
    let (start, mut bytes, mut transfers) = (std::time::Instant::now(), 0, 0_u32);
    let mut warm = Vec::new();
    while start.elapsed() < SOAK {
        let (from, to) = if transfers % 2 == 0 {
            (one, two)
        } else {
            (two, one)
        };
        bytes += Iperf::new(from, to).seconds(BULK_SECONDS).run()?.bytes;
        transfers += 1;
        if transfers == WARM_TRANSFERS {
            warm = memory(&bed)?;
        }
    }
    until(Duration::from_secs(60), "the second rekey", || {
        let handshakes = handshakes(&bed)?;
        ensure!(handshakes >= HANDSHAKES_MIN, "{handshakes} handshakes");
        Ok(())
    })?;
    println!(
        "{} s, {} handshakes, {transfers} bulk transfers of {bytes} bytes in all",
        start.elapsed().as_secs(),
        handshakes(&bed)?
    );
    let end = memory(&bed)?;
    println!("resident: {warm:?} KiB after {WARM_TRANSFERS} transfers, {end:?} KiB at the end");
    for (warm, end) in warm.iter().zip(&end) {
        ensure!(
            *end <= warm + GROWTH_MAX,
            "an agent grew from {warm} to {end} KiB"
        );
    }
    let mut lost = 0;
    for (counter, (from, to, version)) in counters.into_iter().zip(ways) {
        let count = counter.stop()?;
        println!(
            "{} to {} over {version}: {count:?}, lost {}",
            from.name(),
            to.name(),
            count.lost()
        );
        lost += count.lost();
    }
    ensure!(lost == 0, "{lost} datagrams were lost");
    Ok(())
}
