//! `keyctl status`: each node with its key.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use jiff::Timestamp;
use podwire_core::annotations;
use podwire_core::mesh::{DesiredMesh, Policy};
use podwire_core::node::{Node, NodeName};
use podwire_core::record::{LaneKeys, Mode, REQUEST_PREFIX, Record};
use podwire_registry::nodes::Nodes;
use serde::Serialize;

use crate::age;
use crate::key_view::{KeysView, short};
use crate::local_agent::{Handshake, InTouch};
use crate::outcome::Outcome;
use crate::output::{Report, Row, cell, list};
use crate::rules::seen_by_nobody;
use crate::verdict::{Verdict, Verdicts, with_reason};

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeRow {
    name: String,
    /// `ok`, `plaintext`, `partial`, `no-record` or `refused`.
    state: &'static str,
    /// A word: `undeclared`, or why the node or a part of it does not count.
    reason: Option<&'static str>,
    /// The reason as a sentence.
    message: Option<String>,
    mode: Option<&'static str>,
    rotation_phase: Option<String>,
    key_generation: Option<u64>,
    key_created: Option<String>,
    /// The keys in force; `null` without encryption.
    current: Option<KeysView>,
    next: Option<KeysView>,
    previous: Option<KeysView>,
    endpoints: Vec<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
    epoch: Option<u64>,
    /// An operator's requests, by what they ask for.
    requests: BTreeMap<String, String>,
    #[serde(skip)]
    is_degraded: bool,
    #[serde(skip)]
    in_touch: Touch,
}

/// What this machine's agent adds to a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Touch {
    /// On its own node's row: peers with a session, of all encrypted ones.
    peers: Option<String>,
    /// With this peer; on the own row with any.
    last_handshake: Option<Handshake>,
}

/// There is no such node.
#[derive(Debug, thiserror::Error)]
#[error("there is no Node {0}: `keyctl status` lists those that are there")]
pub(crate) struct NoSuchNode(pub(crate) String);

/// All nodes, or the one of this name.
///
/// # Errors
/// When there is no node of this name.
pub(crate) fn report(
    nodes: &Nodes,
    in_touch: Option<&InTouch>,
    policy: &Policy,
    only: Option<&NodeName>,
) -> Result<Report<NodeRow>, NoSuchNode> {
    let mesh = seen_by_nobody(nodes, policy);
    let verdicts = Verdicts::new(nodes, &mesh);
    let names = nodes.nodes.keys().map(ToString::to_string);
    let mut names: BTreeSet<String> = names.chain(verdicts.refused_names()).collect();
    if let Some(only) = only {
        names.retain(|name| name == only.as_str());
        if names.is_empty() {
            return Err(NoSuchNode(only.to_string()));
        }
    }
    let rows = names.into_iter().map(|name| NodeRow {
        in_touch: in_touch.map(|it| touch(&name, it)).unwrap_or_default(),
        ..row(name, nodes, &mesh, &verdicts)
    });
    let rows: Vec<NodeRow> = rows.collect();
    let degraded = rows.iter().filter(|row| row.is_degraded).count();
    Ok(Report {
        note: note(&rows, degraded),
        outcome: Outcome::of(degraded > 0),
        rows,
    })
}

fn touch(name: &str, seen: &InTouch) -> Touch {
    if name != seen.node {
        return Touch {
            peers: None,
            last_handshake: seen.peers.get(name).copied(),
        };
    }
    Touch {
        peers: Some(format!("{}/{}", seen.up, seen.encrypted)),
        last_handshake: seen.last_handshake(),
    }
}

fn note(rows: &[NodeRow], degraded: usize) -> Option<String> {
    match (rows, degraded) {
        ([], _) => Some("there is no Node".to_owned()),
        (_, 0) => None,
        // Room for the sentence.
        ([row], _) => row
            .message
            .as_ref()
            .map(|message| format!("{}: {message}", row.name)),
        (rows, count) => Some(format!(
            "{count} of {} nodes are not as they should be: `keyctl verify` says why",
            rows.len()
        )),
    }
}

