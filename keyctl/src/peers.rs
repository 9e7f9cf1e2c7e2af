//! `keyctl peers NODE`: whom a node is meshed with, as the rules have it from where it stands.

use std::collections::BTreeSet;

use jiff::Timestamp;
use podwire_core::mesh::{ClosedReason, DesiredMesh, Pair, Policy};
use podwire_core::node::{Node, NodeName};
use podwire_core::record::{LaneKeys, Record};
use podwire_registry::nodes::Nodes;
use serde::Serialize;

use crate::age;
use crate::key_view::short;
use crate::outcome::Outcome;
use crate::output::{Report, Row, cell, list};
use crate::rules::{seen_by, seen_by_nobody};
use crate::status::{NoSuchNode, record_of};
use crate::verdict::{State, UNDECLARED, Verdict, Verdicts, with_reason};

/// One other node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PeerRow {
    name: String,
    /// `encrypted`, `plaintext`, `closed`, `refused` or `no-record`.
    pair: &'static str,
    /// A word: why it is closed, refused, plaintext without a request, or what does not count.
    reason: Option<&'static str>,
    /// The reason as a sentence.
    message: Option<String>,
    key_generation: Option<u64>,
    key_created: Option<String>,
    public_key: Option<String>,
    /// Lanes that both have; `null` without encryption.
    lanes: Option<usize>,
    endpoints: Vec<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
    #[serde(skip)]
    is_degraded: bool,
}

/// The node whose eyes are looked through.
struct Own<'a> {
    node: &'a Node,
    record: Record,
    state: State,
}

/// All other nodes, seen by the one of this name.
///
/// # Errors
/// When there is no node of this name.
pub(crate) fn report(
    nodes: &Nodes,
    policy: &Policy,
    own: &NodeName,
) -> Result<Report<PeerRow>, NoSuchNode> {
    let everybody = seen_by_nobody(nodes, policy);
    let verdicts = Verdicts::new(nodes, &everybody);
    let node = nodes.nodes.get(own).map(|node| &**node);
    let record = node.and_then(record_of);
    let read = node.zip(record.as_ref());
    let verdict = verdicts.on(own.as_str(), read, everybody.peers.contains_key(own));
    let Some((node, record)) = node.zip(record) else {
        return match verdict.message {
            None => Err(NoSuchNode(own.to_string())),
            Some(message) => Ok(alone(format!("{own} is meshed with nobody: {message}"))),
        };
    };
    let state = verdict.state;
    let own = Own {
        node,
        record,
        state,
    };
    let rows = rows(&own, nodes, policy);
    let is_refused = matches!(state, State::Refused(_) | State::NoRecord);
    let note = match verdict.message.filter(|_| is_refused) {
        Some(message) => Some(format!("the others refuse {}: {message}", node.name)),
        None if rows.is_empty() => Some("there is no other Node".to_owned()),
        None => None,
    };
    Ok(Report {
        outcome: Outcome::of(is_refused || rows.iter().any(|row| row.is_degraded)),
        rows,
        note,
    })
}

fn alone(note: String) -> Report<PeerRow> {
    Report {
        rows: Vec::new(),
        outcome: Outcome::Degraded,
        note: Some(note),
    }
}

fn rows(own: &Own<'_>, nodes: &Nodes, policy: &Policy) -> Vec<PeerRow> {
    let mesh = seen_by(own.node, &own.record, nodes, policy);
    let verdicts = Verdicts::new(nodes, &mesh);
    let names = mesh.peers.keys().map(ToString::to_string);
    let mut names: BTreeSet<String> = names.chain(verdicts.refused_names()).collect();
    // A part of its own that cannot be read is no other node.
    names.remove(own.node.name.as_str());
    let row = |name: String| row(name, own, nodes, &mesh, &verdicts);
    names.into_iter().map(row).collect()
}

