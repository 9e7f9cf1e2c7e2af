//! `keyctl rotate`: asks nodes to replace their keys, and tells how it goes.

use std::path::Path;
use std::time::Instant;

use jiff::Timestamp;
use podwire_core::node::NodeName;
use podwire_core::request::Verb;

use crate::age;
use crate::args::RotateArgs;
use crate::fleet::{Fleet, News, State, What, Why};
use crate::journal::{Ending, Journal};
use crate::local_agent::{Counts, counts};
use crate::looker::Looker;
use crate::outcome::Outcome;
use crate::selection::{Named, Selection, select};
use crate::show::{tell, tell_line};
use crate::source::Source;
use crate::stage::{Look, Seen, Stage};
use crate::write::{Remedy, Writer};

/// A run and all that it uses.
struct Run<'a> {
    program: &'a str,
    looker: Looker<'a>,
    writer: Writer<'a>,
    journal: Journal,
    fleet: Fleet,
    look: Look,
    run_dir: &'a Path,
    /// What this machine's agent told last.
    counts: Option<Counts>,
}

/// Rotates the nodes that are named, within the share.
///
/// # Errors
/// When nothing can be read, or a request is not taken for a reason that stays.
pub(crate) async fn rotate(program: &str, args: &RotateArgs) -> anyhow::Result<Outcome> {
    let source = Source::open(&args.asking.source).await?;
    let mut looker = Looker::new(program, &source, args.asking.follow.timeout);
    let look = looker.first().await?;
    let named = match (&args.which.selector, args.which.all) {
        (Some(selector), _) => Named::Chosen(source.labelled(selector).await?),
        (None, true) => Named::Chosen(look.keys().cloned().collect()),
        (None, false) => Named::Nodes(args.which.nodes.iter().cloned().collect()),
    };
    let begun = Timestamp::now();
    let older_than = args.older_than.map(|than| than.time(begun));
    let selection = select(&named, &look, older_than, begun)?;
    tell_left_out(program, &selection);
    let names = selection.nodes.iter().cloned();
    let fleet = Fleet::new(args.max_unavailable, names, &look, Instant::now());
    let run = Run {
        program,
        writer: Writer::new(&source, args.asking.dry_run).await?,
        looker,
        journal: Journal::new(args.asking.output),
        fleet,
        look,
        run_dir: &args.agent.run_dir,
        counts: None,
    };
    if args.asking.dry_run {
        return run.rehearse().await;
    }
    if selection.nodes.len() > 1 {
        let room = run.fleet.room(&run.look);
        let resume = older_than.unwrap_or(begun);
        tell_line(&format!(
            "{program}: {} nodes, at most {room} of the mesh in rotation at once. Once interrupted, \
             go on with the same command and --older-than {resume:.0}",
            selection.nodes.len()
        ));
    }
    run.tell_asked()?;
    if args.asking.follow.wait {
        run.follow().await
    } else {
        run.begin().await
    }
}

fn tell_left_out(program: &str, selection: &Selection) {
    if selection.host_network > 0 {
        let count = selection.host_network;
        tell(
            program,
            &format!("left out: {count} in host-network mode, without keys"),
        );
    }
    if selection.younger > 0 {
        let count = selection.younger;
        tell(program, &format!("left out: {count} with younger keys"));
    }
    for (name, by) in &selection.ahead {
        let by = age::in_units(by.unsigned_abs().as_secs());
        let told = format!(
            "{name}: its keys are from {by} ahead of this machine's clock, so nobody knows their \
             age: it is not left out. Set the clock that is wrong"
        );
        tell(program, &told);
    }
}

