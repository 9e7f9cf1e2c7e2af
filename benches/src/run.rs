//! A whole run: every measure, round by round, implementations in turns.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Error, Result, anyhow};

use crate::aead_floor;
use crate::args::RunArgs;
use crate::contestant::Contestant;
use crate::contestant::kernel::NotInKernel;
use crate::implementation::Implementation;
use crate::measure::{Direction, Kind, Measure, SENDERS};
use crate::output::Output;
use crate::programs::Programs;
use crate::progress::Progress;
use crate::proof;
use crate::sample::{Absence, Results, Sample};
use crate::start;
use crate::take::{Method, Taken};

/// Set by the first Ctrl-C: what was measured is kept.
pub(crate) type Interrupted = Arc<AtomicBool>;

/// A run and what it has measured so far.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) args: &'a RunArgs,
    pub(crate) programs: &'a Programs,
    pub(crate) output: &'a Output,
    pub(crate) progress: &'a Progress,
    pub(crate) interrupted: &'a Interrupted,
    pub(crate) results: Results,
    method: Method,
}

/// Rounds of meshes of many nodes at most.
const ROUNDS_MANY: u32 = 3;

/// Implementations of two nodes that run side by side.
type Contestants = BTreeMap<Implementation, Contestant>;

impl<'a> Run<'a> {
    pub(crate) fn new(
        args: &'a RunArgs,
        programs: &'a Programs,
        output: &'a Output,
        progress: &'a Progress,
        interrupted: &'a Interrupted,
        results: Results,
    ) -> Self {
        let method = Method {
            seconds: args.seconds(),
            congestion: args.congestion.clone(),
        };
        Self {
            args,
            programs,
            output,
            progress,
            interrupted,
            results,
            method,
        }
    }

