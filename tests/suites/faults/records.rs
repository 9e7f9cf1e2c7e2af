//! What somebody reaches who can write one node's record, and what nobody's record can do.
//!
//! Node 1 is strict. Node 3 is not, and declares itself encrypted. Node 2's record is forged.

use std::fs;
use std::net::IpAddr;
use std::slice;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, peers, status, wait_peers, wait_status};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{
    CaptureReport, Host, IpVersion, Node, Protocol, Sender, Testbed, Topology, UdpCounter, matrix,
    until,
};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_forged_record_makes_no_plaintext_pair_but_a_declared_one_and_none_in_strict_mode",
        forged,
    ),
    (
        "a_nodes_own_forged_record_makes_it_no_host_network_node",
        own_forged,
    ),
    (
        "a_strict_node_sends_and_takes_no_plaintext_though_the_other_declares_it",
        strict_and_not,
    ),
];

const STRICT: [&str; 4] = ["--lanes", "1", "--host-network-peers", "refuse"];
const DECIDED: [&str; 6] = [
    "--lanes",
    "1",
    "--mode",
    "encrypted",
    "--host-network-peers",
    "allow",
];
const DEFAULT: [&str; 2] = ["--lanes", "1"];

/// Rounds or datagrams a second.
const RATE: u32 = 100;

/// Rounds that each forgery is held for.
const HELD_ROUNDS: u64 = 30;

const BOTH: [Protocol; 2] = [Protocol::Udp, Protocol::Tcp];

/// A key that nobody has: its bytes are 1 to 32.
const STRANGERS_KEY: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

const ZERO_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// What is written in the place of a record; `None` deletes it.
type Forgery = fn(&str, &Testbed) -> Result<Option<String>>;

/// Everything but a declaration of host-network mode.
const FORGERIES: [(&str, Forgery); 9] = [
    ("deleted", |_, _| Ok(None)),
    ("emptied", |_, _| Ok(Some(String::new()))),
    ("garbage", |_, _| Ok(Some("{ no: [manifest".to_owned()))),
    ("a zero key", |record, _| {
        Ok(Some(with_value(record, "public-key", ZERO_KEY)))
    }),
    ("empty values", |record, _| {
        Ok(Some(
            ["mode", "pod-cidrs", "public-key", "endpoints"]
                .iter()
                .fold(record.to_owned(), |text, name| {
                    with_value(&text, name, "''")
                }),
        ))
    }),
    ("no mode", |record, _| Ok(Some(without(record, "mode")))),
    ("an unknown mode", |record, _| {
        Ok(Some(with_value(record, "mode", "plaintext")))
    }),
    ("a stranger's key", |record, _| {
        Ok(Some(with_value(record, "public-key", STRANGERS_KEY)))
    }),
    ("another node's key", |record, bed| {
        let key = status(bed.node(3))?.public_key.context("no key")?;
        Ok(Some(with_value(record, "public-key", &key)))
    }),
];

fn with_value(record: &str, name: &str, value: &str) -> String {
    edited(record, name, |key| Some(format!("{key}: {value}")))
}

fn without(record: &str, name: &str) -> String {
    edited(record, name, |_| None)
}

/// The record with another line for one annotation.
fn edited(record: &str, name: &str, line: impl Fn(&str) -> Option<String>) -> String {
    let annotation = format!("podwire.dev/{name}");
    record
        .lines()
        .filter_map(|old| match old.split_once(": ") {
            Some((key, _)) if key.trim() == annotation => line(key),
            _ => Some(old.to_owned()),
        })
        .map(|line| line + "\n")
        .collect()
}

/// Three nodes that reach each other.
fn mesh(context: &Context) -> Result<Arc<Testbed>> {
    let bed = context.testbed(&Topology::new().pods_per_node(1))?;
    for (node, arguments) in [(1, &STRICT[..]), (2, &DEFAULT[..]), (3, &DECIDED[..])] {
        bed.node(node).set_agent_arguments(arguments);
    }
    bed.start_agents()?;
    wait_peers(&bed)?;
    matrix::all_reached(&bed.matrix().protocols(&[Protocol::Udp]).run())?;
    Ok(bed)
}

fn record(bed: &Testbed, node: &Node) -> Result<String> {
    Ok(fs::read_to_string(
        bed.directory().record_path(node.name()),
    )?)
}

fn forge(bed: &Testbed, node: &Node, text: Option<&str>) -> Result<()> {
    let path = bed.directory().record_path(node.name());
    match text {
        Some(text) => bed.directory().replace(&path, text),
        None => fs::remove_file(&path).with_context(|| format!("removing {}", path.display())),
    }
}

/// Waits until a node has another view of node 2 than this one.
fn felt(node: &Node, before: &[String]) -> Result<()> {
    until(CONVERGENCE, "the forgery to be read", || {
        let now = view(node)?;
        ensure!(now != before, "{now:?}");
        Ok(())
    })
}

