//! A node that changes is followed, and nobody else notices.

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Bystanders, IpVersion, Protocol, Testbed, Topology, matrix, until};

use podwire_testbed::agent_view::{CONVERGENCE, peer, routes, routes_to, status, wait_status};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_node_with_another_address_port_or_pod_cidr_is_followed",
        places,
    ),
    ("a_node_with_another_key_is_followed", key),
    ("a_node_that_changes_its_mode_and_back_is_followed", mode),
    (
        "a_node_deleted_and_created_again_is_another_node",
        created_again,
    ),
];

/// A peer is removed with its old claim and added with its new one.
const REPLACED: u64 = 2;

/// Three nodes of one pod each and one lane, so that only a new session makes a handshake.
fn mesh(context: &Context) -> Result<std::sync::Arc<Testbed>> {
    let topology = Topology::new()
        .pods_per_node(1)
        .agent_arguments(&["--lanes", "1"]);
    let bed = context.mesh(&topology)?;
    matrix::all_reached(&bed.matrix().run())?;
    Ok(bed)
}

/// Waits until both other nodes' pods and node 3's reach each other.
fn follows(bed: &Testbed) -> Result<()> {
    let pods = |node| bed.pod(node, 1).host();
    for other in [1, 2] {
        for version in [IpVersion::V4, IpVersion::V6] {
            for (from, to) in [(other, 3), (3, other)] {
                let what = format!("node {to} to be reached from node {from} over {version}");
                let target = pods(to).address(version)?;
                let probe = bed.probe(pods(from), Protocol::Udp, target);
                until(CONVERGENCE, &what, || Ok(probe.ask()?))?;
            }
        }
    }
    matrix::all_reached(&bed.matrix().run())
}

fn places(context: &Context) -> Result<()> {
    let bed = mesh(context)?;
    let (observer, node) = (bed.node(1), bed.node(3));

    let bystanders = Bystanders::watch(&bed)?;
    node.change_address(50)?;
    follows(&bed).context("another address")?;
    let endpoint = peer(observer, "node-3")?.endpoint;
    ensure!(
        endpoint.as_deref() == Some("192.0.2.60:51880"),
        "{endpoint:?}"
    );
    bystanders.untouched(REPLACED).context("another address")?;

    let bystanders = Bystanders::watch(&bed)?;
    node.stop_agent()?;
    node.set_agent_arguments(&["--lanes", "1", "--listen-port", "51887"]);
    node.start_agent()?;
    node.wait_ready()?;
    follows(&bed).context("another port")?;
    let endpoint = peer(observer, "node-3")?.endpoint;
    ensure!(
        endpoint.as_deref() == Some("192.0.2.60:51887"),
        "{endpoint:?}"
    );
    bystanders.untouched(REPLACED).context("another port")?;

    let bystanders = Bystanders::watch(&bed)?;
    let before = routes_to(observer, node)?;
    ensure!(!before.is_empty(), "no route to node 3 before the change");
    node.change_pod_cidrs(77)?;
    follows(&bed).context("other pod CIDRs")?;
    let now = routes(observer)?;
    ensure!(
        before.iter().all(|line| !now.contains(line)),
        "old routes stay: {now:?}"
    );
    ensure!(routes_to(observer, node)?.len() == before.len(), "{now:?}");
    bystanders.untouched(REPLACED).context("other pod CIDRs")
}

fn key(context: &Context) -> Result<()> {
    let bed = mesh(context)?;
    let node = bed.node(3);
    let before = status(node)?.public_key.context("a key")?;
    let bystanders = Bystanders::watch(&bed)?;
    node.stop_agent()?;
    node.forget_state()?;
    node.start_agent()?;
    node.wait_ready()?;
    follows(&bed)?;
    let after = status(node)?.public_key.context("a key")?;
    ensure!(before != after, "the key came back from nowhere");
    ensure!(
        peer(bed.node(1), "node-3")?.public_key == Some(after),
        "another key than its own"
    );
    bystanders.untouched(REPLACED)
}

fn mode(context: &Context) -> Result<()> {
    let bed = mesh(context)?;
    let node = bed.node(3);
    bed.expect_plaintext();

    let bystanders = Bystanders::watch(&bed)?;
    node.stop_agent()?;
    node.set_agent_arguments(&["--lanes", "1", "--mode", "host-network"]);
    node.start_agent()?;
    node.wait_ready()?;
    for other in [bed.node(1), bed.node(2)] {
        wait_status(other, "a plaintext peer", |status| {
            status.plaintext == ["node-3"]
        })?;
    }
    // All traffic so far was the other two's.
    let report = bed.capture().report()?;
    ensure!(report.plaintext_frames() == 0, "{report:?}");
    follows(&bed).context("to host-network")?;
    for other in [bed.node(1), bed.node(2)] {
        let status = status(other)?;
        ensure!(status.plaintext == ["node-3"], "{status:?}");
        ensure!(
            status.peers.host_network == 1 && status.peers.encrypted == 1,
            "{status:?}"
        );
    }
    bystanders.untouched(REPLACED).context("to host-network")?;

    let bystanders = Bystanders::watch(&bed)?;
    let before = bed.capture().report()?;
    node.stop_agent()?;
    node.set_agent_arguments(&["--lanes", "1", "--mode", "encrypted"]);
    node.start_agent()?;
    node.wait_ready()?;
    for other in [bed.node(1), bed.node(2)] {
        wait_status(other, "all peers to be encrypted", |status| {
            status.plaintext.is_empty() && status.peers.encrypted == 2
        })?;
    }
    follows(&bed).context("back to encrypted")?;
    let after = bed.capture().report()?;
    ensure!(
        before.plaintext_frames() == after.plaintext_frames(),
        "plaintext after the change back: {after:?}"
    );
    bystanders.untouched(REPLACED).context("back to encrypted")
}

fn created_again(context: &Context) -> Result<()> {
    let bed = mesh(context)?;
    let (observer, node) = (bed.node(1), bed.node(3));
    let before = status(node)?.public_key.context("a key")?;

    let bystanders = Bystanders::watch(&bed)?;
    node.delete_manifest()?;
    for other in [observer, bed.node(2)] {
        wait_status(other, "the deleted peer to go", |status| {
            status.peers.total == 1
        })?;
        until(CONVERGENCE, "its routes to go", || {
            let routes = routes_to(other, node)?;
            ensure!(routes.is_empty(), "{routes:?}");
            Ok(())
        })?;
        for version in [IpVersion::V4, IpVersion::V6] {
            let target = bed.pod(3, 1).host().address(version)?;
            let probe = bed.probe(bed.pod(other.number(), 1).host(), Protocol::Udp, target);
            let answer = probe.timeout(std::time::Duration::from_millis(500)).ask();
            ensure!(
                answer.is_err(),
                "a deleted node's pod answered {}",
                other.name()
            );
        }
    }
    bystanders.untouched(1).context("deleted")?;

    let bystanders = Bystanders::watch(&bed)?;
    node.stop_agent()?;
    node.forget_state()?;
    node.edit_manifest(|manifest| {
        manifest.uid = "ffffffff-0000-4000-8000-000000000003".to_owned();
        manifest.created = "2026-02-02T00:00:00Z".to_owned();
    })?;
    node.start_agent()?;
    node.wait_ready()?;
    follows(&bed).context("created again")?;
    let after = status(node)?.public_key.context("a key")?;
    ensure!(before != after, "the key came back from nowhere");
    ensure!(
        peer(observer, "node-3")?.public_key == Some(after),
        "another key than its own"
    );
    // First a Node without a record, which is no peer, then one with.
    bystanders.untouched(1).context("created again")
}