    /// Measures everything, and keeps it as it comes.
    ///
    /// # Errors
    /// The file system's. What one implementation cannot is an [`Absence`].
    pub(crate) fn all(&mut self) -> Result<()> {
        let wanted = self.args.implementations();
        for (implementation, reason) in &self.programs.missing {
            self.absent(*implementation, None, &anyhow!("{reason}"));
        }
        let contestants = self.bring_up(&wanted);
        let mut measures: Vec<Measure> = self
            .args
            .kinds()
            .into_iter()
            .filter(|kind| !matches!(kind, Kind::Many | Kind::Start))
            .flat_map(Measure::of)
            .collect();
        if self.args.quick {
            measures.retain(|measure| is_quick(*measure));
        }
        for round in 1..=self.args.rounds() {
            if self.is_interrupted() {
                break;
            }
            self.floor(round);
            for measure in &measures {
                self.round(&contestants, *measure, round)?;
            }
        }
        drop(contestants);
        if self.args.kinds().contains(&Kind::Many) {
            self.many(&wanted)?;
        }
        if self.args.kinds().contains(&Kind::Start) {
            self.starts(&wanted)?;
        }
        self.results.interrupted = self.is_interrupted();
        self.output.keep(&self.results)
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    fn absent(&mut self, implementation: Implementation, measure: Option<Measure>, error: &Error) {
        // A row of a list: what a program said over several lines becomes one.
        let reason = format!("{error:#}");
        let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
        self.progress.tell(&match measure {
            None => format!("{implementation} is left out: {reason}"),
            Some(measure) => format!("{implementation}: no {measure}: {reason}"),
        });
        self.results.absences.push(Absence {
            implementation,
            measure,
            not_in_kernel: error.is::<NotInKernel>(),
            reason,
        });
    }

    /// Brings up everything that comes up, and sees that its traffic goes where it should.
    fn bring_up(&mut self, wanted: &[Implementation]) -> Contestants {
        let mut contestants = Contestants::new();
        for implementation in wanted {
            if self.is_interrupted() || self.programs.missing.contains_key(implementation) {
                continue;
            }
            self.progress.step(&format!("bringing up {implementation}"));
            let up = Contestant::bring_up(*implementation, 2, self.programs)
                .and_then(|contestant| proof::carries(&contestant).map(|()| contestant));
            match up {
                Ok(contestant) => drop(contestants.insert(*implementation, contestant)),
                Err(error) => self.absent(*implementation, None, &error),
            }
        }
        contestants
    }

    fn floor(&mut self, round: u32) {
        self.progress
            .step(&format!("round {round}: the AEAD floor"));
        match aead_floor::measure() {
            Ok(floor) => self.results.aead_floor.push((round, floor)),
            Err(error) => self.progress.tell(&format!("no AEAD floor: {error:#}")),
        }
    }

    /// One measure of each.
    fn round(&mut self, contestants: &Contestants, measure: Measure, round: u32) -> Result<()> {
        for implementation in in_turns(contestants.keys().copied(), round) {
            let Some(contestant) = contestants.get(&implementation) else {
                continue;
            };
            let method = self.method.clone();
            let near = self.last(implementation, measure);
            self.attempt(implementation, measure, round, || {
                method.take(contestant, measure, near)
            });
        }
        self.keep()
    }

    /// Meshes of many nodes: one at a time, as two do not fit. Fewer rounds than others: most of
    /// the time goes into bringing them up.
    fn many(&mut self, wanted: &[Implementation]) -> Result<()> {
        let senders = if self.args.quick {
            &SENDERS[..1]
        } else {
            &SENDERS
        };
        let measures: Vec<Measure> = senders
            .iter()
            .map(|nodes| Measure::Many { nodes: *nodes })
            .collect();
        // So many that send, and the one that they send to.
        let nodes = senders.iter().max().map_or(1, |most| most + 1);
        for round in 1..=self.args.rounds().min(ROUNDS_MANY) {
            for implementation in in_turns(wanted.iter().copied(), round) {
                let all_failed = |measure: &Measure| self.gave_up(implementation, *measure);
                if self.is_interrupted() || measures.iter().all(all_failed) {
                    continue;
                }
                let step = format!("round {round}: {nodes} nodes: {implementation}");
                self.progress.step(&step);
                let up = Contestant::bring_up(implementation, nodes, self.programs);
                let up = up.and_then(|contestant| {
                    contestant.bed.capture().suspend(true)?;
                    Ok(contestant)
                });
                for measure in &measures {
                    let method = self.method.clone();
                    self.attempt(implementation, *measure, round, || match &up {
                        Ok(contestant) => method.take(contestant, *measure, None),
                        Err(error) => Err(anyhow!("{error:#}")),
                    });
                }
            }
            self.keep()?;
        }
        Ok(())
    }

    fn starts(&mut self, wanted: &[Implementation]) -> Result<()> {
        for round in 1..=self.args.rounds() {
            let started = wanted.iter().copied().filter(|one| one.has_process());
            for implementation in in_turns(started, round) {
                let programs = self.programs;
                self.attempt(implementation, Measure::Start, round, || {
                    start::measure(implementation, programs)
                });
            }
            self.keep()?;
        }
        Ok(())
    }

    /// Takes one sample, unless it cannot be had; an error is an absence.
    fn attempt(
        &mut self,
        implementation: Implementation,
        measure: Measure,
        round: u32,
        take: impl FnOnce() -> Result<Taken>,
    ) {
        if self.is_interrupted() || self.gave_up(implementation, measure) {
            return;
        }
        self.progress
            .step(&format!("round {round}: {measure}: {implementation}"));
        match take() {
            Ok(taken) => self.results.samples.push(Sample {
                implementation,
                measure,
                round,
                value: taken.value,
                percentiles: taken.percentiles,
                costs: taken.costs,
            }),
            // An interrupt ends what it runs, too.
            Err(_) if self.is_interrupted() => {}
            Err(error) => self.absent(implementation, Some(measure), &error),
        }
    }

    /// What the last round has found.
    fn last(&self, implementation: Implementation, measure: Measure) -> Option<f64> {
        let mut samples = self.results.samples.iter().rev();
        let of_it =
            |sample: &&Sample| sample.implementation == implementation && sample.measure == measure;
        samples.find(of_it).map(|sample| sample.value)
    }

    /// What has failed once is not tried in every round, and who could not be brought up at all not
    /// again: it costs time, and the table says so.
    fn gave_up(&self, implementation: Implementation, measure: Measure) -> bool {
        let is_it = |absence: &Absence| {
            let is_measure = absence.measure.is_none_or(|one| one == measure);
            absence.implementation == implementation && is_measure
        };
        self.results.absences.iter().any(is_it)
    }

    fn keep(&self) -> Result<()> {
        self.progress.show(&self.results);
        self.output.keep(&self.results)
    }
}

/// Another order in each round: whoever always came after a heavy one would always pay for it.
fn in_turns(all: impl Iterator<Item = Implementation>, round: u32) -> Vec<Implementation> {
    let mut order: Vec<_> = all.collect();
    if order.is_empty() {
        return order;
    }
    if round.is_multiple_of(2) {
        order.reverse();
    }
    // A pair of rounds begins at both ends; the next one further inside.
    let first = usize::try_from(round / 2).unwrap_or(0) % order.len();
    order.rotate_left(first);
    order
}

/// The measures of `--quick`: those that the three sentences need, and one of each kind.
fn is_quick(measure: Measure) -> bool {
    match measure {
        Measure::Tcp { streams, direction } => streams <= 4 && direction == Direction::Forward,
        Measure::Udp { bytes, trains } => bytes == 64 && !trains,
        Measure::Many { nodes } => nodes == SENDERS[0],
        Measure::RttIdle | Measure::RttLoaded | Measure::Connect | Measure::Start => true,
    }
}

/// The folder of a day's results on this machine: a new one, so that no run replaces another, or
/// the one that was asked for.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn folder(args: &RunArgs, date: &str, machine: &str) -> Result<PathBuf> {
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("results");
    let first = results.join(format!("{date}-{machine}"));
    let further = (2..).map(|number| results.join(format!("{date}-{machine}-{number}")));
    let folder = args.output.clone().or_else(|| {
        let mut all = [first].into_iter().chain(further);
        all.find(|folder| !folder.exists())
    });
    let folder = folder.context("no name for a folder is left")?;
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn five_rounds_begin_with_five_others_and_nobody_always_follows_the_same() {
        let all = Implementation::value_variants();
        let rounds: Vec<Vec<_>> = (1..=5)
            .map(|round| in_turns(all.iter().copied(), round))
            .collect();
        for round in &rounds {
            let found: BTreeSet<_> = round.iter().collect();
            assert_eq!(found.len(), all.len(), "everybody has a turn: {round:?}");
        }
        let first: BTreeSet<_> = rounds.iter().filter_map(|round| round.first()).collect();
        assert_eq!(first.len(), rounds.len(), "{rounds:?}");
        for one in all {
            let before = |round: &Vec<Implementation>| {
                let place = round.iter().position(|other| other == one)?;
                place
                    .checked_sub(1)
                    .and_then(|place| round.get(place).copied())
            };
            let before: BTreeSet<_> = rounds.iter().filter_map(before).collect();
            assert!(before.len() > 1, "{one} always follows {before:?}");
        }
    }
}
