//! What an agent says of itself, and what the kernel of its node says.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::{Node, Testbed, matrix, until};

/// A mesh of a few nodes follows a change within this; two busy processors are slow.
pub const CONVERGENCE: Duration = Duration::from_secs(30);

/// Where metrics are unless told otherwise.
pub const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9587);

/// `podwire-agent status -o json`, as far as tests look at it.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// The mode that the node declares, or `closed`, or `undecided`.
    pub mode: String,
    /// Whether guards, device and the first whole synchronisation are there.
    pub ready: bool,
    /// What is wrong with the node, in words.
    pub problems: Vec<String>,
    /// Lane 0's public key, in base64.
    pub public_key: Option<String>,
    /// How many peers it has.
    pub peers: PeerCounts,
    /// Nodes that are no peers, or of which a part does not count, each with the reason.
    pub refusals: BTreeMap<String, Refused>,
    /// Pairs in host-network mode that have no route, each with the reason.
    pub unroutable: BTreeMap<String, String>,
    /// Peers of declared plaintext pairs.
    pub plaintext: Vec<String>,
    /// Peers with which there is no traffic by a decision, each with the reason.
    pub closed: BTreeMap<String, String>,
    /// Routes and rules of others that stand in the way of pod traffic.
    pub obstacles: Vec<String>,
    /// The CNI configuration, where the agent writes it.
    pub cni: Option<Cni>,
    /// What keeps pods of its host from working.
    pub findings: Vec<Finding>,
    /// The epoch that the record tells.
    pub epoch: u64,
    /// What it did to the registry.
    pub registry: Registry,
    /// What its reconciles did.
    pub reconcile: Reconcile,
}

/// Why a node is refused.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Refused {
    /// One word of a small set.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// The CNI configuration that an agent writes.
#[derive(Debug, Clone, Deserialize)]
pub struct Cni {
    /// Whether it is there.
    pub in_place: bool,
    /// What links of pods get.
    pub mtu: Option<u32>,
}

/// What keeps pods of a host from working.
#[derive(Debug, Clone, Deserialize)]
pub struct Finding {
    /// One word of a small set.
    pub kind: String,
    /// A sentence with the remedy.
    pub message: String,
}

/// Peers by the mode of their pair.
#[derive(Debug, Clone, Deserialize)]
pub struct PeerCounts {
    /// All of them.
    pub total: usize,
    /// Of those, the encrypted pairs.
    pub encrypted: usize,
    /// The plaintext pairs.
    pub host_network: usize,
    /// The pairs that carry nothing.
    pub closed: usize,
}

/// An agent and its registry.
#[derive(Debug, Clone, Deserialize)]
pub struct Registry {
    /// Whether it was read as a whole and changes are followed.
    pub synchronised: bool,
    /// Why it is lost, while it is.
    pub lost: Option<String>,
    /// Records written.
    pub writes: u64,
}

/// What the reconciles of an agent did.
#[derive(Debug, Clone, Deserialize)]
pub struct Reconcile {
    /// Passes.
    pub runs: u64,
    /// Passes that failed.
    pub errors: u64,
    /// Changes of device, addresses, routes and table.
    pub kernel_changes: u64,
    /// Peers added, changed and removed in the data plane.
    pub peer_changes: u64,
}

/// A row of `podwire-agent peers -o json`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Peer {
    /// The peer's name.
    pub node: String,
    /// `encrypted`, `host-network` or `closed`.
    pub mode: String,
    /// `up`, or why not.
    pub state: String,
    /// Its lane 0's public key.
    pub public_key: Option<String>,
    /// Where lane 0 sends.
    pub endpoint: Option<String>,
    /// Where each lane sends.
    pub lane_endpoints: Vec<Option<SocketAddr>>,
    /// What it may be the source of.
    pub pod_cidrs: Vec<String>,
    /// Lanes with a confirmed session.
    pub lanes_up: usize,
    /// Lanes that both have.
    pub lanes: usize,
    /// Inner bytes received.
    pub received_bytes: u64,
    /// Inner bytes sent.
    pub sent_bytes: u64,
    /// Inner packets received.
    pub received_packets: u64,
    /// Inner packets sent.
    pub sent_packets: u64,
    /// Completed handshakes, all lanes together.
    pub handshakes: u64,
}

/// Asks an agent for its status.
///
/// # Errors
/// When it does not answer.
pub fn status(node: &Node) -> Result<Status> {
    let status = node.status_json()?;
    serde_json::from_value(status.clone()).with_context(|| format!("reading {status}"))
}

/// Asks an agent for its peers.
///
/// # Errors
/// When it does not answer.
pub fn peers(node: &Node) -> Result<Vec<Peer>> {
    let text = node.agent_output(&["peers", "-o", "json"])?;
    serde_json::from_str(&text).with_context(|| format!("reading {text}"))
}

