//! What is asked of a node's keys: abort, revocation, and what is no request or comes too late.

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, peer};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Testbed, Topology, matrix, until};

use crate::scene::{
    PHASE_DEADLINE, Streams, Verb, annotation, ask, ask_in_words, generation, loses_nothing, lost,
    rotate, settled, wait_phase,
};

pub(crate) const TESTS: &[Test] = &[
    (
        "an_announced_key_is_taken_back_and_no_packet_is_lost",
        aborted,
    ),
    ("a_revoked_key_is_out_of_use_at_once", revoked),
    (
        "what_is_no_request_or_comes_late_does_nothing",
        of_no_effect,
    ),
];

fn mesh(context: &Context, nodes: u8) -> Result<std::sync::Arc<Testbed>> {
    let topology = Topology::new().nodes(nodes).pods_per_node(1);
    let bed = context.mesh(&topology)?;
    matrix::all_reached(&bed.matrix().run())?;
    bed.capture().search_payloads(false)?;
    Ok(bed)
}

fn aborted(context: &Context) -> Result<()> {
    let bed = mesh(context, 2)?;
    let key = annotation(&bed, 1, "public-key")?;
    loses_nothing(&bed, "abort", &[(1, 2)], || {
        settled(&bed, &[1])?;
        // A peer that does not confirm keeps the rotation from going on.
        bed.node(2).mute_initiations()?;
        ask(&bed, 1, Verb::Rotate, 1)?;
        wait_phase(&bed, 1, "announced", PHASE_DEADLINE)?;
        let next = annotation(&bed, 1, "next-public-key")?;
        ensure!(!next.is_empty() && next != key, "{next:?}");
        ask(&bed, 1, Verb::Abort, 1)?;
        wait_phase(&bed, 1, "withdrawn", PHASE_DEADLINE)?;
        bed.node(2).unmute_initiations()
    })?;
    ensure!(annotation(&bed, 1, "public-key")? == key, "another key");
    let next = annotation(&bed, 1, "next-public-key")?;
    ensure!(next.is_empty(), "still announced: {next}");
    ensure!(generation(&bed, 1)? == 1, "another generation");
    matrix::all_reached(&bed.matrix().run())
}

fn revoked(context: &Context) -> Result<()> {
    let bed = mesh(context, 3)?;
    let first = annotation(&bed, 1, "public-key")?;
    loses_nothing(&bed, "between two others", &[(2, 3)], || {
        let (key, before) = (annotation(&bed, 1, "public-key")?, generation(&bed, 1)?);
        ask(&bed, 1, Verb::Revoke, before)?;
        until(PHASE_DEADLINE, "another key", || {
            ensure!(annotation(&bed, 1, "public-key")? != key, "the same");
            ensure!(generation(&bed, 1)? == before + 1, "not yet");
            ensure!(
                annotation(&bed, 1, "previous-public-key")?.is_empty(),
                "kept"
            );
            Ok(())
        })
    })?;
    until(CONVERGENCE, "the mesh to be whole", || {
        matrix::all_reached(&bed.matrix().run())
    })?;
    let key = annotation(&bed, 1, "public-key")?;
    ensure!(key != first, "the first key");
    for number in [2, 3] {
        let row = peer(bed.node(number), "node-1")?;
        ensure!(row.public_key.as_ref() == Some(&key), "{row:?}");
    }
    Ok(())
}

fn of_no_effect(context: &Context) -> Result<()> {
    let bed = mesh(context, 2)?;
    let record = |number| {
        let path = bed.directory().record_path(bed.node(number).name());
        std::fs::read_to_string(path).context("a record")
    };
    let before = [record(1)?, record(2)?];
    let streams = Streams::start(&bed, &[(1, 2)])?;
    let long = "x".repeat(100_000);
    let words = [
        "",
        "yes",
        "if-key-generation=,by=test",
        "if-key-generation=-1,by=test",
        "if-key-generation=0,by=test",
        "if-key-generation=7,by=test",
        "if-key-generation=18446744073709551615,by=test",
        "if-key-generation=1,by=",
        &long,
    ];
    let verbs = [Verb::Rotate, Verb::Abort, Verb::Revoke];
    for (verb, words) in verbs.into_iter().cycle().zip(words) {
        ask_in_words(&bed, 1, verb, words)?;
        // The agent has looked at the next by when so many have passed.
        streams.flow()?;
    }
    // Of the present generation, but there is nothing to be taken back.
    ask(&bed, 1, Verb::Abort, 1)?;
    streams.flow()?;
    let counts = streams.stop()?;
    ensure!(lost(&counts) == 0, "{counts:?}");
    ensure!(before == [record(1)?, record(2)?], "a record has changed");
    // And one that counts does, once.
    rotate(&bed, &[1])?;
    ask(&bed, 1, Verb::Rotate, 1)?;
    let streams = Streams::start(&bed, &[(1, 2)])?;
    streams.flow()?;
    streams.stop()?;
    ensure!(generation(&bed, 1)? == 2, "a replayed request counted");
    Ok(())
}
