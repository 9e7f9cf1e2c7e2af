//! `keyctl wait`: waits until nodes' keys are as they should be.

use std::collections::BTreeSet;

use podwire_core::node::NodeName;

use crate::args::WaitArgs;
use crate::condition::Condition;
use crate::journal::Journal;
use crate::looker::Looker;
use crate::outcome::Outcome;
use crate::selection::check;
use crate::show::tell;
use crate::source::Source;
use crate::stage::Look;

/// Waits for all nodes that are named.
///
/// # Errors
/// When one is not there or has no keys, and when nothing can be read.
pub(crate) async fn wait(program: &str, args: &WaitArgs) -> anyhow::Result<Outcome> {
    let source = Source::open(&args.source).await?;
    let mut looker = Looker::new(program, &source, Some(args.timeout));
    let journal = Journal::new(None);
    let mut left: BTreeSet<&NodeName> = args.nodes.iter().collect();
    let mut look = looker.first().await?;
    loop {
        for node in met(args.condition, &left, &look)? {
            journal.line(&format!("{node}: {} is met", args.condition))?;
            left.remove(node);
        }
        if left.is_empty() {
            return Ok(Outcome::Ok);
        }
        let Some(next) = looker.next().await? else {
            let names: Vec<String> = left.iter().map(ToString::to_string).collect();
            let names = names.join(", ");
            tell(
                program,
                &format!("the time is over: {} is not met by {names}", args.condition),
            );
            return Ok(Outcome::TimedOut);
        };
        look = next;
    }
}

/// Which of these nodes are as they should be.
fn met<'a>(
    condition: Condition,
    left: &BTreeSet<&'a NodeName>,
    look: &Look,
) -> anyhow::Result<Vec<&'a NodeName>> {
    let mut met = Vec::new();
    for node in left {
        check(node, look)?;
        let keys = look.get(*node).and_then(|seen| seen.keys.as_ref().ok());
        if keys.is_some_and(|keys| condition.holds(keys)) {
            met.push(*node);
        }
    }
    Ok(met)
}
