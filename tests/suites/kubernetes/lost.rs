//! Pairs that are meshed do not notice what becomes of the API server, and a node that comes
//! meanwhile waits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::join_all;
use podwire_testbed::agent_view::{CONVERGENCE, status, wait_status, wait_whole};
use podwire_testbed::control_plane::{AGENT_USER, Server, WITHOUT_WATCH_LIST, kubelet_token};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{ControlPlane, Node, Testbed, kubernetes_mesh, until};

use crate::scene::{
    Flows, annotation, cluster, join, mesh, move_node_3, topology, wait_followed, wait_lost,
};

pub(crate) const TESTS: &[Test] = &[
    ("a_minute_without_the_api_server_loses_no_packet", stopped),
    (
        "an_older_backup_of_the_api_server_loses_no_packet",
        restored,
    ),
    (
        "a_server_that_streams_no_lists_is_asked_for_pages",
        without_watch_list,
    ),
    ("a_connection_into_a_black_hole_is_given_up", black_hole),
    (
        "a_position_that_the_server_has_forgotten_is_read_anew",
        forgotten,
    ),
    (
        "a_server_that_has_too_much_to_do_is_waited_for",
        too_many_requests,
    ),
    ("a_server_without_its_store_is_waited_for", without_store),
    (
        "an_expired_token_is_replaced_by_the_one_on_disk",
        expired_token,
    ),
    ("another_ca_of_the_server_is_read_from_disk", another_ca),
    (
        "an_agent_that_starts_without_the_api_server_goes_on_with_what_it_knows",
        restarted_without,
    ),
];

/// All pairs of the nodes 1 to 3.
const PAIRS: &[(u8, u8)] = &[(1, 2), (1, 3), (2, 3)];

/// Longer than a token may live, and than what the API server remembers of one.
const TOKEN_SECONDS: u64 = 15;

fn stopped(context: &Context) -> Result<()> {
    let (bed, cluster) = cluster(context, &topology(4))?;
    join(&bed, &cluster, &[1, 2, 3])?;
    // The fourth knows its Node and nothing else before the server goes.
    cluster.join(bed.node(4))?;
    until(CONVERGENCE, "the first three to be whole", || {
        for node in &bed.nodes()[..3] {
            ensure!(status(node)?.peers.encrypted == 2, "not yet");
        }
        Ok(())
    })?;
    for (one, other) in PAIRS {
        reached(&bed, *one, *other)?;
    }
    let flows = Flows::start(&bed, PAIRS)?;
    cluster.stop_server(Server::ApiServer)?;
    let newcomer = bed.node(4);
    newcomer.start_agent()?;
    wait_lost(&bed)?;
    flows.go_on(60)?;
    ensure!(
        !status(newcomer)?.ready,
        "ready without having seen any Node"
    );
    cluster.start_server(Server::ApiServer)?;
    wait_followed(&bed)?;
    newcomer.wait_ready()?;
    wait_whole(&bed)?;
    flows.lost_nothing()
}

fn reached(bed: &Testbed, from: u8, to: u8) -> Result<()> {
    for target in bed.pod(to, 1).addresses() {
        let probe = bed.probe(
            bed.pod(from, 1).host(),
            podwire_testbed::Protocol::Udp,
            target,
        );
        until(
            CONVERGENCE,
            &format!("node {from} to reach {target}"),
            || Ok(probe.ask()?),
        )?;
    }
    Ok(())
}

/// The backup knows another port of node 3.
fn restored(context: &Context) -> Result<()> {
    let (bed, cluster) = mesh(context)?;
    let flows = Flows::start(&bed, &[(1, 2)])?;
    let backup = cluster.snapshot()?;
    let node = bed.node(3);
    node.stop_agent()?;
    node.set_agent_arguments(&["--lanes", "1", "--listen-port", "51887"]);
    node.start_agent()?;
    node.wait_ready()?;
    let is_new = || -> Result<()> {
        let endpoints = annotation(&cluster, "node-3", "endpoints")?;
        ensure!(endpoints.contains(":51887"), "{endpoints}");
        Ok(())
    };
    until(CONVERGENCE, "the new port", is_new)?;
    wait_whole(&bed)?;
    cluster.restore(&backup)?;
    until(
        CONVERGENCE,
        "the new port in the place of the backup's",
        is_new,
    )?;
    wait_followed(&bed)?;
    wait_whole(&bed)?;
    flows.lost_nothing()?;
    // What comes after the backup is heard of, though its versions were there before.
    move_node_3(&bed, &cluster, 50)
}

