//! `keyctl abort` and `keyctl revoke`: one request to one node, and what comes of it.

use std::time::Instant;

use anyhow::{Result, bail};
use podwire_core::node::NodeName;
use podwire_core::request::Verb;

use crate::args::AskArgs;
use crate::errand::{Progress, Refusal, Start, abort, progress};
use crate::fleet::ANSWER_WITHIN;
use crate::journal::{Ending, Journal};
use crate::looker::Looker;
use crate::outcome::Outcome;
use crate::selection::{SelectionError, check};
use crate::show::tell;
use crate::source::Source;
use crate::stage::{Keys, Look, Seen};
use crate::write::Writer;

/// An errand and all that it uses.
struct Errand<'a> {
    program: &'a str,
    verb: Verb,
    node: &'a NodeName,
    looker: Looker<'a>,
    writer: Writer<'a>,
    journal: Journal,
    /// The node that was meant.
    uid: String,
    /// The generation of the keys that were asked of.
    generation: u64,
    asked: Instant,
}

/// Asks a node for something other than a rotation.
///
/// # Errors
/// When it cannot be asked, and when it is too late.
pub(crate) async fn ask(program: &str, verb: Verb, args: &AskArgs) -> Result<Outcome> {
    let source = Source::open(&args.asking.source).await?;
    let mut looker = Looker::new(program, &source, args.asking.follow.timeout);
    let look = looker.first().await?;
    check(&args.node, &look)?;
    let (seen, keys) = keys_of(&look, &args.node)?;
    let start = match verb {
        Verb::Abort => abort(&args.node, seen, keys)?,
        Verb::Rotate | Verb::Revoke => Start::Ask,
    };
    let mut errand = Errand {
        program,
        verb,
        node: &args.node,
        looker,
        writer: Writer::new(&source, args.asking.dry_run).await?,
        journal: Journal::new(args.asking.output),
        uid: seen.uid.clone(),
        generation: keys.generation,
        asked: Instant::now(),
    };
    if start == Start::Ask {
        errand.write().await?;
    }
    if args.asking.dry_run || !args.asking.follow.wait {
        let result = if args.asking.dry_run {
            "would-be-asked"
        } else {
            "asked"
        };
        return errand.end(result, None, Some(keys), Outcome::Ok);
    }
    errand.follow(look).await
}

/// A node's keys, which were there before.
fn keys_of<'a>(look: &'a Look, node: &NodeName) -> Result<(&'a Seen, &'a Keys), SelectionError> {
    check(node, look)?;
    let seen = &look[node];
    match &seen.keys {
        Ok(keys) => Ok((seen, keys)),
        Err(why) => Err(SelectionError::NoKeys(node.clone(), *why)),
    }
}

impl Errand<'_> {
    async fn write(&mut self) -> Result<()> {
        let asked = self
            .writer
            .ask(self.node, &self.uid, self.verb, self.generation);
        asked.await?;
        self.asked = Instant::now();
        let (verb, generation) = (self.verb.name(), self.generation);
        let what = if self.writer.is_dry_run() {
            format!("would be asked to {verb}, key generation {generation} (dry run)")
        } else {
            format!("asked to {verb}, key generation {generation}")
        };
        self.journal.note(self.node, what)
    }

    /// Looks until it is done, or nobody answers.
    async fn follow(mut self, mut look: Look) -> Result<Outcome> {
        loop {
            let (seen, keys) = keys_of(&look, self.node)?;
            if seen.uid != self.uid {
                bail!("{} was deleted, or created again", self.node);
            }
            match (progress(self.verb, self.generation, keys), self.verb) {
                (Progress::Done, _) => return self.done(keys),
                (Progress::TooLate, Verb::Revoke) => {
                    // A rotation came first, and the keys that are to go still receive.
                    self.generation = keys.generation;
                    self.write().await?;
                }
                (Progress::TooLate, _) => {
                    return Err(Refusal::Promoted(self.node.clone(), keys.generation).into());
                }
                (Progress::Pending, _) if self.asked.elapsed() >= ANSWER_WITHIN => {
                    return self.unanswered(keys);
                }
                (Progress::Pending, _) => {}
            }
            let keys = keys.clone();
            let Some(next) = self.looker.next().await? else {
                tell(self.program, "the time is over; the request stands");
                return self.end("asked", None, Some(&keys), Outcome::TimedOut);
            };
            look = next;
        }
    }

    fn done(&self, keys: &Keys) -> Result<Outcome> {
        let generation = keys.generation;
        let (result, what) = match self.verb {
            Verb::Abort => (
                "aborted",
                format!("aborted, the keys of generation {generation} stay"),
            ),
            Verb::Rotate | Verb::Revoke => (
                "revoked",
                format!("revoked, key generation {generation}: the old keys are refused"),
            ),
        };
        self.journal.note(self.node, what)?;
        self.end(result, None, Some(keys), Outcome::Ok)
    }

    fn unanswered(&self, keys: &Keys) -> Result<Outcome> {
        let mut message = format!(
            "{}'s agent did not answer within {}m: does it run, and reach the registry? The \
             request stands.",
            self.node,
            ANSWER_WITHIN.as_secs() / 60
        );
        if self.verb == Verb::Revoke {
            message += " If others have the node, evict it: delete the Node and take its kubelet's \
                        credentials (docs/key-rotation.md)";
        }
        tell(self.program, &message);
        self.end("asked", Some(message), Some(keys), Outcome::Degraded)
    }

    fn end(
        &self,
        result: &'static str,
        message: Option<String>,
        keys: Option<&Keys>,
        outcome: Outcome,
    ) -> Result<Outcome> {
        self.journal.end(&[Ending {
            name: self.node.to_string(),
            result,
            reason: message.as_ref().map(|_| "no-answer"),
            message,
            key_generation: keys.map(|keys| keys.generation),
            rotation_phase: keys.map(|keys| keys.stage.as_str().to_owned()),
        }])?;
        Ok(outcome)
    }
}
