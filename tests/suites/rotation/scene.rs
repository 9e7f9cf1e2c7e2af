//! What a rotation's tests ask for, look at and count.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use podwire_testbed::{IpVersion, Testbed, UdpCount, UdpCounter, until};

/// A phase that waits for nothing but handshakes is over within seconds; the machine may be busy.
pub(crate) const PHASE_DEADLINE: Duration = Duration::from_secs(60);

/// The keys of before are refused 180 s after the record that promotes; the machine may be busy.
pub(crate) const RETIRED_DEADLINE: Duration = Duration::from_secs(300);

/// Datagrams a second, each way.
pub(crate) const RATE: u32 = 10_000;

/// Datagrams of each stream before and after what is counted.
pub(crate) const MARGIN: u64 = 2 * RATE as u64;

/// Runs of which each may be inconclusive.
const TRIES: usize = 3;

/// What is asked of a node's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Rotate,
    Abort,
    Revoke,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Rotate => "rotate",
            Self::Abort => "abort",
            Self::Revoke => "revoke",
        }
    }
}

/// Asks as keyctl does, of a node that has this key generation.
pub(crate) fn ask(bed: &Testbed, number: u8, verb: Verb, generation: u64) -> Result<()> {
    ask_in_words(
        bed,
        number,
        verb,
        &format!("if-key-generation={generation},by=test"),
    )
}

/// Asks in any words.
pub(crate) fn ask_in_words(bed: &Testbed, number: u8, verb: Verb, words: &str) -> Result<()> {
    let manifest = bed.node(number).manifest();
    let (name, uid, verb) = (&manifest.name, &manifest.uid, verb.name());
    let request = format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: {name:?}\n  uid: {uid:?}\n  \
         annotations:\n    request.podwire.dev/{verb}: {words:?}\n"
    );
    let path = bed.directory().path().join(format!("{name}.request.yaml"));
    bed.directory().replace(&path, &request)
}

/// An annotation of a node's record, whose YAML has a line for each; empty where there is none.
pub(crate) fn annotation(bed: &Testbed, number: u8, name: &str) -> Result<String> {
    let path = bed.directory().record_path(bed.node(number).name());
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let mut lines = text.lines().map(str::trim);
    let prefix = format!("podwire.dev/{name}:");
    let value = lines.find_map(|line| line.strip_prefix(&prefix));
    let value = value.unwrap_or_default().trim();
    Ok(value.trim_matches(['"', '\'']).to_owned())
}

pub(crate) fn generation(bed: &Testbed, number: u8) -> Result<u64> {
    Ok(annotation(bed, number, "key-generation")?.parse()?)
}

/// Waits until a node's record says that its rotation is in a phase, or in none.
pub(crate) fn wait_phase(bed: &Testbed, number: u8, phase: &str, deadline: Duration) -> Result<()> {
    let what = format!("node {number} to have the phase {phase:?}");
    until(deadline, &what, || {
        let now = annotation(bed, number, "rotation-phase")?;
        let is_there = now.split(' ').next() == Some(phase);
        ensure!(is_there, "it is {now:?}");
        Ok(())
    })
}

/// Rotates nodes at once and waits until each has promoted its next keys.
pub(crate) fn rotate(bed: &Testbed, numbers: &[u8]) -> Result<()> {
    let mut before = Vec::new();
    for number in numbers {
        let generation = generation(bed, *number)?;
        ask(bed, *number, Verb::Rotate, generation)?;
        before.push((*number, generation));
    }
    for (number, before) in before {
        wait_phase(bed, number, "promoted", PHASE_DEADLINE)?;
        let after = generation(bed, number)?;
        ensure!(after == before + 1, "generation {before}, then {after}");
    }
    Ok(())
}

/// Waits until nodes have nothing but their current keys.
pub(crate) fn settled(bed: &Testbed, numbers: &[u8]) -> Result<()> {
    numbers
        .iter()
        .try_for_each(|number| wait_phase(bed, *number, "", RETIRED_DEADLINE))
}

/// Datagrams between pods of pairs of nodes, each way, at [`RATE`].
pub(crate) struct Streams(Vec<(String, UdpCounter)>);

impl Streams {
    pub(crate) fn start(bed: &Testbed, pairs: &[(u8, u8)]) -> Result<Self> {
        let ways = pairs
            .iter()
            .flat_map(|(one, two)| [(*one, *two, IpVersion::V4), (*two, *one, IpVersion::V6)]);
        let started = ways.map(|(from, to, version)| {
            let (sender, receiver) = (bed.pod(from, 1).host(), bed.pod(to, 1).host());
            let counter = bed.udp_counter(sender, receiver, version, RATE)?;
            Ok((format!("{from} to {to}"), counter))
        });
        let streams = Self(started.collect::<Result<_>>()?);
        streams.flow()?;
        Ok(streams)
    }

    /// Waits until each has brought [`MARGIN`] more.
    pub(crate) fn flow(&self) -> Result<()> {
        self.0
            .iter()
            .try_for_each(|(_, counter)| counter.wait_for_more(MARGIN, PHASE_DEADLINE))
    }

    pub(crate) fn stop(self) -> Result<Vec<(String, UdpCount)>> {
        let stopped = self.0.into_iter();
        stopped
            .map(|(name, counter)| Ok((name, counter.stop()?)))
            .collect()
    }
}

/// What all streams together have lost.
pub(crate) fn lost(counts: &[(String, UdpCount)]) -> u64 {
    counts.iter().map(|(_, count)| count.lost()).sum()
}

/// Has something happen between counted datagrams, of which not one may be lost. The count says
/// something only beside the same streams without it that lose nothing.
#[expect(clippy::print_stdout, reason = "every try is told")]
pub(crate) fn loses_nothing(
    bed: &Testbed,
    what: &str,
    pairs: &[(u8, u8)],
    mut happens: impl FnMut() -> Result<()>,
) -> Result<()> {
    let mut tries = Vec::new();
    for _ in 0..TRIES {
        let control = || {
            let streams = Streams::start(bed, pairs)?;
            streams.flow()?;
            streams.stop()
        };
        let before = lost(&control()?);
        let streams = Streams::start(bed, pairs)?;
        happens().context(what.to_owned())?;
        streams.flow()?;
        let counts = streams.stop()?;
        let after = lost(&control()?);
        let told = format!(
            "{what}: lost {}, without it {before} and {after}",
            lost(&counts)
        );
        println!("{told}");
        if before == 0 && after == 0 {
            ensure!(lost(&counts) == 0, "{told}: {counts:?}");
            return Ok(());
        }
        tries.push(told);
    }
    bail!("inconclusive: {tries:?}")
}
