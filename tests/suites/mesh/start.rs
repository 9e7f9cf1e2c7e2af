//! A start that fails, or that finds the registry in disorder, opens nothing and cuts nobody off.

use std::fs;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{IpVersion, Node, Protocol, Testbed, Topology, matrix, until};

use podwire_testbed::agent_view::{CONVERGENCE, peer, status, wait_peers};

pub(crate) const TESTS: &[Test] = &[
    ("a_start_that_fails_leaves_the_node_closed", a_failed_start),
    (
        "an_own_manifest_that_is_malformed_or_gone_cuts_no_local_pod_off",
        an_own_manifest_in_disorder,
    ),
    (
        "a_route_that_cannot_be_set_keeps_no_other_peer_from_its_own",
        an_occupied_route,
    ),
    (
        "a_metrics_port_that_is_taken_stops_no_traffic",
        a_taken_metrics_port,
    ),
    (
        "an_agent_that_crashed_asks_its_former_peers_by_itself",
        a_crash,
    ),
    (
        "a_cluster_cidr_that_contains_the_nodes_address_is_refused",
        a_cluster_cidr_that_locks_out,
    ),
];

fn addresses(bed: &Testbed, node: u8) -> Vec<IpAddr> {
    bed.pod(node, 1).addresses()
}

/// Keys that are damaged, on a node that has no guards: as after a reboot.
fn a_failed_start(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(1))?;
    let node = bed.node(1);
    fs::create_dir_all(node.state_dir())?;
    fs::write(node.state_dir().join("keys"), "garbage")?;
    node.start_agent()?;
    let ended = node.wait_agent_end(CONVERGENCE)?;
    ensure!(!ended.success(), "it started with damaged keys");
    for target in addresses(&bed, 2) {
        let outcome = bed.probe(bed.pod(1, 1).host(), Protocol::Tcp, target).ask();
        ensure!(outcome.is_err(), "{target} was reached: {outcome:?}");
    }
    // The capture has seen no packet of it in plaintext: the end of every test says so.
    Ok(())
}

fn reached_from_own_node(bed: &Testbed, node: &Node) -> Result<()> {
    for target in node.pod(1).addresses() {
        bed.probe(node.host(), Protocol::Tcp, target)
            .ask()
            .with_context(|| format!("{} to its own pod {target}", node.name()))?;
    }
    Ok(())
}

fn an_own_manifest_in_disorder(context: &Context) -> Result<()> {
    let bed = context.mesh(&Topology::new().nodes(2).pods_per_node(1))?;
    wait_peers(&bed)?;
    matrix::all_reached(&bed.matrix().run())?;
    let node = bed.node(1);
    let manifest = bed.directory().manifest_path(node.name());
    bed.directory().replace(&manifest, "{ not: a manifest")?;
    let what = "the agent to see that its manifest is malformed";
    until(CONVERGENCE, what, || {
        let problems = status(node)?.problems;
        ensure!(!problems.is_empty(), "no problem is shown");
        Ok(())
    })?;
    reached_from_own_node(&bed, node)?;
    node.delete_manifest()?;
    reached_from_own_node(&bed, node)?;
    // Not even a restart forgets the local pods.
    node.kill_agent()?;
    node.start_agent()?;
    until(CONVERGENCE, "the agent to answer", || {
        status(node).map(drop)
    })?;
    reached_from_own_node(&bed, node)?;
    node.edit_manifest(|_| ())?;
    node.wait_ready()?;
    until(CONVERGENCE, "the mesh to be whole again", || {
        matrix::all_reached(&bed.matrix().run())
    })
}

/// A foreign route with the very metric that ours have stands in the way of one peer.
fn an_occupied_route(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(3).pods_per_node(1))?;
    let node = bed.node(1);
    let cidrs = bed.node(2).manifest().pod_cidrs;
    let foreign: Vec<String> = cidrs
        .iter()
        .map(|cidr| format!("route add blackhole {cidr} metric 1024 protocol static"))
        .collect();
    node.namespace().ip(&foreign)?;
    bed.nodes()
        .iter()
        .try_for_each(|node| node.edit_manifest(|_| ()))?;
    bed.nodes().iter().try_for_each(Node::start_agent)?;
    [2, 3]
        .iter()
        .try_for_each(|number| bed.node(*number).wait_ready())?;
    until(CONVERGENCE, "node-1 to reach node-3's pods", || {
        for target in addresses(&bed, 3) {
            bed.probe(bed.pod(1, 1).host(), Protocol::Tcp, target)
                .ask()?;
        }
        Ok(())
    })?;
    let problems = status(node)?.problems.join("; ");
    ensure!(
        problems.contains("route"),
        "the route in the way is not named: {problems}"
    );
    let gone: Vec<String> = cidrs
        .iter()
        .map(|cidr| format!("route del blackhole {cidr} metric 1024"))
        .collect();
    node.namespace().ip(&gone)?;
    node.wait_ready()?;
    until(CONVERGENCE, "the mesh to be whole", || {
        matrix::all_reached(&bed.matrix().run())
    })
}

fn a_taken_metrics_port(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(1))?;
    let holder = bed
        .node(1)
        .namespace()
        .run(|| std::net::TcpListener::bind("127.0.0.1:9587"))
        .context("taking the metrics port")?;
    bed.start_agents()?;
    until(CONVERGENCE, "the mesh to be whole", || {
        matrix::all_reached(&bed.matrix().run())
    })?;
    let log = bed.node(1).log();
    ensure!(
        log.contains("cannot serve metrics"),
        "the log does not tell:\n{log}"
    );
    drop(holder);
    let what = "metrics to be served once the port is free";
    until(CONVERGENCE, what, || {
        bed.node(1).namespace().run(|| {
            std::net::TcpStream::connect("127.0.0.1:9587")
                .map(drop)
                .context("connecting")
        })
    })
}

fn a_cluster_cidr_that_locks_out(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(1))?;
    let node = bed.node(1);
    let address = node.host().address(IpVersion::V4)?;
    node.set_agent_arguments(&["--cluster-cidr", &format!("{address}/32")]);
    node.start_agent()?;
    let ended = node.wait_agent_end(CONVERGENCE)?;
    ensure!(!ended.success(), "it started");
    ensure!(
        node.log().contains("cut the node off"),
        "the reason is missing: {}",
        node.log()
    );
    let other = bed.node(2).host().address(IpVersion::V4)?;
    bed.probe(node.host(), Protocol::Tcp, other)
        .ask()
        .context("the node is cut off")?;
    Ok(())
}

/// Without a packet of its own: its peers still send under the sessions that died with it.
fn a_crash(context: &Context) -> Result<()> {
    let bed = context.mesh(&Topology::new().nodes(2).pods_per_node(1))?;
    until(CONVERGENCE, "the mesh to be whole", || {
        matrix::all_reached(&bed.matrix().run())
    })?;
    let node = bed.node(1);
    let what = "the confirmed handshakes to be on disk";
    until(CONVERGENCE, what, || {
        let kept = fs::read_to_string(node.state_dir().join("snapshot.json"))?;
        ensure!(kept.contains("public_key"), "no incumbent in {kept}");
        Ok(())
    })?;
    node.kill_agent()?;
    node.start_agent()?;
    node.wait_ready()?;
    until(CONVERGENCE, "a session without traffic", || {
        let state = peer(node, bed.node(2).name())?.state;
        ensure!(state == "up", "node-2 is {state}");
        Ok(())
    })
}
