//! What a rotation's tests ask for, look at and count.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use podwire_testbed::{IpVersion, Testbed, UdpCount, UdpCounter, until};

/// A phase that waits for nothing but handshakes is over within seconds; the machine may be busy.
pub(crate) const PHASE_DEADLINE: Duration = Duration::from_secs(60);

/// The keys of before are refused 180 s after the record that promotes; the machine may be busy.
pub(crate) const RETIRED_DEADLINE: Duration = Duration::from_secs(300);

/// Datagrams a second, each way.
pub(crate) const RATE: u32 = 10_000;

/// Seconds of each stream before and after what is counted.
const MARGIN_SECONDS: u64 = 2;

/// Runs of which each may be inconclusive.
pub(crate) const TRIES: usize = 3;

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
    bed.directory()
        .replace(&request_path(bed, number), &request)
}

/// Takes back whatever was asked.
pub(crate) fn withdraw_request(bed: &Testbed, number: u8) -> Result<()> {
    let path = request_path(bed, number);
    fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
}

fn request_path(bed: &Testbed, number: u8) -> PathBuf {
    let name = format!("{}.request.yaml", bed.node(number).name());
    bed.directory().path().join(name)
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

/// The phase that a node has on its disk.
pub(crate) fn phase_on_disk(bed: &Testbed, number: u8) -> Result<String> {
    let text = fs::read_to_string(bed.node(number).state_dir().join("keys"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("phase="));
    Ok(line.context("no phase")?.to_owned())
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

/// Datagrams between pods of pairs of nodes, each way.
pub(crate) struct Streams {
    per_second: u32,
    counters: Vec<(String, UdpCounter)>,
}

impl Streams {
    /// At [`RATE`].
    pub(crate) fn start(bed: &Testbed, pairs: &[(u8, u8)]) -> Result<Self> {
        Self::start_at(bed, pairs, RATE)
    }

    pub(crate) fn start_at(bed: &Testbed, pairs: &[(u8, u8)], per_second: u32) -> Result<Self> {
        let ways = pairs
            .iter()
            .flat_map(|(one, two)| [(*one, *two, IpVersion::V4), (*two, *one, IpVersion::V6)]);
        let started = ways.map(|(from, to, version)| {
            let (sender, receiver) = (bed.pod(from, 1).host(), bed.pod(to, 1).host());
            let counter = bed.udp_counter(sender, receiver, version, per_second)?;
            Ok((format!("{from} to {to}"), counter))
        });
        let streams = Self {
            per_second,
            counters: started.collect::<Result<_>>()?,
        };
        streams.flow()?;
        Ok(streams)
    }

    /// Waits until each has brought [`MARGIN_SECONDS`] more.
    pub(crate) fn flow(&self) -> Result<()> {
        self.flow_for(MARGIN_SECONDS)
    }

    /// Waits until each has brought what it sends in so many seconds.
    pub(crate) fn flow_for(&self, seconds: u64) -> Result<()> {
        let more = seconds * u64::from(self.per_second);
        let deadline = Duration::from_secs(seconds) + PHASE_DEADLINE;
        let (names, counters): (Vec<_>, Vec<_>) =
            self.counters.iter().map(|(name, it)| (name, it)).unzip();
        UdpCounter::wait_for_more_of_each(&counters, more, deadline)
            .with_context(|| format!("of {names:?}"))
    }

    pub(crate) fn stop(self) -> Result<Vec<(String, UdpCount)>> {
        let stopped = self.counters.into_iter();
        stopped
            .map(|(name, counter)| Ok((name, counter.stop()?)))
            .collect()
    }
}

/// What all streams together have sent.
pub(crate) fn sent(counts: &[(String, UdpCount)]) -> u64 {
    counts.iter().map(|(_, count)| count.sent).sum()
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