fn without_watch_list(context: &Context) -> Result<()> {
    let (bed, cluster) = mesh(context)?;
    let flows = Flows::start(&bed, &[(1, 2)])?;
    cluster.set_api_server_arguments(&[WITHOUT_WATCH_LIST]);
    cluster.restart_server(Server::ApiServer)?;
    wait_followed(&bed)?;
    // An agent that has just started reads all there is.
    let node = bed.node(3);
    node.stop_agent()?;
    node.start_agent()?;
    node.wait_ready()?;
    wait_followed(&bed)?;
    let listed = |verb: &str| -> Result<usize> {
        let is_it = |node: &Option<String>| node.as_deref() == Some("node-3");
        let requests = cluster.audit()?;
        let of_all = requests.iter().filter(|request| request.name.is_empty());
        Ok(of_all
            .filter(|request| request.verb == verb && is_it(&request.node))
            .count())
    };
    ensure!(
        listed("list")? > 1,
        "no list in the place of a streamed one"
    );
    move_node_3(&bed, &cluster, 50)?;
    flows.lost_nothing()
}

fn black_hole(context: &Context) -> Result<()> {
    let (bed, cluster) = mesh(context)?;
    let flows = Flows::start(&bed, PAIRS)?;
    let router = bed.underlay().namespace();
    router.nft(&kubernetes_mesh::black_hole())?;
    wait_lost(&bed)?;
    flows.go_on(10)?;
    router.nft("delete table inet hole")?;
    wait_followed(&bed)?;
    flows.lost_nothing()?;
    move_node_3(&bed, &cluster, 50)
}

/// While the agents stand still, the server is started again twice, with news between.
fn forgotten(context: &Context) -> Result<()> {
    let (bed, cluster) = mesh(context)?;
    let node = bed.node(1);
    node.pause_agent()?;
    for _ in 0..2 {
        cluster.heartbeat("node-2")?;
        cluster.restart_server(Server::ApiServer)?;
    }
    cluster.heartbeat("node-2")?;
    node.resume_agent()?;
    wait_followed(&bed)?;
    wait_whole(&bed)?;
    move_node_3(&bed, &cluster, 50)
}

/// One request at a time, whoever asks, but for administrators and watches.
const ONE_AT_A_TIME: &[&str] = &[
    "--enable-priority-and-fairness=false",
    "--max-requests-inflight=1",
    "--max-mutating-requests-inflight=1",
];

/// Requests at a time of somebody who leaves no room.
const CROWD: usize = 48;

fn too_many_requests(context: &Context) -> Result<()> {
    let (bed, cluster) = mesh(context)?;
    let flows = Flows::start(&bed, &[(1, 2)])?;
    cluster.set_api_server_arguments(ONE_AT_A_TIME);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let crowd = scope.spawn(|| crowd(&cluster, &stop));
        let refused = cluster
            .restart_server(Server::ApiServer)
            .and_then(|()| refuse(&cluster, bed.node(3)))
            .and_then(|()| flows.go_on(10));
        stop.store(true, Ordering::Relaxed);
        crowd
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        refused
    })?;
    wait_followed(&bed)?;
    wait_whole(&bed)?;
    flows.lost_nothing()?;
    move_node_3(&bed, &cluster, 50)
}

/// Asks without a pause, whatever the answer.
fn crowd(cluster: &ControlPlane, stop: &AtomicBool) -> Result<()> {
    let client = cluster.client_as(&kubelet_token("node-1"))?;
    let asks = (0..CROWD).map(|_| async {
        while !stop.load(Ordering::Relaxed) {
            let request = http::Request::get("/api/v1/nodes/node-1").body(Vec::new());
            // Refusals are what it is for.
            if let Ok(request) = request {
                drop(client.request_text(request).await);
            }
        }
    });
    cluster.run(join_all(asks));
    Ok(())
}

