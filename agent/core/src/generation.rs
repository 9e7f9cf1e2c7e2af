//! Records that went back: key generations only grow, so that one which is lower than another seen
//! before is an old copy that somebody put back, by a backup or a folder that was copied late.

use std::collections::BTreeMap;

use crate::annotations;
use crate::node::Node;
use crate::record::ANNOTATION_PREFIX;

/// Why a record does not count: a newer one of the same Node was seen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "its record went back from key generation {known} to {found}, as an old copy does; the newer one \
     stays in force: is the older one meant, stop the node's agent, remove its record and start it \
     again"
)]
pub struct WentBack {
    /// The generation in force.
    pub known: u64,
    /// That of the record that does not count.
    pub found: u64,
}

/// The Node with the record that stays in force, if the one that it has now went back behind that
/// of the Node as it is `known`. A Node created again, and one whose record was removed or cannot
/// be read, begin anew.
#[must_use]
pub fn hold(known: &Node, told: &Node) -> Option<(Node, WentBack)> {
    let generation = |node: &Node| match annotations::parse(&node.annotations) {
        Ok(Some(record)) => Some(record.key_generation),
        Ok(None) | Err(_) => None,
    };
    if known.uid != told.uid {
        return None;
    }
    let (known_one, found) = (generation(known)?, generation(told)?);
    if found >= known_one {
        return None;
    }
    let is_record = |key: &str| key.starts_with(ANNOTATION_PREFIX);
    let kept = |node: &Node, which: bool| -> BTreeMap<String, String> {
        let annotations = node.annotations.clone().into_iter();
        annotations
            .filter(|(key, _)| is_record(key) == which)
            .collect()
    };
    let mut node = told.clone();
    node.annotations = kept(told, false);
    node.annotations.extend(kept(known, true));
    let went_back = WentBack {
        known: known_one,
        found,
    };
    Some((node, went_back))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(uid: &str, annotations: &[(&str, &str)]) -> Node {
        let annotations = annotations.iter();
        Node {
            name: "node-1".parse().expect("name"),
            uid: uid.to_owned(),
            created: 0,
            pod_cidrs: Vec::new(),
            addresses: Vec::new(),
            annotations: annotations
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            is_record_unread: false,
        }
    }

    fn at(generation: &str) -> Node {
        node(
            "a",
            &[
                (annotations::MODE, "host-network"),
                (annotations::POD_CIDRS, "10.244.1.0/24"),
                (annotations::KEY_GENERATION, generation),
                ("request.podwire.dev/rotate", "if-key-generation=9"),
            ],
        )
    }

    #[test]
    fn a_record_that_went_back_does_not_count_and_everything_else_does() {
        let mut told = at("3");
        told.pod_cidrs = vec!["10.244.1.0/24".parse().expect("cidr")];
        told.annotations
            .insert("podwire.dev/added".to_owned(), "later".to_owned());
        told.annotations.insert(
            "request.podwire.dev/rotate".to_owned(),
            "if-key-generation=3".to_owned(),
        );
        let (held, went_back) = hold(&at("4"), &told).expect("it went back");
        assert_eq!(went_back, WentBack { known: 4, found: 3 });
        assert_eq!(held.pod_cidrs, told.pod_cidrs);
        assert_eq!(held.annotations[annotations::KEY_GENERATION], "4");
        assert!(!held.annotations.contains_key("podwire.dev/added"));
        assert_eq!(
            held.annotations["request.podwire.dev/rotate"],
            "if-key-generation=3"
        );
        // It goes on to be held, however often the old copy is told.
        assert!(hold(&held, &told).is_some());
    }

    #[test]
    fn what_is_newer_or_begins_anew_counts() {
        let again = node("b", &[(annotations::KEY_GENERATION, "1")]);
        let removed = node("a", &[]);
        let unreadable = node("a", &[(annotations::KEY_GENERATION, "1")]);
        for told in [at("4"), at("5"), again, removed.clone(), unreadable] {
            assert_eq!(hold(&at("4"), &told), None);
        }
        assert_eq!(hold(&removed, &at("1")), None);
    }
}