/// A Node's record, where it can be read.
pub(crate) fn record_of(node: &Node) -> Option<Record> {
    annotations::parse(&node.annotations).ok().flatten()
}

fn row(name: String, nodes: &Nodes, mesh: &DesiredMesh, verdicts: &Verdicts) -> NodeRow {
    let parsed: Option<NodeName> = name.parse().ok();
    let node = parsed.as_ref().and_then(|name| nodes.nodes.get(name));
    let record = node.and_then(|node| record_of(node));
    let is_accepted = parsed.is_some_and(|name| mesh.peers.contains_key(&name));
    let read = node.map(|node| &**node).zip(record.as_ref());
    let Verdict { state, message } = verdicts.on(&name, read, is_accepted);
    let endpoint = record.as_ref().and_then(|record| record.endpoints.first());
    let port = endpoint.map_or(0, SocketAddr::port);
    let keys = |keys: &Option<LaneKeys>| keys.as_ref().map(|keys| KeysView::new(keys, port));
    let of_record = |record: &Record| NodeRow {
        mode: Some(mode_word(record.mode)),
        rotation_phase: record.rotation_phase.clone(),
        key_generation: Some(record.key_generation),
        key_created: record.key_created.clone(),
        current: keys(&record.current),
        next: keys(&record.next),
        previous: keys(&record.previous),
        endpoints: record.endpoints.iter().map(ToString::to_string).collect(),
        pod_cidrs: record.pod_cidrs.iter().map(ToString::to_string).collect(),
        epoch: Some(record.epoch),
        ..NodeRow::default()
    };
    NodeRow {
        name,
        state: state.as_str(),
        reason: state.reason(),
        message,
        requests: node.map(|node| requests(node)).unwrap_or_default(),
        is_degraded: state.is_degraded(),
        ..record.as_ref().map(of_record).unwrap_or_default()
    }
}

/// A mode as records write it.
pub(crate) const fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Encrypted => "encrypted",
        Mode::HostNetwork => "host-network",
    }
}

fn requests(node: &Node) -> BTreeMap<String, String> {
    let all = node.annotations.iter();
    all.filter_map(|(key, value)| Some((key.strip_prefix(REQUEST_PREFIX)?, value)))
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .collect()
}

impl Row for NodeRow {
    const KIND: &'static str = "NodeStatusList";
    const COLUMNS: &'static [&'static str] = &[
        "NAME",
        "STATE",
        "MODE",
        "GENERATION",
        "KEY",
        "AGE",
        "PHASE",
        "LANES",
        "ENDPOINTS",
    ];
    const WIDE_COLUMNS: &'static [&'static str] = &[
        "PEERS",
        "LAST-HANDSHAKE",
        "POD-CIDRS",
        "PUBLIC-KEY",
        "NEXT-KEY",
        "PREVIOUS-KEY",
    ];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let keys = self.current.as_ref();
        // Its counts are in JSON and YAML: a blank would make a column of them.
        let phase = self
            .rotation_phase
            .as_ref()
            .and_then(|it| it.split(' ').next());
        vec![
            self.name.clone(),
            with_reason(self.state, self.reason),
            cell(self.mode),
            cell(self.key_generation),
            cell(keys.map(|keys| short(keys.public_key()))),
            age::of(self.key_created.as_deref(), now),
            cell(phase),
            cell(keys.map(KeysView::lanes)),
            list(&self.endpoints),
        ]
    }

    fn wide_cells(&self, now: Timestamp) -> Vec<String> {
        let last_handshake = self.in_touch.last_handshake;
        let key = |keys: &Option<KeysView>| cell(keys.as_ref().map(KeysView::public_key));
        vec![
            cell(self.in_touch.peers.as_ref()),
            cell(last_handshake.map(|it| age::since(it.at, now))),
            list(&self.pod_cidrs),
            key(&self.current),
            key(&self.next),
            key(&self.previous),
        ]
    }

    fn object(&self) -> Option<String> {
        Some(format!("node/{}", self.name))
    }
}