/// Starts the agent of this node until an agent was refused for the crowd: which of the requests
/// find the server taken is chance.
fn refuse(cluster: &ControlPlane, node: &Node) -> Result<()> {
    until(CONVERGENCE, "an agent to be refused for the crowd", || {
        node.kill_agent()?;
        node.start_agent()?;
        wait_status(node, "an answer or none", |status| {
            status.registry.synchronised || status.registry.lost.is_some()
        })?;
        let requests = cluster.audit()?;
        let mut of_agents = requests.iter().filter(|request| request.user == AGENT_USER);
        ensure!(of_agents.any(|request| request.code == 429), "none was");
        Ok(())
    })
}

fn without_store(context: &Context) -> Result<()> {
    let (bed, cluster) = mesh(context)?;
    let flows = Flows::start(&bed, &[(1, 2)])?;
    cluster.stop_server(Server::Etcd)?;
    // One that starts meanwhile asks in vain.
    let node = bed.node(3);
    node.kill_agent()?;
    node.start_agent()?;
    wait_status(node, "the API server to be lost", |status| {
        status.registry.lost.is_some()
    })?;
    cluster.start_server(Server::Etcd)?;
    wait_followed(&bed)?;
    node.wait_ready()?;
    wait_whole(&bed)?;
    flows.lost_nothing()?;
    move_node_3(&bed, &cluster, 50)
}

fn expired_token(context: &Context) -> Result<()> {
    let (bed, cluster) = cluster(context, &topology(2))?;
    let lifetime = Duration::from_secs(TOKEN_SECONDS);
    let mut credentials = Vec::new();
    for node in bed.nodes() {
        let of_node = cluster.join(node)?;
        cluster.renew_token(&of_node, lifetime)?;
        credentials.push(of_node);
        node.start_agent()?;
    }
    wait_whole(&bed)?;
    let flows = Flows::start(&bed, &[(1, 2)])?;
    let tokens: Vec<String> = credentials
        .iter()
        .map(|of| of.token())
        .collect::<Result<_>>()?;
    for token in &tokens {
        until(CONVERGENCE * 2, "the token's end", || {
            let allowed = cluster.kubectl_as(token, &["get", "nodes"], "");
            ensure!(allowed.is_err(), "it is still good");
            Ok(())
        })?;
    }
    cluster.restart_server(Server::ApiServer)?;
    wait_lost(&bed)?;
    for node in bed.nodes() {
        let lost = status(node)?.registry.lost.unwrap_or_default();
        ensure!(lost.contains("denies"), "{lost}");
    }
    for of_node in &credentials {
        cluster.renew_token(of_node, CONVERGENCE * 60)?;
    }
    wait_followed(&bed)?;
    flows.lost_nothing()
}

fn another_ca(context: &Context) -> Result<()> {
    let (bed, cluster) = mesh(context)?;
    let flows = Flows::start(&bed, PAIRS)?;
    cluster.rotate_ca()?;
    wait_followed(&bed)?;
    flows.lost_nothing()?;
    move_node_3(&bed, &cluster, 50)
}

fn restarted_without(context: &Context) -> Result<()> {
    let (bed, cluster): (_, ControlPlane) = mesh(context)?;
    let flows = Flows::start(&bed, &[(1, 2)])?;
    cluster.stop_server(Server::ApiServer)?;
    let node = bed.node(3);
    node.kill_agent()?;
    node.start_agent()?;
    wait_status(node, "the API server to be lost", |status| {
        status.registry.lost.is_some()
    })?;
    reached(&bed, 1, 3)?;
    reached(&bed, 3, 2)?;
    cluster.start_server(Server::ApiServer)?;
    wait_followed(&bed)?;
    wait_whole(&bed)?;
    flows.lost_nothing()
}
