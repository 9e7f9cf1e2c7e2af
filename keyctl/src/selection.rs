//! Which nodes a command is about.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use podwire_core::node::NodeName;

use crate::age;
use crate::stage::{Look, NoKeys, Seen};
use crate::status::NoSuchNode;

/// What the command line names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// These.
    Nodes(BTreeSet<NodeName>),
    /// Those that a selector chose, or all.
    Chosen(BTreeSet<NodeName>),
}

/// The nodes of a run, and what is said of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) nodes: Vec<NodeName>,
    /// Nodes without encryption, which were not named one by one.
    pub(crate) host_network: usize,
    /// Nodes whose keys are not old enough.
    pub(crate) younger: usize,
    /// Nodes whose keys are of a time to come, and by how much. Nobody knows how old those are:
    /// they are taken.
    pub(crate) ahead: Vec<(NodeName, SignedDuration)>,
}

/// Why a named node cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SelectionError {
    #[error(transparent)]
    NoSuchNode(#[from] NoSuchNode),
    #[error("{0} cannot be rotated: {1}")]
    NoKeys(NodeName, NoKeys),
    #[error("no node is chosen: see `keyctl status`, and the labels of Nodes")]
    Nobody,
}

/// The nodes of a run. A node that is named must be there and have keys: nothing is begun with the
/// others of a list that is wrong.
///
/// # Errors
/// When one is not, or there is none at all.
pub(crate) fn select(
    named: &Named,
    look: &Look,
    older_than: Option<Timestamp>,
    now: Timestamp,
) -> Result<Selection, SelectionError> {
    let names = match named {
        Named::Nodes(names) => {
            names.iter().try_for_each(|name| check(name, look))?;
            names
        }
        Named::Chosen(names) if names.is_empty() => return Err(SelectionError::Nobody),
        Named::Chosen(names) => names,
    };
    let mut selection = Selection::default();
    for name in names {
        // One that has gone since is told of by the run.
        let seen = look.get(name);
        if seen.is_some_and(|seen| seen.keys == Err(NoKeys::HostNetwork)) {
            selection.host_network += 1;
            continue;
        }
        let times = seen.and_then(created).zip(older_than);
        let ahead = times.and_then(|(created, _)| age::ahead(created, now));
        if ahead.is_none() && times.is_some_and(|(created, than)| created >= than) {
            selection.younger += 1;
            continue;
        }
        selection.nodes.push(name.clone());
        selection.ahead.extend(ahead.map(|by| (name.clone(), by)));
    }
    Ok(selection)
}

/// Checks that a named node is there and has keys.
pub(crate) fn check(name: &NodeName, look: &Look) -> Result<(), SelectionError> {
    let seen = look.get(name);
    let seen = seen.ok_or_else(|| NoSuchNode(name.to_string()))?;
    match &seen.keys {
        Ok(_) => Ok(()),
        Err(why) => Err(SelectionError::NoKeys(name.clone(), *why)),
    }
}

/// When a node's keys were made. Keys of an unknown age are old.
fn created(seen: &Seen) -> Option<Timestamp> {
    let keys = seen.keys.as_ref().ok()?;
    keys.created.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use podwire_core::rotation::Phase;

    use super::*;
    use crate::stage::{Keys, Stage};

    fn name(text: &str) -> NodeName {
        text.parse().expect("a name")
    }

    fn seen(keys: Result<Option<&str>, NoKeys>) -> Seen {
        let keys = keys.map(|created| Keys {
            generation: 4,
            stage: Stage::Settled,
            phase: Phase::Settled,
            created: created.map(str::to_owned),
        });
        Seen {
            uid: "u".to_owned(),
            keys,
            asked: None,
        }
    }

    fn look() -> Look {
        [
            ("old", seen(Ok(Some("2026-03-01T11:59:59Z")))),
            ("new", seen(Ok(Some("2026-03-01T13:00:00+01:00")))),
            ("ageless", seen(Ok(None))),
            ("plain", seen(Err(NoKeys::HostNetwork))),
            ("empty", seen(Err(NoKeys::NoRecord))),
        ]
        .map(|(text, seen)| (name(text), seen))
        .into()
    }

    fn now() -> Timestamp {
        "2026-03-01T13:00:00Z".parse().expect("a time")
    }

    fn names(texts: &[&str]) -> BTreeSet<NodeName> {
        texts.iter().map(|text| name(text)).collect()
    }

    #[test]
    fn all_leaves_out_plaintext_and_young_keys_and_counts_them() {
        let look = look();
        let all = Named::Chosen(look.keys().cloned().collect());
        let time = "2026-03-01T12:00:00Z".parse().ok();
        let selection = select(&all, &look, time, now()).expect("nodes");
        let expected = ["ageless", "empty", "old"].map(name);
        assert_eq!(selection.nodes, expected);
        assert_eq!((selection.host_network, selection.younger), (1, 1));
        let selection = select(&all, &look, None, now()).expect("nodes");
        assert_eq!((selection.nodes.len(), selection.younger), (4, 0));
    }

    #[test]
    fn keys_of_a_time_to_come_are_of_no_known_age_and_taken() {
        let mut look = look();
        let tomorrow = seen(Ok(Some("2026-03-02T13:00:00Z")));
        look.insert(name("tomorrow"), tomorrow);
        look.insert(name("soon"), seen(Ok(Some("2026-03-01T13:01:00Z"))));
        let chosen = Named::Chosen(names(&["new", "soon", "tomorrow"]));
        let time = "2026-03-01T12:00:00Z".parse().ok();
        let selection = select(&chosen, &look, time, now()).expect("nodes");
        assert_eq!(selection.nodes, [name("tomorrow")]);
        assert_eq!(selection.younger, 2);
        let day = SignedDuration::from_hours(24);
        assert_eq!(selection.ahead, [(name("tomorrow"), day)]);
        let all = select(&chosen, &look, None, now()).expect("nodes");
        assert_eq!((all.nodes.len(), all.ahead), (3, Vec::new()));
    }

    #[test]
    fn a_list_with_a_node_that_cannot_be_rotated_begins_nothing() {
        let look = look();
        for (texts, expected) in [
            (&["old", "gone"] as &[&str], "there is no Node gone"),
            (&["old", "plain"], "plain cannot be rotated: it is in host"),
            (&["empty"], "no agent has published a key"),
        ] {
            let error = select(&Named::Nodes(names(texts)), &look, None, now());
            let error = error.expect_err("refused").to_string();
            assert!(error.contains(expected), "{error}");
        }
        let nobody = select(&Named::Chosen(names(&[])), &look, None, now());
        assert!(matches!(nobody, Err(SelectionError::Nobody)));
    }
}