/// What a node says of node 2, sessions and counters apart.
fn view(node: &Node) -> Result<Vec<String>> {
    let rows = peers(node)?.into_iter().filter(|row| row.node == "node-2");
    let rows = rows.map(|row| format!("{} {:?}", row.mode, row.public_key));
    let refused = status(node)?.refusals;
    let refused = refused.into_iter().filter(|(name, _)| name == "node-2");
    let refused = refused.map(|(_, refused)| refused.message);
    Ok(rows.chain(refused).collect())
}

/// Pod and node send to the pod of node 2, over every change of what is known of it.
fn senders(bed: &Testbed, from: u8, protocols: &[Protocol]) -> Result<Vec<Sender>> {
    let targets: Vec<IpAddr> = bed.pod(2, 1).addresses();
    let hosts: [&Host; 2] = [bed.pod(from, 1).host(), bed.node(from).host()];
    hosts
        .into_iter()
        .map(|host| bed.sender(host, &targets, protocols, RATE))
        .collect()
}

/// What was seen since the last look, after these have sent for a while more.
fn seen(bed: &Testbed, senders: &[Sender]) -> Result<CaptureReport> {
    for sender in senders {
        sender.wait_for_more(HELD_ROUNDS, CONVERGENCE)?;
    }
    bed.capture().take_report()
}

/// The same where there may be none.
fn nothing_leaked(bed: &Testbed, senders: &[Sender], what: &str) -> Result<()> {
    let report = seen(bed, senders)?;
    let frames = report.leaked_frames();
    ensure!(
        frames == 0,
        "{what}: {frames} frames in the clear: {:#?}",
        report.offenders
    );
    Ok(())
}

/// Traffic of the pair that no forgery of node 2's record may touch.
fn bystanders(bed: &Testbed) -> Result<Vec<UdpCounter>> {
    let (one, three) = (bed.pod(1, 1).host(), bed.pod(3, 1).host());
    [(one, three, IpVersion::V4), (three, one, IpVersion::V6)]
        .into_iter()
        .map(|(from, to, version)| bed.udp_counter(from, to, version, RATE))
        .collect()
}

fn untouched(counters: Vec<UdpCounter>) -> Result<()> {
    for counter in counters {
        let count = counter.stop()?;
        ensure!(
            count.sent > 0 && count.lost() == 0 && count.refused == 0,
            "bystanders lost: {count:?}"
        );
    }
    Ok(())
}

fn forged(context: &Context) -> Result<()> {
    let bed = mesh(context)?;
    let (strict, victim, other) = (bed.node(1), bed.node(2), bed.node(3));
    let genuine = record(&bed, victim)?;
    let key = status(victim)?.public_key.context("no key")?;
    // Its owner would put it back at once, and does below.
    victim.kill_agent()?;
    let bystanders = bystanders(&bed)?;
    let strict_senders = senders(&bed, 1, &BOTH)?;
    let other_senders = senders(&bed, 3, &BOTH)?;
    for (what, forgery) in FORGERIES {
        let views = [view(strict)?, view(other)?];
        forge(&bed, victim, forgery(&genuine, &bed)?.as_deref())?;
        felt(strict, &views[0]).context(what)?;
        felt(other, &views[1]).context(what)?;
        nothing_leaked(&bed, &strict_senders, what)?;
        nothing_leaked(&bed, &other_senders, what)?;
        for node in [strict, other] {
            let plaintext = status(node)?.plaintext;
            ensure!(plaintext.is_empty(), "{what}: {plaintext:?}");
        }
        // The next one is told from the genuine record.
        let views = [view(strict)?, view(other)?];
        forge(&bed, victim, Some(&genuine))?;
        felt(strict, &views[0]).context(what)?;
        felt(other, &views[1]).context(what)?;
        nothing_leaked(&bed, &strict_senders, &format!("back from {what}"))?;
    }
    // From here on node 3 may send in plaintext, until it has read that node 2 takes that back.
    nothing_leaked(&bed, &other_senders, "before a declaration")?;
    drop(other_senders);
    let declaration = with_value(&genuine, "mode", "host-network");
    declared(&bed, &declaration, &strict_senders)?;
    untouched(bystanders)?;

    victim.start_agent()?;
    put_back(&bed, &key).context("by the agent that starts")?;
    nothing_leaked(&bed, &strict_senders, "put back by the agent that starts")?;
    forge(&bed, victim, Some(&declaration))?;
    put_back(&bed, &key).context("by the agent that runs")?;
    nothing_leaked(&bed, &strict_senders, "put back by the agent that runs")?;
    let other_senders = senders(&bed, 3, &BOTH)?;
    matrix::all_reached(&bed.matrix().protocols(&[Protocol::Udp]).run())?;
    nothing_leaked(&bed, &other_senders, "after")
}

