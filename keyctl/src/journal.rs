//! What is told while something goes on, line by line; and what has become of each node, for
//! programs.

use std::fmt::Display;

use jiff::Timestamp;
use podwire_core::node::NodeName;
use serde::Serialize;

use crate::args::Data;
use crate::output::data;
use crate::show::{print_text, tell_line};

/// `kind` in JSON and YAML.
const KIND: &str = "RotationList";

/// What has become of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ending {
    pub(crate) name: String,
    /// A word.
    pub(crate) result: &'static str,
    /// Why, in a word, where it is not what was asked for.
    pub(crate) reason: Option<&'static str>,
    /// The same as a sentence.
    pub(crate) message: Option<String>,
    pub(crate) key_generation: Option<u64>,
    pub(crate) rotation_phase: Option<String>,
}

/// Where it is told. Data has standard output for itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Journal {
    format: Option<Data>,
}

impl Journal {
    pub(crate) const fn new(format: Option<Data>) -> Self {
        Self { format }
    }

    /// Tells something of a node, with the time.
    pub(crate) fn note(self, node: &NodeName, what: impl Display) -> anyhow::Result<()> {
        self.line(&entry(Timestamp::now(), node, what))
    }

    /// Tells something, without the time.
    pub(crate) fn line(self, text: &str) -> anyhow::Result<()> {
        if self.format.is_some() {
            tell_line(text);
            return Ok(());
        }
        print_text(&format!("{text}\n")).map(drop)
    }

    /// Prints what has become of the nodes, where data is wanted.
    pub(crate) fn end(self, endings: &[Ending]) -> anyhow::Result<()> {
        match self.format {
            None => Ok(()),
            Some(format) => print_text(&data(KIND, endings, format)?).map(drop),
        }
    }
}

fn entry(now: Timestamp, node: &NodeName, what: impl Display) -> String {
    format!("{now:.0}  {node}: {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_and_of_whom() {
        let now: Timestamp = "2026-03-01T12:00:00.7Z".parse().expect("a time");
        let line = entry(now, &"node-3".parse().expect("a name"), "announced");
        assert_eq!(line, "2026-03-01T12:00:00Z  node-3: announced");
    }
}
