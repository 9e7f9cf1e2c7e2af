//! What the rules say of one node, in a word or two.

use std::collections::BTreeMap;
use std::fmt;

use podwire_core::mesh::DesiredMesh;
use podwire_core::node::Node;
use podwire_core::record::{Mode, Record};
use podwire_registry::nodes::Nodes;
use podwire_registry::refusals::{Reason, Refused, refusals};

use crate::rules::asks_for_host_network;

/// The word beside `plaintext` where no operator asked for it.
pub(crate) const UNDECLARED: &str = "undeclared";

/// What the rules say of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) state: State,
    /// What is wrong, as a sentence.
    pub(crate) message: Option<String>,
}

/// Whether a node takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It takes part, encrypted.
    Ok,
    /// It takes part in host-network mode, as an operator's request asks it to.
    Plaintext,
    /// It takes part in host-network mode, and no request asks it to.
    Undeclared,
    /// It takes part without what the reason names.
    Partial(Reason),
    /// It has no record yet.
    NoRecord,
    /// It does not take part.
    Refused(Reason),
}

impl State {
    /// The word that programs look for.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Plaintext | Self::Undeclared => "plaintext",
            Self::Partial(_) => "partial",
            Self::NoRecord => "no-record",
            Self::Refused(_) => "refused",
        }
    }

    /// The word that says why.
    pub(crate) const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Ok | Self::Plaintext | Self::NoRecord => None,
            Self::Undeclared => Some(UNDECLARED),
            Self::Partial(reason) | Self::Refused(reason) => Some(reason.as_str()),
        }
    }

    /// Whether an operator should look.
    pub(crate) const fn is_degraded(self) -> bool {
        match self {
            Self::Ok | Self::Plaintext => false,
            Self::Undeclared | Self::Partial(_) | Self::NoRecord | Self::Refused(_) => true,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&with_reason(self.as_str(), self.reason()))
    }
}

/// A word with the reason behind it, without blanks, so that columns stay columns.
pub(crate) fn with_reason(word: &str, reason: Option<&str>) -> String {
    reason.map_or_else(|| word.to_owned(), |reason| format!("{word}:{reason}"))
}

/// Verdicts on all Nodes that are not the mesh's own.
pub(crate) struct Verdicts(BTreeMap<String, Refused>);

impl Verdicts {
    pub(crate) fn new(nodes: &Nodes, mesh: &DesiredMesh) -> Self {
        Self(refusals(nodes, &BTreeMap::new(), Some(mesh)))
    }

    /// All that is refused, or a part of which is, by name.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (&String, &Refused)> {
        self.0.iter()
    }

    /// Their names.
    pub(crate) fn refused_names(&self) -> impl Iterator<Item = String> + '_ {
        self.0.keys().cloned()
    }

    /// The verdict on what has this name, with the Node and its record as far as they can be read.
    pub(crate) fn on(
        &self,
        name: &str,
        node: Option<(&Node, &Record)>,
        is_accepted: bool,
    ) -> Verdict {
        let mode = mode_verdict(node);
        let Some(Refused { reason, message }) = self.0.get(name) else {
            return mode;
        };
        // What nobody asked for matters more than a part that does not count.
        if is_accepted && mode.state == State::Undeclared {
            return mode;
        }
        let state = if is_accepted {
            State::Partial(*reason)
        } else if *reason == Reason::NoRecord {
            State::NoRecord
        } else {
            State::Refused(*reason)
        };
        Verdict {
            state,
            message: Some(message.clone()),
        }
    }
}

/// What its mode makes of a node that is accepted.
fn mode_verdict(node: Option<(&Node, &Record)>) -> Verdict {
    let (state, message) = match node {
        Some((node, record)) if record.mode == Mode::HostNetwork => {
            if asks_for_host_network(node) {
                (State::Plaintext, None)
            } else {
                (State::Undeclared, Some(undeclared(node, record)))
            }
        }
        Some(_) | None => (State::Ok, None),
    };
    Verdict { state, message }
}

fn undeclared(node: &Node, record: &Record) -> String {
    let plaintext = "its pods' traffic is plaintext, as its record declares host-network mode";
    if record.current.is_some() {
        // An agent's own record names no key then.
        return format!(
            "{plaintext}, and its agent did not write that, as its keys are still there: find \
             out who can write to Node {}",
            node.name
        );
    }
    format!(
        "{plaintext}, and no request asks for that: if it is meant, annotate the Node with \
         request.podwire.dev/mode=to=host-network,by=YOU; if not, see its agent's --mode and \
         whether the node has a usable /dev/net/tun"
    )
}
