//! Which nodes are refused, each with its reason: a word of a small set, and a sentence. The agent
//! and keyctl tell them in the same words.

use std::collections::BTreeMap;

use podwire_core::generation::WentBack;
use podwire_core::mesh::DesiredMesh;
use podwire_core::node::NodeName;
use podwire_core::refusal::Refusal;

use crate::nodes::{Nodes, Part, Rejection};

/// Longest sentence in characters: the rest is somebody else's text.
const MESSAGE_LENGTH_MAX: usize = 400;

/// Why a node, or a part of what the registry holds about it, does not count. The words are labels
/// of a metric: stable, and few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No agent has published a record.
    NoRecord,
    /// What the cluster or the operator says of the Node cannot be read.
    UnreadableManifest,
    /// Its agent's record cannot be read.
    UnreadableRecord,
    /// The operator's requests cannot be read.
    UnreadableRequests,
    /// A file under a name that no Node can have.
    Misnamed,
    /// The Node has no `spec.podCIDRs`.
    NoPodCidrs,
    /// It claims a default route.
    DefaultRoute,
    /// Its claim is not its Node's `spec.podCIDRs`.
    NotItsPodCidrs,
    /// It claims a node's address.
    ContainsNodeAddress,
    /// It claims what lies outside the cluster's pod CIDRs.
    OutsideClusterCidrs,
    /// Its endpoint is no address of a node.
    EndpointUnusable,
    /// Its endpoint is a pod address.
    EndpointInClusterCidrs,
    /// Its endpoint is not among its Node's addresses.
    EndpointForeign,
    /// Its Node has a pod address.
    AddressInPodCidrs,
    /// Another node has pod CIDRs that it claims.
    PodCidrsTaken,
    /// Another node has a key that it names.
    KeyTaken,
    /// Keys beside those in force do not count: another node names one of them, too.
    KeyContested,
    /// Its record is older than one that was seen before.
    GenerationWentBack,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::NoRecord,
        Self::UnreadableManifest,
        Self::UnreadableRecord,
        Self::UnreadableRequests,
        Self::Misnamed,
        Self::NoPodCidrs,
        Self::DefaultRoute,
        Self::NotItsPodCidrs,
        Self::ContainsNodeAddress,
        Self::OutsideClusterCidrs,
        Self::EndpointUnusable,
        Self::EndpointInClusterCidrs,
        Self::EndpointForeign,
        Self::AddressInPodCidrs,
        Self::PodCidrsTaken,
        Self::KeyTaken,
        Self::KeyContested,
        Self::GenerationWentBack,
    ];

    /// The word for status, log and metric.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoRecord => "no-record",
            Self::UnreadableManifest => "unreadable-manifest",
            Self::UnreadableRecord => "unreadable-record",
            Self::UnreadableRequests => "unreadable-requests",
            Self::Misnamed => "misnamed",
            Self::NoPodCidrs => "no-pod-cidrs",
            Self::DefaultRoute => "default-route",
            Self::NotItsPodCidrs => "not-its-pod-cidrs",
            Self::ContainsNodeAddress => "contains-node-address",
            Self::OutsideClusterCidrs => "outside-cluster-cidrs",
            Self::EndpointUnusable => "endpoint-unusable",
            Self::EndpointInClusterCidrs => "endpoint-in-cluster-cidrs",
            Self::EndpointForeign => "endpoint-foreign",
            Self::AddressInPodCidrs => "address-in-pod-cidrs",
            Self::PodCidrsTaken => "pod-cidrs-taken",
            Self::KeyTaken => "key-taken",
            Self::KeyContested => "key-contested",
            Self::GenerationWentBack => "generation-went-back",
        }
    }

    const fn of_claim(refusal: &Refusal) -> Self {
        match refusal {
            Refusal::NoRecord => Self::NoRecord,
            Refusal::RecordUnread | Refusal::Unparsable(_) => Self::UnreadableRecord,
            Refusal::NoPodCidrs => Self::NoPodCidrs,
            Refusal::DefaultRoute { .. } => Self::DefaultRoute,
            Refusal::NotSpecPodCidrs { .. } => Self::NotItsPodCidrs,
            Refusal::ContainsNodeAddress { .. } => Self::ContainsNodeAddress,
            Refusal::OutsideClusterCidrs { .. } => Self::OutsideClusterCidrs,
            Refusal::EndpointUnusable { .. } => Self::EndpointUnusable,
            Refusal::EndpointInClusterCidrs { .. } => Self::EndpointInClusterCidrs,
            Refusal::EndpointForeign { .. } => Self::EndpointForeign,
            Refusal::AddressInPodCidrs { .. } => Self::AddressInPodCidrs,
            Refusal::Overlap { .. } => Self::PodCidrsTaken,
            Refusal::KeyTaken { .. } => Self::KeyTaken,
        }
    }

    const fn of_rejection(rejection: &Rejection) -> Self {
        match rejection.part {
            Part::Manifest => Self::UnreadableManifest,
            Part::Record => Self::UnreadableRecord,
            Part::Requests => Self::UnreadableRequests,
        }
    }
}