/// A forged declaration counts as one, as any does: for node 2's pairs with nodes that are not
/// strict, and for no other pair.
fn declared(bed: &Testbed, forged: &str, strict_senders: &[Sender]) -> Result<()> {
    let (strict, other) = (bed.node(1), bed.node(3));
    forge(bed, bed.node(2), Some(forged))?;
    wait_status(other, "one plaintext peer", |status| {
        status.plaintext == ["node-2"] && status.peers.encrypted == 1
    })?;
    wait_status(strict, "one closed peer", |status| {
        status.plaintext.is_empty() && (status.peers.closed, status.peers.encrypted) == (1, 1)
    })?;
    nothing_leaked(bed, strict_senders, "sent by the strict node")?;
    // From a pod alone: the node's own address is answered, and node 2's end of a connection is
    // closed whenever its service comes to it.
    let targets = bed.pod(2, 1).addresses();
    let sender = bed.sender(bed.pod(3, 1).host(), &targets, &BOTH, RATE)?;
    let frames = seen(bed, slice::from_ref(&sender))?.leaked_frames();
    ensure!(frames > 0, "the other node's plaintext is not seen");
    drop(sender);
    // What it sent since that look.
    bed.capture().take_report().map(drop)
}

/// Waits until node 2's agent has its record back, and all have followed.
fn put_back(bed: &Testbed, key: &str) -> Result<()> {
    until(CONVERGENCE, "the record to be put back", || {
        let record = record(bed, bed.node(2))?;
        let is_genuine = record.contains(key) && record.contains("mode: encrypted");
        ensure!(is_genuine, "{record}");
        Ok(())
    })?;
    for node in bed.nodes() {
        wait_status(node, "encrypted peers alone", |status| {
            status.plaintext.is_empty() && status.peers.encrypted == 2
        })?;
    }
    Ok(())
}

fn own_forged(context: &Context) -> Result<()> {
    let bed = mesh(context)?;
    for number in [2, 3] {
        let node = bed.node(number);
        let genuine = record(&bed, node)?;
        let forged = with_value(&genuine, "mode", "host-network");
        let _sender = to_strict(&bed, number)?;
        for text in [None, Some(without(&forged, "public-key"))] {
            node.kill_agent()?;
            forge(&bed, node, text.as_deref())?;
            node.start_agent()?;
            node.wait_ready()?;
            ensure!(status(node)?.mode == "encrypted", "{:?}", status(node)?);
            until(CONVERGENCE, "the record to be put back", || {
                let now = record(&bed, node)?;
                ensure!(now == genuine, "{now}");
                Ok(())
            })?;
        }
    }
    // Without a device, `auto` would be host-network mode; this node's disk knows better.
    let node = bed.node(2);
    let sender = to_strict(&bed, 2)?;
    let forged = with_value(&record(&bed, node)?, "mode", "host-network");
    node.kill_agent()?;
    forge(&bed, node, Some(&forged))?;
    node.set_tun(false);
    node.start_agent()?;
    wait_status(node, "to be closed, for everybody", |status| {
        status.mode == "closed" && status.plaintext.is_empty()
    })?;
    nothing_leaked(&bed, &[sender], "closed")
}

/// A pod sends to the strict node, which answers nothing in plaintext, whatever this node's record
/// says meanwhile.
fn to_strict(bed: &Testbed, from: u8) -> Result<Sender> {
    let targets = bed.pod(1, 1).addresses();
    bed.sender(bed.pod(from, 1).host(), &targets, &[Protocol::Udp], RATE)
}

/// Strict mode is each node's own: the one that declares host-network mode and is not strict sends
/// in plaintext, the strict one drops that, and sends nothing.
fn strict_and_not(context: &Context) -> Result<()> {
    let bed = mesh(context)?;
    let (strict, declared) = (bed.node(1), bed.node(2));
    // No connections, before there can be none: their ends at node 2 would be repeated from there,
    // in the plaintext that it declares.
    let datagrams = senders(&bed, 1, &[Protocol::Udp])?;
    declared.stop_agent()?;
    declared.set_agent_arguments(&["--lanes", "1", "--mode", "host-network"]);
    declared.start_agent()?;
    declared.wait_ready()?;
    wait_status(declared, "plaintext peers", |status| {
        status.plaintext == ["node-1", "node-3"]
    })?;
    wait_status(strict, "a closed peer", |status| status.peers.closed == 1)?;
    nothing_leaked(&bed, &datagrams, "sent by the strict node")?;
    let connections = senders(&bed, 1, &[Protocol::Tcp])?;
    nothing_leaked(&bed, &connections, "sent by the strict node")?;

    let target = bed.pod(1, 1).addresses();
    let from = bed.pod(2, 1).host();
    let received = bed.udp_counter(from, bed.pod(1, 1).host(), IpVersion::V4, RATE)?;
    let sender = bed.sender(from, &target, &[Protocol::Udp], RATE)?;
    sender.wait_for_more(HELD_ROUNDS, CONVERGENCE)?;
    drop(sender);
    let count = received.count();
    ensure!(count.sent > 0 && count.received == 0, "{count:?}");
    drop(received);
    let frames = bed.capture().take_report()?.leaked_frames();
    ensure!(frames > 0, "what node 2 declared is not seen");
    Ok(())
}
