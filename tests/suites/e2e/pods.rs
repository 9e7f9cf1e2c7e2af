//! Pods, and what the tests' own tools in them do.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::Cluster;
use podwire_testbed::cluster::POD_IMAGE;
use podwire_testbed::suite::{Context, Test};
use serde_json::{Value, json};

use crate::asking::{self, Asker};
use crate::podwire;
use crate::scene::{self, EVERYWHERE, NAMESPACE, PORT, name_on};

/// Where datagrams are counted.
const COUNT_PORT: &str = "8081";

/// A pod on node 2 with two containers, of which the first one serves.
const PAIR: &str = "pair";
const FIRST: &str = "first";
const OTHER: &str = "other";

/// Where both have the pod's volume.
const SHARED: &str = "/shared";

pub(crate) const TESTS: &[Test] = &[(
    "pods_run_on_each_node_and_share_inside_what_they_share_without_a_mesh",
    pods_run_on_each_node_and_share_inside_what_they_share_without_a_mesh,
)];

fn pods_run_on_each_node_and_share_inside_what_they_share_without_a_mesh(
    context: &Context,
) -> Result<()> {
    let (_bed, cluster) = scene::cluster(context, 2, &podwire::plan()?)?;
    podwire::roll_out(&cluster, "")?;
    cluster.wait_ready()?;
    scene::pods_everywhere(&cluster)?;
    for node in cluster.nodes() {
        let pod = name_on(&cluster, EVERYWHERE, node.number())?;
        let host_name = cluster.exec(NAMESPACE, &pod, &["hostname"])?;
        ensure!(host_name.trim() == pod, "{host_name}");
        let logs = cluster.logs(NAMESPACE, &pod)?;
        ensure!(logs == "serving\n", "{logs}");
        let failed = cluster.exec(NAMESPACE, &pod, &["false"]);
        ensure!(failed.is_err(), "a command that fails is an error");
    }
    create_pair(&cluster)?;
    the_network_is_shared_inside_a_pod(&cluster)?;
    a_volume_is_shared_inside_a_pod(&cluster)?;
    ipc_is_shared_inside_a_pod(&cluster)?;
    datagrams_are_counted(&cluster)
}

fn create_pair(cluster: &Cluster) -> Result<()> {
    let mut spec = scene::server();
    let mounts = json!([{"name": "shared", "mountPath": SHARED}]);
    spec["volumes"] = json!([{"name": "shared", "emptyDir": {}}]);
    let mut first = spec["containers"][0].take();
    first["name"] = json!(FIRST);
    first["volumeMounts"] = mounts.clone();
    let other = json!({
        "name": OTHER,
        "image": POD_IMAGE,
        "imagePullPolicy": "Never",
        "volumeMounts": mounts,
    });
    spec["containers"] = json!([first, other]);
    scene::pod_alone(cluster, PAIR, 2, spec)
}

/// One serves; the other one reaches it by loopback and at the pod's address, a remote pod there.
fn the_network_is_shared_inside_a_pod(cluster: &Cluster) -> Result<()> {
    let own = cluster.pod_addresses(NAMESPACE, PAIR)?;
    let other = Asker::Container(PAIR, OTHER);
    let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    asking::answered(cluster, other, (&loopback, PORT), PAIR, &loopback)?;
    asking::answered(cluster, other, (&own, PORT), PAIR, &own)?;
    let remote = name_on(cluster, EVERYWHERE, 1)?;
    asking::reached(cluster, &remote, PAIR)
}

fn a_volume_is_shared_inside_a_pod(cluster: &Cluster) -> Result<()> {
    let file = format!("{SHARED}/text");
    let write = format!("echo hello >{file}");
    cluster.exec(NAMESPACE, PAIR, &["sh", "-c", &write])?;
    let read = in_other(cluster, &["cat", &file])?;
    ensure!(read == "hello\n", "{read}");
    // What is not of the volume is each one's own.
    cluster.exec(NAMESPACE, PAIR, &["sh", "-c", "echo hello >/tmp/text"])?;
    let read = in_other(cluster, &["cat", "/tmp/text"]);
    ensure!(read.is_err(), "containers have one root: {read:?}");
    Ok(())
}

fn ipc_is_shared_inside_a_pod(cluster: &Cluster) -> Result<()> {
    cluster.exec(NAMESPACE, PAIR, &["pod-tools", "ipc-put", "hello"])?;
    let take = ["pod-tools", "ipc-take"];
    let taken = in_other(cluster, &take)?;
    ensure!(taken.lines().count() == 4, "{taken}");
    ensure!(
        taken.lines().all(|line| line.ends_with(": hello")),
        "{taken}"
    );
    // Messages are taken once: nobody else had put them there.
    let again = in_other(cluster, &take);
    ensure!(again.is_err(), "a message was taken twice: {again:?}");
    Ok(())
}

/// Runs a command in the pair's other container.
fn in_other(cluster: &Cluster, command: &[&str]) -> Result<String> {
    scene::exec_in(cluster, (PAIR, OTHER), command)
}

fn datagrams_are_counted(cluster: &Cluster) -> Result<()> {
    let (from, to) = (
        name_on(cluster, EVERYWHERE, 1)?,
        name_on(cluster, EVERYWHERE, 2)?,
    );
    let address = cluster.pod_addresses(NAMESPACE, &to)?[0];
    let target = format!("{address}:{COUNT_PORT}");
    let receiver = format!("pod-tools count-receive {COUNT_PORT} >/dev/null 2>&1 &");
    cluster.exec(NAMESPACE, &to, &["sh", "-c", &receiver])?;
    let read = ["pod-tools", "count-read", &target];
    podwire_testbed::until(scene::DEADLINE, "the receiver to listen", || {
        cluster.exec(NAMESPACE, &from, &read)
    })?;
    let send = [
        "pod-tools",
        "count-send",
        "-rate",
        "200",
        "-for",
        "1s",
        &target,
    ];
    let sent: Value = serde_json::from_str(&cluster.exec(NAMESPACE, &from, &send)?)?;
    ensure!(sent[0]["sent"] == 200, "{sent}");
    podwire_testbed::until(scene::DEADLINE, "all datagrams", || {
        let counts: Value = serde_json::from_str(&cluster.exec(NAMESPACE, &from, &read)?)?;
        let stream = counts.get(0).context("nothing was counted")?;
        ensure!(
            stream["from"] == *from && stream["received"] == 200,
            "{counts}"
        );
        ensure!(stream["lost"] == 0 && stream["duplicates"] == 0, "{counts}");
        Ok(())
    })
}