/// That a node, or a part of it, does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why, as a word.
    pub reason: Reason,
    /// Why, as a sentence on one line that a terminal can be shown.
    pub message: String,
}

/// Every node, or file of one, that is refused, by name. Of several reasons, the one that comes
/// first on the way from the registry to the mesh.
#[must_use]
pub fn refusals(
    nodes: &Nodes,
    went_back: &BTreeMap<NodeName, WentBack>,
    mesh: Option<&DesiredMesh>,
) -> BTreeMap<String, Refused> {
    let refused = |reason: Reason, message: String| Refused {
        reason,
        message: printable(&message, MESSAGE_LENGTH_MAX),
    };
    let mut refusals = BTreeMap::new();
    for (name, found) in mesh.iter().flat_map(|mesh| &mesh.contested) {
        let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
        let reason = Reason::KeyContested;
        refusals.insert(name.to_string(), refused(reason, texts.join("; ")));
    }
    for (name, refusal) in mesh.iter().flat_map(|mesh| &mesh.refusals) {
        let reason = Reason::of_claim(refusal);
        refusals.insert(name.to_string(), refused(reason, refusal.to_string()));
    }
    for (name, found) in went_back {
        let reason = Reason::GenerationWentBack;
        refusals.insert(name.to_string(), refused(reason, found.to_string()));
    }
    for (name, rejection) in &nodes.rejected {
        let reason = Reason::of_rejection(rejection);
        refusals.insert(name.to_string(), refused(reason, rejection.to_string()));
    }
    for name in &nodes.misnamed {
        let message = "no Node can have this name".to_owned();
        let name = printable(name, MESSAGE_LENGTH_MAX);
        refusals.insert(name, refused(Reason::Misnamed, message));
    }
    refusals
}

/// One line that a terminal can be shown, whoever wrote it: so many characters of it at most, what
/// is not printable ASCII escaped.
#[must_use]
pub fn printable(text: &str, length_max: usize) -> String {
    let escaped = |character: char| match character {
        ' '..='~' => character.to_string(),
        other => other.escape_default().to_string(),
    };
    text.chars().take(length_max).map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_words_are_distinct_and_fit_a_label() {
        let words: BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        let fits = |word: &&str| word.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        assert!(words.iter().all(fits), "{words:?}");
    }

    #[test]
    fn what_others_wrote_is_shown_escaped_and_not_whole() {
        let nodes = Nodes {
            misnamed: ["\u{1b}[2J\n.yaml".to_owned()].into(),
            ..Nodes::default()
        };
        let shown = refusals(&nodes, &BTreeMap::new(), None);
        let names: Vec<&String> = shown.keys().collect();
        assert_eq!(names, [r"\u{1b}[2J\n.yaml"]);
        assert_eq!(printable(&"x".repeat(9), 4), "xxxx");
    }
}
