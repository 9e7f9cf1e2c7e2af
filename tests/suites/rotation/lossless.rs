//! No packet is lost: not by a rotation of one node, of several, of all at once.

use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use podwire_testbed::agent_view::status;
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Host, Testbed, Topology, matrix};

use crate::scene::{self, Streams, TRIES, loses_nothing, lost, rotate, settled};

pub(crate) const TESTS: &[Test] = &[
    (
        "both_ends_of_a_pair_rotate_and_retire_their_keys_and_no_packet_is_lost",
        one_after_another,
    ),
    ("all_nodes_rotate_at_once_and_no_packet_is_lost", at_once),
    (
        "connections_at_full_speed_do_not_stand_still_while_both_ends_rotate",
        full_speed,
    ),
];

/// The first two rotate, and the others are what they are compared with.
const ROTATING: [u8; 2] = [1, 2];
const PAIRS: [(u8, u8); 2] = [(1, 2), (3, 4)];

/// Of a node's record: announced, promoted, retired.
const WRITES: u64 = 3;

/// Seconds of one connection at full speed.
const BULK_SECONDS: u32 = 10;

fn mesh(context: &Context, nodes: u8, lanes: &str) -> Result<std::sync::Arc<Testbed>> {
    let topology = Topology::new()
        .nodes(nodes)
        .pods_per_node(1)
        .agent_arguments(&["--lanes", lanes]);
    let bed = context.mesh(&topology)?;
    matrix::all_reached(&bed.matrix().run())?;
    // At this rate the search would cost the capture frames; every header is still read.
    bed.capture().search_payloads(false)?;
    Ok(bed)
}

fn one_after_another(context: &Context) -> Result<()> {
    let bed = mesh(context, 4, "1")?;
    let mut tries = Vec::new();
    for _ in 0..TRIES {
        let (rotated, control) = one_after_the_other(&bed)?;
        if control == 0 {
            ensure!(rotated == 0, "lost {rotated}");
            return Ok(());
        }
        tries.push((rotated, control));
    }
    bail!("inconclusive: {tries:?}")
}

/// What was lost of datagrams between two nodes that rotate and retire their keys, and between two
/// that do not.
#[expect(clippy::print_stdout, reason = "every count is told")]
fn one_after_the_other(bed: &Testbed) -> Result<(u64, u64)> {
    let writes = |number| -> Result<u64> { Ok(status(bed.node(number))?.registry.writes) };
    let mut before = Vec::new();
    for number in ROTATING {
        before.push((number, writes(number)?, scene::generation(bed, number)?));
    }
    let streams = Streams::start(bed, &PAIRS)?;
    for number in ROTATING {
        rotate(bed, &[number])?;
        streams.flow()?;
    }
    settled(bed, &ROTATING)?;
    streams.flow()?;
    let counts = streams.stop()?;
    let (rotated, control) = counts.split_at(counts.len() / PAIRS.len());
    println!(
        "lost {}, beside them {}: {counts:?}",
        lost(rotated),
        lost(control)
    );
    for (number, before, generation) in before {
        let written = writes(number)? - before;
        ensure!(written == WRITES, "node {number} wrote {written} times");
        let after = scene::generation(bed, number)?;
        ensure!(
            after == generation + 1,
            "node {number} has generation {after}"
        );
    }
    Ok((lost(rotated), lost(control)))
}

fn at_once(context: &Context) -> Result<()> {
    let bed = mesh(context, 3, "3")?;
    let all = [1, 2, 3];
    loses_nothing(&bed, "all at once", &[(1, 2), (2, 3)], || {
        settled(&bed, &all)?;
        rotate(&bed, &all)
    })
}

fn full_speed(context: &Context) -> Result<()> {
    let bed = mesh(context, 2, "2")?;
    let (one, two) = (bed.pod(1, 1).host(), bed.pod(2, 1).host());
    let before = timeouts(&[one, two])?;
    let result = std::thread::scope(|scope| {
        let bulk = scope.spawn(|| {
            podwire_testbed::Iperf::new(one, two)
                .seconds(BULK_SECONDS)
                .run()
        });
        let rotated = rotate(&bed, &[1, 2]);
        let bulk = bulk.join();
        rotated?;
        bulk.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    ensure!(result.bytes > 0, "{result:?}");
    let after = timeouts(&[one, two])?;
    ensure!(before == after, "{before} timeouts before, {after} after");
    Ok(())
}

/// Retransmission timeouts of TCP on hosts, since they are there.
fn timeouts(hosts: &[&Host]) -> Result<u64> {
    let mut sum = 0;
    for host in hosts {
        let text = host
            .namespace()
            .run(|| fs::read_to_string("/proc/thread-self/net/netstat"))?;
        let mut lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("TcpExt: "));
        let names = lines.next().context("names")?.split(' ');
        let values = lines.next().context("values")?.split(' ');
        let mut columns = names.zip(values);
        let found = columns.find(|(name, _)| *name == "TCPTimeouts");
        sum += found.context("no TCPTimeouts")?.1.parse::<u64>()?;
    }
    Ok(sum)
}
