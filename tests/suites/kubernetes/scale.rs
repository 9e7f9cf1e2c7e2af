//! Thousands of Nodes with heartbeats against one agent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fmt, thread};

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use podwire_testbed::agent_view::status;
use podwire_testbed::control_plane::{Server, kubelet};
use podwire_testbed::suite::{self, Context, Test};
use podwire_testbed::{
    ControlPlane, Family, Node, PaperNode, ProcessMemory, Topology, cpu_seconds, results, until,
};
use serde_json::{Value, json};

pub(crate) const TESTS: &[Test] = &[(
    "an_agent_among_thousands_of_nodes_takes_64_mib_at_most_and_follows_500_that_join_at_once",
    scale,
)];

/// Nodes that join at once when all others are there.
const NEWCOMERS: u32 = 500;

/// Requests at a time, of all fake kubelets together.
const REQUESTS: usize = 16;

/// A kubelet tells its status this often, changed or not.
const HEARTBEAT: Duration = Duration::from_secs(300);

/// Images that a kubelet names: its own most.
const IMAGES: u32 = 50;

/// A promise: resident memory in KiB.
const RESIDENT_MAX: u64 = 64 * 1024;

/// A promise: of one processor, at rest.
const BUSY_MAX: f64 = 0.01;

const DEADLINE: Duration = Duration::from_secs(300);

/// What was measured.
struct Measured {
    nodes: usize,
    first: Duration,
    bytes: u64,
    resident: u64,
    peak: u64,
    rest: Duration,
    busy: f64,
    rest_bytes: u64,
    joined: Duration,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# One agent among many Nodes\n")?;
        writeln!(
            f,
            "A real API server; Nodes of 18 KB with a record each, whose kubelets tell a status every 300 s.\n"
        )?;
        writeln!(f, "| what | |\n|---|---|")?;
        writeln!(f, "| Nodes | {} |", self.nodes)?;
        let first = self.first.as_secs_f64();
        writeln!(
            f,
            "| from the start to all peers and routes | {first:.1} s |"
        )?;
        writeln!(f, "| read for that | {:.1} MiB |", mebibytes(self.bytes))?;
        writeln!(
            f,
            "| resident then, and at most so far | {:.1} MiB, {:.1} MiB |",
            mebibytes(self.resident * 1024),
            mebibytes(self.peak * 1024)
        )?;
        let rest = self.rest.as_secs();
        writeln!(
            f,
            "| of one processor, in {rest} s of heartbeats alone | {:.2} % |",
            self.busy * 100.0
        )?;
        writeln!(
            f,
            "| read in that time | {:.1} KiB/s |",
            mebibytes(self.rest_bytes) * 1024.0 / self.rest.as_secs_f64()
        )?;
        writeln!(
            f,
            "| {NEWCOMERS} more that are created one after the other as fast as the server takes them: all are peers after | {:.1} s |",
            self.joined.as_secs_f64()
        )
    }
}

fn mebibytes(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let bytes = bytes as f64;
    bytes / f64::from(1 << 20)
}

#[expect(clippy::print_stdout, reason = "the promise is to measure")]
fn scale(context: &Context) -> Result<()> {
    let others: u32 = if suite::is_soak() { 5_000 } else { 500 };
    let topology = Topology::new()
        .nodes(1)
        .pods_per_node(1)
        .family(Family::V4)
        .agent_arguments(&["--lanes", "1", "--cluster-cidr", PaperNode::CLUSTER_CIDR]);
    let bed = context.testbed(&topology)?;
    let cluster = ControlPlane::start(&bed, &[])?;
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/base");
    cluster.kubectl(&["apply", "-k", base], "")?;
    // Whoever makes these Nodes writes their records, too.
    let bindings = ["delete", "validatingadmissionpolicybinding", "--all"];
    cluster.kubectl(&bindings, "")?;
    let node = bed.node(1);
    cluster.join(node)?;
    // It would take Nodes without a lease for dead.
    cluster.stop_server(Server::ControllerManager)?;
    until(DEADLINE, "the policies to be gone", || {
        create(&cluster, 0..1)
    })?;
    create(&cluster, 1..others)?;

    let before = received(node)?;
    let start = Instant::now();
    node.start_agent()?;
    node.wait_ready()?;
    wait_peers(node, others)?;
    let first = start.elapsed();
    let bytes = received(node)? - before;
    let memory = ProcessMemory::of(node.agent_pid()?)?;

    let rest = Duration::from_secs(if suite::is_soak() { 120 } else { 20 });
    let stop = AtomicBool::new(false);
    let (busy, rest_bytes) = thread::scope(|scope| {
        let beating = scope.spawn(|| heartbeats(&cluster, others, &stop));
        let measured = at_rest(node, rest);
        stop.store(true, Ordering::Relaxed);
        beating
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        measured
    })?;

    let start = Instant::now();
    create(&cluster, others..others + NEWCOMERS)?;
    wait_peers(node, others + NEWCOMERS)?;
    let joined = start.elapsed();
    let peak = ProcessMemory::of(node.agent_pid()?)?.peak;
    let measured = Measured {
        nodes: usize::try_from(others)? + 1,
        first,
        bytes,
        resident: memory.resident,
        peak,
        rest,
        busy,
        rest_bytes,
        joined,
    };
    println!("{measured}");
    if suite::is_soak() {
        results::write("kubernetes-scale", &measured.to_string())?;
        ensure!(
            busy <= BUSY_MAX,
            "{:.2} % of a processor at rest",
            busy * 100.0
        );
    }
    ensure!(peak <= RESIDENT_MAX, "{peak} KiB");
    Ok(())
}

