//! Where a node's key rotation stands, by its record.

use std::collections::BTreeMap;
use std::fmt;

use podwire_core::annotations;
use podwire_core::node::{Node, NodeName};
use podwire_core::record::{Mode, Record};
use podwire_core::request::{Verb, in_force};
use podwire_core::rotation::{Confirmations, Phase, Rotation};

/// Which keys a record names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// The current ones.
    Settled,
    /// The next ones, too.
    Announced,
    /// The previous ones, too.
    Promoted,
    /// The current ones, after others were announced that will not be used; those still receive.
    Withdrawn,
}

impl Stage {
    /// Whether there are two generations of keys that peers are to use.
    pub(crate) const fn is_rotating(self) -> bool {
        match self {
            Self::Announced | Self::Promoted => true,
            Self::Settled | Self::Withdrawn => false,
        }
    }

    /// The word for it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Announced => "announced",
            Self::Promoted => "promoted",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// A node's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) generation: u64,
    pub(crate) stage: Stage,
    /// What the record says of it; settled where that is no phase.
    pub(crate) phase: Phase,
    /// When the current ones were made, RFC 3339.
    pub(crate) created: Option<String>,
}

impl Keys {
    /// Whether they took the place of revoked ones.
    pub(crate) fn is_revoked(&self) -> bool {
        self.phase == Phase::Revoked
    }

    /// How many peers had confirmed them when they were promoted, such as `47/48`.
    pub(crate) fn confirmed(&self) -> Option<String> {
        match self.phase {
            Phase::Promoted(Confirmations { confirmed, live }) => {
                Some(format!("{confirmed}/{live}"))
            }
            Phase::Settled | Phase::Announced | Phase::Withdrawn | Phase::Revoked => None,
        }
    }
}

/// Why a node has no keys that could be rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoKeys {
    /// Its traffic is plaintext.
    HostNetwork,
    /// No agent has published anything.
    NoRecord,
    /// What its agent has published cannot be read.
    Unreadable,
}

impl fmt::Display for NoKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HostNetwork => "it is in host-network mode and has no keys",
            Self::NoRecord => "no agent has published a key of it",
            Self::Unreadable => "its record cannot be read: `keyctl verify` says why",
        })
    }
}

/// One node as its registry shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Another one is another node.
    pub(crate) uid: String,
    pub(crate) keys: Result<Keys, NoKeys>,
    /// What is asked of these keys.
    pub(crate) asked: Option<Verb>,
}

/// All nodes at one moment.
pub(crate) type Look = BTreeMap<NodeName, Seen>;

impl Seen {
    pub(crate) fn new(node: &Node) -> Self {
        let keys = keys(node);
        let asked = keys.as_ref().ok().and_then(|keys| {
            let rotation = Rotation {
                key_generation: keys.generation,
                phase: keys.phase,
            };
            let (request, _) = in_force(&node.annotations, |request| rotation.holds(request));
            request.map(|request| request.verb)
        });
        Self {
            uid: node.uid.clone(),
            keys,
            asked,
        }
    }

    /// The stage of its keys, if it has any.
    pub(crate) fn stage(&self) -> Option<Stage> {
        self.keys.as_ref().ok().map(|keys| keys.stage)
    }
}

fn keys(node: &Node) -> Result<Keys, NoKeys> {
    let record = annotations::parse(&node.annotations).map_err(|_| NoKeys::Unreadable)?;
    let record = record.ok_or(NoKeys::NoRecord)?;
    if record.mode == Mode::HostNetwork || record.current.is_none() {
        return Err(NoKeys::HostNetwork);
    }
    let phase = record.rotation_phase.as_ref();
    let phase = phase.and_then(|phase| phase.parse().ok());
    let phase = phase.unwrap_or(Phase::Settled);
    Ok(Keys {
        generation: record.key_generation,
        stage: stage(&record, phase),
        phase,
        created: record.key_created.clone(),
    })
}

/// Keys that a record names count more than what its phase says, which is for people.
fn stage(record: &Record, phase: Phase) -> Stage {
    if record.next.is_some() {
        Stage::Announced
    } else if record.previous.is_some() {
        Stage::Promoted
    } else if phase == Phase::Withdrawn {
        Stage::Withdrawn
    } else {
        Stage::Settled
    }
}

#[cfg(test)]
mod tests {
    use podwire_core::annotations::{NEXT_PUBLIC_KEY, PREVIOUS_PUBLIC_KEY, ROTATION_PHASE};

    use super::*;

    const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    fn node(more: &[(&str, &str)]) -> Node {
        let record = [
            ("podwire.dev/mode", "encrypted"),
            ("podwire.dev/pod-cidrs", "10.244.1.0/24"),
            ("podwire.dev/public-key", KEY),
            ("podwire.dev/key-generation", "4"),
        ];
        let annotations = record.iter().chain(more);
        Node {
            name: "node-1".parse().expect("a name"),
            uid: "u".to_owned(),
            created: 0,
            pod_cidrs: Vec::new(),
            addresses: Vec::new(),
            annotations: annotations
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            is_record_unread: false,
        }
    }

    #[test]
    fn the_stage_is_what_the_keys_say() {
        let other = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
        let promoted = "promoted confirmed=47/48";
        for (more, stage, confirmed) in [
            (&[] as &[(&str, &str)], Stage::Settled, None),
            (&[(NEXT_PUBLIC_KEY, other)], Stage::Announced, None),
            (
                &[(PREVIOUS_PUBLIC_KEY, other), (ROTATION_PHASE, promoted)],
                Stage::Promoted,
                Some("47/48"),
            ),
            (&[(ROTATION_PHASE, "withdrawn")], Stage::Withdrawn, None),
            (&[(ROTATION_PHASE, "revoked")], Stage::Settled, None),
        ] {
            let keys = Seen::new(&node(more)).keys.expect("keys");
            assert_eq!((keys.generation, keys.stage), (4, stage));
            assert_eq!(keys.confirmed().as_deref(), confirmed);
            assert_eq!(keys.is_revoked(), more == [(ROTATION_PHASE, "revoked")]);
        }
    }

    #[test]
    fn a_request_is_one_of_the_present_generation() {
        let asked = |value| Seen::new(&node(&[("request.podwire.dev/rotate", value)])).asked;
        assert_eq!(asked("if-key-generation=4,by=alice"), Some(Verb::Rotate));
        assert_eq!(asked("if-key-generation=3,by=alice"), None);
        assert_eq!(asked("now"), None);
    }

    #[test]
    fn who_has_no_keys_is_told_apart() {
        let host_network = node(&[("podwire.dev/mode", "host-network")]);
        let mut none = node(&[]);
        none.annotations.clear();
        let unreadable = node(&[("podwire.dev/mode", "on")]);
        for (node, expected) in [
            (host_network, NoKeys::HostNetwork),
            (none, NoKeys::NoRecord),
            (unreadable, NoKeys::Unreadable),
        ] {
            assert_eq!(Seen::new(&node).keys, Err(expected));
        }
    }
}