impl Run<'_> {
    /// Goes on until nobody is waited for.
    async fn follow(mut self) -> anyhow::Result<Outcome> {
        loop {
            self.step().await?;
            self.tell_counts().await?;
            if self.fleet.is_over() {
                return self.end();
            }
            match self.looker.next().await? {
                Some(look) => self.look = look,
                None => return self.give_up().await,
            }
        }
    }

    /// Tells whom another run has asked, or somebody else.
    fn tell_asked(&self) -> anyhow::Result<()> {
        let targets = self.fleet.targets().iter();
        let mut asked = targets.filter(|(_, it)| matches!(it.state, State::Asked { .. }));
        asked.try_for_each(|(name, target)| {
            let what = format!("is asked already, key generation {}", target.generation);
            self.journal.note(name, what)
        })
    }

    /// Asks whom there is room for, and leaves it at that.
    async fn begin(mut self) -> anyhow::Result<Outcome> {
        self.step().await?;
        let targets = self.fleet.targets();
        let waiting = targets.values();
        let left = waiting.filter(|it| it.state == State::Waiting).count();
        if left > 0 {
            let all = targets.len();
            tell(
                self.program,
                &format!("not asked: {left} of {all}, as there is no room for more at once"),
            );
        }
        let program = self.program;
        tell_line(&format!(
            "{program}: follow it with `{program} status --watch`"
        ));
        let ended = self.end()?;
        Ok(ended.max(Outcome::of(left > 0)))
    }

    /// Tells what has happened, and asks whom there is room for.
    async fn step(&mut self) -> anyhow::Result<()> {
        let news = self.fleet.look(&self.look, Instant::now());
        for it in &news {
            self.journal.note(&it.node, sentence(it))?;
            if it.what == What::Skipped(Why::NoAnswer) {
                self.take_back(&it.node).await;
            }
        }
        for (name, target) in self.fleet.to_ask(&self.look) {
            let generation = target.generation;
            let asked = self
                .writer
                .ask(&name, &target.uid, Verb::Rotate, generation);
            match asked.await {
                Ok(()) => {
                    self.fleet.asked(&name, Instant::now());
                    let what = format!("asked to rotate, key generation {generation}");
                    self.journal.note(&name, what)?;
                }
                Err(error) => match error.remedy() {
                    Remedy::None => return Err(error.into()),
                    // The next look tells.
                    Remedy::ItIsGone => {}
                    Remedy::TryAgain => {
                        self.looker.tell_trouble(error.into());
                        break;
                    }
                },
            }
        }
        Ok(())
    }

    /// Tells how many peers have confirmed, if it is this machine's node that waits for them.
    async fn tell_counts(&mut self) -> anyhow::Result<()> {
        let Some((name, counts)) = counts(self.run_dir).await else {
            return Ok(());
        };
        let stage = self.look.get(&name).and_then(Seen::stage);
        let is_waiting =
            stage == Some(Stage::Announced) && self.fleet.targets().contains_key(&name);
        if is_waiting && self.counts.as_ref() != Some(&counts) {
            self.journal.note(&name, counts.sentence())?;
            self.counts = Some(counts);
        }
        Ok(())
    }

    /// Takes back what a node was asked that does not answer: else it would rotate whenever its
    /// agent comes back, with nobody watching.
    async fn take_back(&mut self, name: &NodeName) {
        let Some(target) = self.fleet.targets().get(name) else {
            return;
        };
        let generation = target.generation;
        let back = self
            .writer
            .take_back(name, &target.uid, Verb::Rotate, generation);
        if let Err(error) = back.await {
            self.looker.tell_trouble(error.into());
        }
    }

    async fn give_up(mut self) -> anyhow::Result<Outcome> {
        let targets = self.fleet.targets().iter();
        let asked = targets.filter(|(_, target)| matches!(target.state, State::Asked { .. }));
        let asked: Vec<NodeName> = asked.map(|(name, _)| name.clone()).collect();
        for name in &asked {
            self.take_back(name).await;
        }
        tell(
            self.program,
            "the time is over; nodes in rotation go on by themselves",
        );
        self.end()?;
        Ok(Outcome::TimedOut)
    }

    /// Asks the API server whether it would take all requests.
    async fn rehearse(mut self) -> anyhow::Result<Outcome> {
        self.fleet.look(&self.look, Instant::now());
        let room = self.fleet.room(&self.look);
        for (name, target) in self.fleet.targets() {
            let generation = target.generation;
            let what = match target.state {
                State::Waiting => {
                    self.writer
                        .ask(name, &target.uid, Verb::Rotate, generation)
                        .await?;
                    format!("would be asked to rotate, key generation {generation}")
                }
                State::Asked { .. } => "is asked already".to_owned(),
                State::Rotating | State::Done => "is in rotation already".to_owned(),
                State::Skipped(why) => format!("would be skipped: {why}"),
            };
            self.journal.line(&format!("{name}: {what} (dry run)"))?;
        }
        tell(
            self.program,
            &format!("at most {room} of the mesh would be in rotation at once"),
        );
        self.end()
    }

    /// Tells what it came to.
    fn end(&self) -> anyhow::Result<Outcome> {
        let targets = self.fleet.targets();
        let endings: Vec<Ending> = targets
            .iter()
            .map(|(name, target)| self.ending(name, target.state))
            .collect();
        self.journal.end(&endings)?;
        let count = |is: fn(State) -> bool| targets.values().filter(|it| is(it.state)).count();
        let skipped = count(|state| matches!(state, State::Skipped(_)));
        let done = count(|state| state == State::Done);
        if targets.is_empty() {
            tell(self.program, "there is nothing to do");
        } else if targets.len() > 1 && !self.writer.is_dry_run() {
            let all = targets.len();
            self.journal
                .line(&format!("{done} of {all} nodes are rotated"))?;
        }
        if skipped > 0 {
            let all = targets.len();
            tell(self.program, &format!("skipped: {skipped} of {all}"));
        }
        Ok(Outcome::of(skipped > 0))
    }

    fn ending(&self, name: &NodeName, state: State) -> Ending {
        let seen = self.look.get(name);
        let keys = seen.and_then(|seen| seen.keys.as_ref().ok());
        let why = match state {
            State::Skipped(why) => Some(why),
            State::Waiting | State::Asked { .. } | State::Rotating | State::Done => None,
        };
        Ending {
            name: name.to_string(),
            result: match state {
                State::Waiting if self.writer.is_dry_run() => "would-be-asked",
                State::Waiting => "not-asked",
                State::Asked { .. } => "asked",
                State::Rotating => "in-rotation",
                State::Done => "rotated",
                State::Skipped(_) => "skipped",
            },
            reason: why.map(Why::as_str),
            message: why.map(|why| why.to_string()),
            key_generation: keys.map(|keys| keys.generation),
            rotation_phase: keys.map(|keys| keys.stage.as_str().to_owned()),
        }
    }
}

/// News in words.
fn sentence(news: &News) -> String {
    match &news.what {
        What::Announced => format!("{}, peers confirm the new keys", Stage::Announced.as_str()),
        What::Promoted(keys) => {
            let counts = keys.confirmed();
            let counts = counts.map_or_else(String::new, |it| format!(" ({it} confirmed)"));
            format!("promoted, key generation {}{counts}", keys.generation)
        }
        What::Retired(keys) => format!("retired the old keys, key generation {}", keys.generation),
        What::Skipped(why) => format!("skipped: {why}"),
    }
}
