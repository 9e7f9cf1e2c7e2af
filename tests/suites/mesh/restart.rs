//! An agent that ends, in any way, leaves all in place, and the next one goes on with it.

use std::ffi::OsStr;
use std::process::ExitStatus;

use anyhow::{Context as _, Result, bail, ensure};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{IpVersion, Node, TcpCounter, Testbed, Topology, matrix, until};

use podwire_testbed::agent_view::{
    CONVERGENCE, device_index, peer, program, routes, run_program, status, wait_status,
};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_killed_agent_keeps_its_key_device_and_routes",
        |context| restart(context, Node::kill_agent),
    ),
    (
        "a_stopped_agent_keeps_its_key_device_and_routes",
        |context| {
            restart(context, |node| {
                let status = node.stop_agent()?;
                ensure!(
                    status.success(),
                    "SIGTERM ended it with {status}: {}",
                    node.log_tail(5)
                );
                Ok(status)
            })
        },
    ),
    (
        "a_second_agent_with_the_same_state_folder_refuses",
        second_agent,
    ),
    (
        "an_agent_is_ready_only_after_its_first_synchronisation",
        readiness,
    ),
];

/// Messages a second of each connection that has to survive.
const RATE: u32 = 50;

/// What must be the same before, between and after.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    device: u64,
    routes: Vec<String>,
}

impl Kept {
    fn of(node: &Node) -> Result<Self> {
        Ok(Self {
            device: device_index(node)?,
            routes: routes(node)?,
        })
    }
}

/// Connections in both directions and versions; one is to a node's own pod from afar.
fn connections(bed: &Testbed) -> Result<Vec<TcpCounter>> {
    let (one, two) = (bed.pod(1, 1).host(), bed.pod(2, 1).host());
    [(one, two, IpVersion::V4), (two, one, IpVersion::V6)]
        .into_iter()
        .map(|(from, to, version)| bed.tcp_counter(from, to.address(version)?, RATE))
        .collect()
}

fn restart(context: &Context, end: fn(&Node) -> Result<ExitStatus>) -> Result<()> {
    let bed = context.mesh(&Topology::new().nodes(2).pods_per_node(1))?;
    matrix::all_reached(&bed.matrix().run())?;
    let node = bed.node(1);
    let connections = connections(&bed)?;
    for connection in &connections {
        connection.wait_for_more(u64::from(RATE), CONVERGENCE)?;
    }
    let key = status(node)?.public_key;
    ensure!(key.is_some(), "no key before the end");
    let record = std::fs::read(bed.directory().record_path(node.name()))?;
    let before = Kept::of(node)?;

    end(node)?;
    let between = Kept::of(node).context("without an agent")?;
    ensure!(before == between, "{before:?}, then {between:?}");

    node.start_agent()?;
    node.wait_ready()?;
    for connection in &connections {
        connection.wait_for_more(u64::from(RATE), CONVERGENCE)?;
    }
    let after = Kept::of(node)?;
    ensure!(before == after, "{before:?}, then {after:?}");
    ensure!(
        status(node)?.public_key == key,
        "another key: {:?}",
        status(node)?
    );
    let again = std::fs::read(bed.directory().record_path(node.name()))?;
    ensure!(
        record == again,
        "the record changed: {}",
        String::from_utf8_lossy(&again)
    );
    for connection in connections {
        let count = connection.stop()?;
        ensure!(
            count.broken.is_none() && count.out_of_turn == 0 && count.echoed == count.sent,
            "{count:?}"
        );
    }
    // The other agent never saw anything but a pause.
    let row = peer(bed.node(2), "node-1")?;
    ensure!(row.public_key == key, "{row:?}");
    matrix::all_reached(&bed.matrix().run())
}

fn second_agent(context: &Context) -> Result<()> {
    let bed = context.mesh(&Topology::new().nodes(1).pods_per_node(0))?;
    let node = bed.node(1);
    let before = Kept::of(node)?;
    let run_dir = bed.folder().join("second-run");
    let flags = [
        "run",
        "--node-name",
        "node-1",
        "--cluster-cidr",
        "10.244.0.0/16,fd00:10:244::/48",
        "--metrics-address",
        "127.0.0.1:9999",
    ];
    let mut arguments: Vec<&OsStr> = flags.iter().map(OsStr::new).collect();
    for (flag, path) in [
        ("--directory", bed.directory().path()),
        ("--state-dir", node.state_dir()),
        ("--run-dir", &run_dir),
    ] {
        arguments.extend([OsStr::new(flag), path.as_os_str()]);
    }
    let output = run_program(node, &program(node)?, &arguments)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1),
        "it ended with {}: {said}",
        output.status
    );
    ensure!(said.contains("another"), "it does not say why: {said}");
    ensure!(
        Kept::of(node)? == before,
        "the second agent changed the node"
    );
    ensure!(status(node)?.ready, "the first agent suffered");
    Ok(())
}

fn readiness(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(1))?;
    let node = bed.node(1);
    // A registry that knows others, but not the node itself.
    bed.node(2).edit_manifest(|_| ())?;
    node.start_agent()?;
    let status = wait_status(node, "to answer", |_| true)?;
    ensure!(!status.ready, "ready without a Node of its own: {status:?}");
    let Err(refused) = node.agent_output(&["healthz"]) else {
        bail!("healthy without a Node of its own");
    };
    // Nothing that a restart would mend.
    ensure!(node.agent_output(&["livez"])? == "live\n", "it is dead");
    ensure!(
        format!("{refused:#}").contains("exit code 1"),
        "{refused:#}"
    );
    let text = node.agent_output(&["status"])?;
    ensure!(
        text.contains("NOT READY") && text.contains("problem"),
        "it does not say why: {text}"
    );
    node.edit_manifest(|_| ())?;
    node.wait_ready()?;
    until(CONVERGENCE, "the record", || {
        Ok(std::fs::metadata(bed.directory().record_path(node.name()))?)
    })?;
    let settled = wait_status(node, "to be ready", |status| status.ready)?;
    ensure!(settled.problems.is_empty(), "{settled:?}");
    Ok(())
}
