//! What an agent tells, and what it never tells.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Node, Topology, matrix};

use podwire_testbed::agent_view::{get, peers, status};

pub(crate) const TESTS: &[Test] = &[
    (
        "status_peers_drops_and_metrics_tell_how_a_node_is_doing",
        tells,
    ),
    ("a_private_key_is_shown_nowhere", private_key),
];

/// The sum of a metric's samples, with all its labels.
fn metric(text: &str, name: &str) -> Option<f64> {
    let samples: Vec<f64> = text
        .lines()
        .filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
        })
        .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
        .collect();
    if samples.is_empty() {
        None
    } else {
        Some(samples.iter().sum())
    }
}

fn tells(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().pods_per_node(1))?;
    bed.node(3).set_agent_arguments(&["--mode", "host-network"]);
    bed.expect_plaintext();
    bed.start_agents()?;
    matrix::all_reached(&bed.matrix().run())?;
    let node = bed.node(1);

    let told = status(node)?;
    let key = told
        .public_key
        .clone()
        .context("an encrypted node has a key")?;
    ensure!(
        told.ready && told.mode == "encrypted" && told.peers.total == 2,
        "{told:?}"
    );
    let text = node.agent_output(&["status"])?;
    for expected in [
        "node-1 (ready)",
        "encrypted",
        &key,
        "podwire0 up",
        "node-3",
        "10.244.1.0/24",
    ] {
        ensure!(text.contains(expected), "{expected:?} is not in:\n{text}");
    }

    let rows = peers(node)?;
    let row = rows
        .iter()
        .find(|row| row.node == "node-2")
        .context("node-2 is a peer")?;
    ensure!(
        row.state == "up" && row.handshakes > 0 && row.lanes_up > 0,
        "{row:?}"
    );
    let traffic = [
        row.sent_bytes,
        row.sent_packets,
        row.received_bytes,
        row.received_packets,
    ];
    ensure!(traffic.iter().all(|count| *count > 0), "{row:?}");
    let text = node.agent_output(&["peers"])?;
    for expected in [
        "NODE",
        "HANDSHAKE",
        "node-2",
        "node-3",
        "host-network",
        "192.0.2.12:51880",
    ] {
        ensure!(text.contains(expected), "{expected:?} is not in:\n{text}");
    }

    let drops: serde_json::Value =
        serde_json::from_str(&node.agent_output(&["drops", "-o", "json"])?)?;
    let reasons = drops.as_array().context("drops are a list")?;
    ensure!(reasons.len() > 5, "{drops}");
    ensure!(
        reasons
            .iter()
            .all(|row| row["reason"].is_string() && row["packets"].is_u64()),
        "{drops}"
    );
    ensure!(
        !node.agent_output(&["drops"])?.is_empty(),
        "drops prints nothing"
    );
    metrics(node)
}

fn metrics(node: &Node) -> Result<()> {
    let (line, text) = get(node, "/metrics")?;
    ensure!(line.contains("200"), "{line}");
    let positive = [
        "podwire_peers",
        "podwire_sent_bytes_total",
        "podwire_received_bytes_total",
        "podwire_sent_packets_total",
        "podwire_received_packets_total",
        "podwire_handshake_messages_total",
        "podwire_reconciles_total",
        "podwire_kernel_changes_total",
        "podwire_peer_changes_total",
        "podwire_registry_writes_total",
        "podwire_ready",
        "podwire_plaintext_peers",
    ];
    for name in positive {
        let value = metric(&text, name).with_context(|| format!("no {name} in:\n{text}"))?;
        ensure!(value > 0.0, "{name} is {value}");
    }
    let errors = metric(&text, "podwire_reconcile_errors_total").context("no reconcile errors")?;
    ensure!(errors == 0.0, "{errors} reconciles failed");
    for sample in [
        "podwire_peers{mode=\"encrypted\",state=\"up\"} 1",
        "podwire_peers{mode=\"host-network\",state=\"plaintext\"} 1",
        "podwire_dropped_packets_total{reason=",
    ] {
        ensure!(text.contains(sample), "{sample} is not in:\n{text}");
    }
    ensure!(
        get(node, "/healthz")?.0.contains("200"),
        "healthz over HTTP"
    );
    ensure!(
        get(node, "/status")?.0.contains("404"),
        "the open port tells more than metrics"
    );
    Ok(())
}

/// Every file below a folder, as text.
fn files(folder: &Path) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if path.is_file() {
            let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
            found.push((
                path.file_name().unwrap_or_default().display().to_string(),
                text,
            ));
        }
    }
    Ok(found)
}

/// Each lane's private key and the public one beside it, from the file that only its owner reads:
/// lines of `current-N=PRIVATE PUBLIC`.
fn key_pairs(node: &Node) -> Result<Vec<(String, String)>> {
    let path = node.state_dir().join("keys");
    let mode = fs::metadata(&path)?.permissions().mode();
    ensure!(
        mode & 0o777 == 0o600,
        "{} has mode {mode:o}",
        path.display()
    );
    let pairs = fs::read_to_string(&path)?
        .lines()
        .filter(|line| line.starts_with("current-"))
        .filter_map(|line| line.split_once('=')?.1.split_once(' '))
        .map(|(private, public)| (private.to_owned(), public.to_owned()))
        .collect();
    Ok(pairs)
}

fn private_key(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(1))?;
    for node in bed.nodes() {
        node.set_agent_arguments(&["--log", "trace", "--lanes", "2"]);
    }
    bed.start_agents()?;
    matrix::all_reached(&bed.matrix().run())?;
    let node = bed.node(1);
    let mut shown = vec![
        ("the log".to_owned(), node.log()),
        ("metrics".to_owned(), get(node, "/metrics")?.1),
    ];
    for command in ["status", "peers", "drops"] {
        for output in ["text", "json"] {
            let text = node.agent_output(&[command, "-o", output])?;
            shown.push((format!("{command} -o {output}"), text));
        }
    }
    shown.extend(files(bed.directory().path())?);
    let told = status(node)?.public_key.context("a key")?;
    let pairs = key_pairs(node)?;
    ensure!(
        pairs.len() == 2,
        "{} keys of two lanes on disk",
        pairs.len()
    );
    ensure!(
        pairs[0].1 == told,
        "the file's public key is not the node's: the test proves nothing"
    );
    for (private, public) in &pairs {
        ensure!(private.len() == 44, "no key of 44 characters");
        ensure!(
            shown.iter().any(|(_, text)| text.contains(public)),
            "the public key is shown nowhere either"
        );
        for (name, text) in &shown {
            // Without the padding too, and without the end that another encoding may alter.
            ensure!(!text.contains(&private[..42]), "{name} shows a private key");
        }
    }
    Ok(())
}
