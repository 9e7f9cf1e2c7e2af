//! Nodes find each other by the API server, and follow each other's changes.

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, peer, routes_to, status, wait_status, wait_whole};
use podwire_testbed::control_plane::Server;
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{matrix, until};

use crate::scene::{
    Flows, agents_writes, annotation, cluster, join, mesh, move_node_3, topology, wait_records,
};

pub(crate) const TESTS: &[Test] = &[
    ("three_nodes_find_each_other_from_nothing", from_nothing),
    (
        "a_node_that_is_deleted_and_made_again_is_another_one",
        made_again,
    ),
    ("pod_cidrs_that_come_late_are_waited_for", late_cidrs),
    ("another_address_of_a_node_is_followed", another_address),
    (
        "an_address_of_one_family_that_comes_and_goes_is_followed",
        one_family,
    ),
    ("a_node_in_host_network_mode_is_followed", host_network),
];

fn from_nothing(context: &Context) -> Result<()> {
    let (bed, cluster) = mesh(context)?;
    matrix::all_reached(&bed.matrix().run())?;
    for node in bed.nodes() {
        let name = node.name();
        let own = status(node)?.public_key.context("no key")?;
        ensure!(
            annotation(&cluster, name, "public-key")? == own,
            "another key of {name}"
        );
        ensure!(
            annotation(&cluster, name, "mode")? == "encrypted",
            "{name} is not encrypted"
        );
        let cidrs: Vec<String> = cluster
            .pod_cidrs(name)?
            .iter()
            .map(ToString::to_string)
            .collect();
        ensure!(
            annotation(&cluster, name, "pod-cidrs")? == cidrs.join(","),
            "{cidrs:?}"
        );
        ensure!(
            annotation(&cluster, name, "endpoints")?.contains(":51880"),
            "no endpoints"
        );
    }
    // One write a node: nothing changed after it.
    wait_records(&cluster, 3)?;
    let writes = agents_writes(&cluster)?;
    ensure!(writes.iter().all(|write| write.code == 200), "{writes:?}");
    // What an operator reads.
    let jsonpath = "-o=jsonpath={.metadata.annotations.podwire\\.dev/public-key}";
    let read = cluster.kubectl(&["get", "node", "node-1", jsonpath], "")?;
    ensure!(
        Some(&read) == status(bed.node(1))?.public_key.as_ref(),
        "{read}"
    );
    Ok(())
}

fn made_again(context: &Context) -> Result<()> {
    let (bed, cluster) = mesh(context)?;
    let node = bed.node(3);
    let flows = Flows::start(&bed, &[(1, 2)])?;
    cluster.delete_node("node-3")?;
    for other in [bed.node(1), bed.node(2)] {
        wait_status(other, "the deleted peer to go", |status| {
            status.peers.total == 1
        })?;
        until(CONVERGENCE, "its routes to go", || {
            let routes = routes_to(other, node)?;
            ensure!(routes.is_empty(), "{routes:?}");
            Ok(())
        })?;
    }
    node.stop_agent()?;
    join(&bed, &cluster, &[3])?;
    wait_whole(&bed)?;
    flows.lost_nothing()
}

fn late_cidrs(context: &Context) -> Result<()> {
    let (bed, cluster) = cluster(context, &topology(3))?;
    join(&bed, &cluster, &[1, 2])?;
    cluster.stop_server(Server::ControllerManager)?;
    let node = bed.node(3);
    cluster.create_node(node.name(), &node.manifest().addresses)?;
    let credentials = cluster.agent_credentials(node.name(), CONVERGENCE * 60)?;
    node.use_kubernetes(&credentials.kubeconfig());
    node.start_agent()?;
    wait_status(node, "its Node", |status| status.registry.synchronised)?;
    ensure!(!status(node)?.ready, "ready without pod CIDRs");
    ensure!(
        annotation(&cluster, "node-3", "mode").is_err(),
        "a record without pod CIDRs"
    );
    cluster.start_server(Server::ControllerManager)?;
    node.set_pod_cidrs(cluster.pod_cidrs("node-3")?)?;
    node.wait_ready()?;
    wait_whole(&bed)
}

fn another_address(context: &Context) -> Result<()> {
    let (bed, cluster) = mesh(context)?;
    let flows = Flows::start(&bed, &[(1, 2)])?;
    move_node_3(&bed, &cluster, 50)?;
    wait_records(&cluster, 4)?;
    flows.lost_nothing()
}

fn one_family(context: &Context) -> Result<()> {
    let (bed, cluster) = mesh(context)?;
    let flows = Flows::start(&bed, &[(1, 2), (1, 3)])?;
    let both = bed.node(3).manifest().addresses;
    let v4: Vec<_> = both
        .iter()
        .copied()
        .filter(std::net::IpAddr::is_ipv4)
        .collect();
    for addresses in [&v4, &both] {
        cluster.set_addresses("node-3", addresses)?;
        until(CONVERGENCE, "the record to name these addresses", || {
            let endpoints = annotation(&cluster, "node-3", "endpoints")?;
            ensure!(
                endpoints.split(',').count() == addresses.len(),
                "{endpoints}"
            );
            Ok(())
        })?;
        wait_whole(&bed)?;
        ensure!(
            peer(bed.node(1), "node-3")?.state == "up",
            "node-3 is not up"
        );
    }
    flows.lost_nothing()
}

fn host_network(context: &Context) -> Result<()> {
    let (bed, cluster) = mesh(context)?;
    bed.expect_plaintext();
    let node = bed.node(3);
    node.stop_agent()?;
    node.set_agent_arguments(&["--lanes", "1", "--mode", "host-network"]);
    node.start_agent()?;
    node.wait_ready()?;
    for other in [bed.node(1), bed.node(2)] {
        wait_status(other, "a plaintext peer", |status| {
            status.plaintext == ["node-3"]
        })?;
    }
    ensure!(
        annotation(&cluster, "node-3", "mode")? == "host-network",
        "another mode"
    );
    ensure!(
        annotation(&cluster, "node-3", "public-key").is_err(),
        "a key without use"
    );
    wait_whole(&bed)?;
    // Peers read its addresses anew though no key and no mode changes.
    node.change_address(50)?;
    cluster.set_addresses(node.name(), &node.manifest().addresses)?;
    wait_whole(&bed)?;
    // An Event at the Node tells who sends and takes plaintext.
    until(CONVERGENCE, "an Event about plaintext pairs", || {
        let events = cluster.kubectl(&["get", "events", "-o=json"], "")?;
        ensure!(
            events.contains("PlaintextPairs") && events.contains("node-3"),
            "{events}"
        );
        Ok(())
    })
}
