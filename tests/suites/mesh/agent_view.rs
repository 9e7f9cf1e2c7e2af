//! What an agent says of itself, and what the kernel of its node says.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::{Node, Testbed, until};
use serde::Deserialize;
use serde_json::Value;

/// A mesh of a few nodes follows a change within this; two busy processors are slow.
pub(crate) const CONVERGENCE: Duration = Duration::from_secs(30);

/// `podwire-agent status -o json`, as far as tests look at it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Status {
    pub(crate) mode: String,
    pub(crate) ready: bool,
    pub(crate) problems: Vec<String>,
    pub(crate) public_key: Option<String>,
    pub(crate) peers: PeerCounts,
    pub(crate) refusals: BTreeMap<String, String>,
    pub(crate) unroutable: BTreeMap<String, String>,
    pub(crate) plaintext: Vec<String>,
    pub(crate) registry: Registry,
    pub(crate) reconcile: Reconcile,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct PeerCounts {
    pub(crate) total: usize,
    pub(crate) encrypted: usize,
    pub(crate) host_network: usize,
    pub(crate) closed: usize,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Registry {
    pub(crate) writes: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Reconcile {
    pub(crate) errors: u64,
    pub(crate) kernel_changes: u64,
    pub(crate) peer_changes: u64,
}

/// A row of `podwire-agent peers -o json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Peer {
    pub(crate) node: String,
    pub(crate) mode: String,
    pub(crate) state: String,
    pub(crate) public_key: Option<String>,
    pub(crate) endpoint: Option<String>,
    pub(crate) pod_cidrs: Vec<String>,
    pub(crate) lanes_up: usize,
    pub(crate) lanes: usize,
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) received_packets: u64,
    pub(crate) sent_packets: u64,
    pub(crate) handshakes: u64,
}

pub(crate) fn status(node: &Node) -> Result<Status> {
    let status = node.status_json()?;
    serde_json::from_value(status.clone()).with_context(|| format!("reading {status}"))
}

pub(crate) fn peers(node: &Node) -> Result<Vec<Peer>> {
    let text = node.agent_output(&["peers", "-o", "json"])?;
    serde_json::from_str(&text).with_context(|| format!("reading {text}"))
}

/// The row of one peer.
pub(crate) fn peer(node: &Node, name: &str) -> Result<Peer> {
    let rows = peers(node)?;
    let names: Vec<_> = rows.iter().map(|row| row.node.clone()).collect();
    rows.into_iter()
        .find(|row| row.node == name)
        .with_context(|| format!("{} has no peer {name}, only {names:?}", node.name()))
}

/// Waits until the agent's status is as `condition` wants it.
pub(crate) fn wait_status(
    node: &Node,
    what: &str,
    condition: impl Fn(&Status) -> bool,
) -> Result<Status> {
    until(CONVERGENCE, &format!("{}: {what}", node.name()), || {
        let status = status(node)?;
        ensure!(condition(&status), "{status:?}");
        Ok(status)
    })
}

/// Waits until every node has every other one for a peer: a node is ready before its peers are.
pub(crate) fn wait_peers(bed: &Testbed) -> Result<()> {
    let others = bed.nodes().len() - 1;
    bed.nodes().iter().try_for_each(|node| {
        wait_status(node, "all peers", |status| status.peers.total == others).map(drop)
    })
}

/// Podwire's routes of a node, both versions, sorted.
pub(crate) fn routes(node: &Node) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for version in ["-4", "-6"] {
        let arguments = [version, "route", "show", "table", "all", "proto", "119"];
        let text = node.namespace().output("ip", &arguments, "")?;
        // A device without an agent has no carrier, and keeps its routes.
        lines.extend(
            text.lines()
                .map(|line| line.trim().replace(" linkdown", "")),
        );
    }
    lines.sort();
    Ok(lines)
}

/// Podwire's routes of a node to the pods of another one.
pub(crate) fn routes_to(node: &Node, other: &Node) -> Result<Vec<String>> {
    let destinations: Vec<_> = other
        .manifest()
        .pod_cidrs
        .iter()
        .map(ToString::to_string)
        .collect();
    let mut lines = routes(node)?;
    lines.retain(|line| {
        line.split(' ')
            .any(|word| destinations.iter().any(|cidr| cidr.as_str() == word))
    });
    Ok(lines)
}

/// The index of the node's tunnel device: another one would be another device.
pub(crate) fn device_index(node: &Node) -> Result<u64> {
    let text = node
        .namespace()
        .output("ip", &["-j", "link", "show", "podwire0"], "")?;
    let links: Value = serde_json::from_str(&text)?;
    links[0]["ifindex"]
        .as_u64()
        .with_context(|| format!("no index in {text}"))
}

/// The program that a node's running agent is.
pub(crate) fn program(node: &Node) -> Result<PathBuf> {
    let link = format!("/proc/{}/exe", node.agent_pid()?);
    std::fs::read_link(&link).with_context(|| format!("reading {link}"))
}

/// Runs the agent's program to its end in a node's namespace.
pub(crate) fn run_program(
    node: &Node,
    program: &PathBuf,
    arguments: &[&std::ffi::OsStr],
) -> Result<Output> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(node.namespace().spawn(command)?.wait_with_output()?)
}