/// What `podwire-agent drops -o json` has counted so far, by reason.
///
/// # Errors
/// When the agent does not answer.
pub fn drops(node: &Node) -> Result<BTreeMap<String, u64>> {
    let text = node.agent_output(&["drops", "-o", "json"])?;
    let rows: Vec<Value> =
        serde_json::from_str(&text).with_context(|| format!("reading {text}"))?;
    rows.iter()
        .map(|row| {
            let (reason, packets) = (row["reason"].as_str(), row["packets"].as_u64());
            let row = reason
                .zip(packets)
                .with_context(|| format!("reading {text}"))?;
            Ok((row.0.to_owned(), row.1))
        })
        .collect()
}

/// An HTTP/1.1 GET to the agent's metrics port: the status line and the rest.
///
/// # Errors
/// When it does not answer.
pub fn get(node: &Node, path: &str) -> Result<(String, String)> {
    get_at(node, METRICS, path)
}

/// The same to another address, from a node: agents of a cluster are asked at their nodes' own.
///
/// # Errors
/// When it does not answer.
pub fn get_at(node: &Node, address: SocketAddr, path: &str) -> Result<(String, String)> {
    let mut stream = node
        .namespace()
        .run(|| TcpStream::connect(address))
        .with_context(|| format!("connecting to {address} from {}", node.name()))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (line, rest) = text.split_once("\r\n").context("no status line")?;
    Ok((line.to_owned(), rest.to_owned()))
}

/// The value of one sample of an agent's metrics, by its name with all its labels.
///
/// # Errors
/// When the agent does not answer, or has no such sample.
pub fn sample(node: &Node, name: &str) -> Result<u64> {
    let (_, text) = get(node, "/metrics")?;
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    let value = value.with_context(|| format!("no {name} in {text}"))?;
    Ok(value.trim().parse()?)
}

/// The row of one peer.
pub fn peer(node: &Node, name: &str) -> Result<Peer> {
    let rows = peers(node)?;
    let names: Vec<_> = rows.iter().map(|row| row.node.clone()).collect();
    rows.into_iter()
        .find(|row| row.node == name)
        .with_context(|| format!("{} has no peer {name}, only {names:?}", node.name()))
}

/// Waits until the agent's status is as `condition` wants it.
pub fn wait_status(node: &Node, what: &str, condition: impl Fn(&Status) -> bool) -> Result<Status> {
    until(CONVERGENCE, &format!("{}: {what}", node.name()), || {
        let status = status(node)?;
        ensure!(condition(&status), "{status:?}");
        Ok(status)
    })
}

/// Waits until every node has every other one for a peer: a node is ready before its peers are.
pub fn wait_peers(bed: &Testbed) -> Result<()> {
    let others = bed.nodes().len() - 1;
    bed.nodes().iter().try_for_each(|node| {
        wait_status(node, "all peers", |status| status.peers.total == others).map(drop)
    })
}

/// Waits until every node has its peers, and every pod reaches every other one.
///
/// # Errors
/// When it does not come to that.
pub fn wait_whole(bed: &Testbed) -> Result<()> {
    wait_peers(bed)?;
    until(CONVERGENCE, "the mesh to be whole", || {
        matrix::all_reached(&bed.matrix().run())
    })
}

/// Podwire's routes of a node, both versions, sorted.
pub fn routes(node: &Node) -> Result<Vec<String>> {
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

/// Podwire's policy rules of a node, both versions, as `ip rule` shows them.
pub fn rules(node: &Node) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for version in ["-4", "-6"] {
        let text = node
            .namespace()
            .output("ip", &[version, "rule", "show"], "")?;
        // ip(8) flushes by protocol, and does not show by it.
        let ours = text.lines().filter(|line| line.contains("proto 119"));
        lines.extend(ours.map(str::to_owned));
    }
    Ok(lines)
}

/// Podwire's routes of a node to the pods of another one.
pub fn routes_to(node: &Node, other: &Node) -> Result<Vec<String>> {
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
pub fn device_index(node: &Node) -> Result<u64> {
    let text = node
        .namespace()
        .output("ip", &["-j", "link", "show", "podwire0"], "")?;
    let links: Value = serde_json::from_str(&text)?;
    links[0]["ifindex"]
        .as_u64()
        .with_context(|| format!("no index in {text}"))
}

/// The program that a node's running agent is.
pub fn program(node: &Node) -> Result<PathBuf> {
    let link = format!("/proc/{}/exe", node.agent_pid()?);
    std::fs::read_link(&link).with_context(|| format!("reading {link}"))
}

/// Runs the agent's program to its end in a node's namespace.
pub fn run_program(
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