fn wait_peers(node: &Node, others: u32) -> Result<()> {
    let others = usize::try_from(others)?;
    until(DEADLINE, "all peers", || {
        let status = status(node)?;
        ensure!(
            status.peers.encrypted == others,
            "{} of {others}",
            status.peers.encrypted
        );
        Ok(())
    })
}

/// The processor's share that the agent takes, and what it receives.
fn at_rest(node: &Node, rest: Duration) -> Result<(f64, u64)> {
    let pid = node.agent_pid()?;
    let (busy, bytes, start) = (cpu_seconds(pid)?, received(node)?, Instant::now());
    until(rest * 2, "the end of the time of rest", || {
        ensure!(start.elapsed() >= rest, "not yet");
        Ok(())
    })?;
    let busy = (cpu_seconds(pid)? - busy) / start.elapsed().as_secs_f64();
    Ok((busy, received(node)? - bytes))
}

/// Bytes that came in by the node's underlay link, which carries nothing but the API here.
fn received(node: &Node) -> Result<u64> {
    let text = node
        .namespace()
        .output("ip", &["-j", "-s", "link", "show", "eth0"], "")?;
    let links: Value = serde_json::from_str(&text)?;
    let bytes = links[0]["stats64"]["rx"]["bytes"].as_u64();
    bytes.with_context(|| format!("no counter in {text}"))
}

/// Every kubelet tells its status once in five minutes, one after the other.
fn heartbeats(cluster: &ControlPlane, nodes: u32, stop: &AtomicBool) -> Result<()> {
    let client = cluster.client();
    cluster.run(async {
        let mut beats = tokio::time::interval(HEARTBEAT / nodes);
        for number in (0..nodes).cycle() {
            beats.tick().await;
            if stop.load(Ordering::Relaxed) {
                break;
            }
            kubelet::report_ready(&client, &PaperNode::new(number).name()).await?;
        }
        Ok(())
    })
}

/// Creates these Nodes with their records, then tells their status.
fn create(cluster: &ControlPlane, numbers: std::ops::Range<u32>) -> Result<()> {
    let nodes: Api<core::Node> = Api::all(cluster.client());
    let made = stream::iter(numbers).map(|number| create_one(&nodes, PaperNode::new(number)));
    cluster.run(made.buffer_unordered(REQUESTS).try_collect::<Vec<()>>())?;
    Ok(())
}

async fn create_one(nodes: &Api<core::Node>, paper: PaperNode) -> Result<()> {
    let name = paper.name();
    let labels: Value = (0..14)
        .map(|n| (format!("example.com/label-{n}"), json!(name)))
        .collect();
    let node = serde_json::from_value(json!({
        "metadata": { "name": name, "annotations": paper.record(), "labels": labels },
        "spec": { "podCIDR": paper.pod_cidr(), "podCIDRs": [paper.pod_cidr()] },
    }))?;
    nodes.create(&PostParams::default(), &node).await?;
    let image = |number| {
        let names = ["tag", "sha256"].map(|kind| format!("registry.example.com/team/{kind}/image-{number}:{name}-0123456789abcdef0123456789abcdef0123456789abcdef"));
        json!({ "names": names, "sizeBytes": 123_456_789 })
    };
    let images: Vec<Value> = (0..IMAGES).map(image).collect();
    let addresses = json!([{ "type": "InternalIP", "address": paper.address() }]);
    let status = json!({ "status": { "addresses": addresses, "images": images } });
    let parameters = PatchParams::default();
    nodes
        .patch_status(&name, &parameters, &Patch::Merge(status))
        .await?;
    Ok(())
}