fn row(
    name: String,
    own: &Own<'_>,
    nodes: &Nodes,
    mesh: &DesiredMesh,
    verdicts: &Verdicts,
) -> PeerRow {
    let parsed: Option<NodeName> = name.parse().ok();
    let node = parsed.as_ref().and_then(|name| nodes.nodes.get(name));
    let record = node.and_then(|node| record_of(node));
    let peer = parsed.and_then(|name| mesh.peers.get(&name));
    let read = node.map(|node| &**node).zip(record.as_ref());
    let verdict = verdicts.on(&name, read, peer.is_some());
    let Some((peer, record)) = peer.zip(record) else {
        return PeerRow {
            name,
            pair: verdict.state.as_str(),
            reason: verdict.state.reason(),
            message: verdict.message,
            is_degraded: true,
            ..PeerRow::default()
        };
    };
    let (pair, reason) = pair_words(&peer.pair, own.state, &verdict);
    let keys = record.current.as_ref();
    let is_encrypted = matches!(peer.pair, Pair::Encrypted(_));
    PeerRow {
        name,
        pair,
        reason,
        message: message(&peer.pair, own, verdict),
        key_generation: Some(record.key_generation),
        key_created: record.key_created.clone(),
        public_key: keys.map(|keys| keys.public_key.to_string()),
        lanes: keys
            .filter(|_| is_encrypted)
            .map(|keys| lanes(keys).min(own.record.current.as_ref().map_or(0, lanes))),
        endpoints: record.endpoints.iter().map(ToString::to_string).collect(),
        pod_cidrs: peer.pod_cidrs.iter().map(ToString::to_string).collect(),
        is_degraded: reason.is_some(),
    }
}

fn lanes(keys: &LaneKeys) -> usize {
    keys.keys().count()
}

/// Both nodes make a pair plaintext: that either of them is so without a request makes the pair so.
fn pair_words(pair: &Pair, own: State, peer: &Verdict) -> (&'static str, Option<&'static str>) {
    let is_undeclared = own == State::Undeclared || peer.state == State::Undeclared;
    match pair {
        Pair::HostNetwork if is_undeclared => ("plaintext", Some(UNDECLARED)),
        Pair::HostNetwork => ("plaintext", peer.state.reason()),
        Pair::Encrypted(_) => ("encrypted", peer.state.reason()),
        Pair::Closed(ClosedReason::HostNetworkRefused) => ("closed", Some("host-network-refused")),
        Pair::Closed(ClosedReason::NoKey) => ("closed", Some("no-key")),
    }
}

fn message(pair: &Pair, own: &Own<'_>, peer: Verdict) -> Option<String> {
    match pair {
        Pair::Closed(why) => Some(format!("{why}: no packet passes")),
        Pair::Encrypted(_) => peer.message,
        Pair::HostNetwork => peer.message.or_else(|| {
            let is_own = own.state == State::Undeclared;
            is_own.then(|| {
                let name = &own.node.name;
                format!("{name} is in host-network mode, and no request asks for that")
            })
        }),
    }
}

impl Row for PeerRow {
    const KIND: &'static str = "PeerList";
    const COLUMNS: &'static [&'static str] = &[
        "NAME",
        "PAIR",
        "GENERATION",
        "KEY",
        "AGE",
        "LANES",
        "ENDPOINTS",
    ];
    const WIDE_COLUMNS: &'static [&'static str] = &["POD-CIDRS", "PUBLIC-KEY"];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        vec![
            self.name.clone(),
            with_reason(self.pair, self.reason),
            cell(self.key_generation),
            cell(self.public_key.as_deref().map(short)),
            age::of(self.key_created.as_deref(), now),
            cell(self.lanes),
            list(&self.endpoints),
        ]
    }

    fn wide_cells(&self, _now: Timestamp) -> Vec<String> {
        vec![list(&self.pod_cidrs), cell(self.public_key.as_ref())]
    }

    fn object(&self) -> Option<String> {
        Some(format!("node/{}", self.name))
    }
}
