//! Pods, and what the tests' own tools in them do.

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::cluster::POD_IMAGE;
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Cluster, ClusterPlan};
use serde_json::{Value, json};

use crate::plain_network;
use crate::scene::{self, EVERYWHERE, NAMESPACE, name_on};

/// Where datagrams are counted.
const COUNT_PORT: &str = "8081";

pub(crate) const TESTS: &[Test] = &[(
    "pods_run_on_each_node_with_exec_and_logs_and_tools_that_count_and_talk",
    pods_run_on_each_node_with_exec_and_logs_and_tools_that_count_and_talk,
)];

fn pods_run_on_each_node_with_exec_and_logs_and_tools_that_count_and_talk(
    context: &Context,
) -> Result<()> {
    let (bed, cluster) = scene::cluster(context, 2, &ClusterPlan::default())?;
    plain_network::connect(&bed, &cluster)?;
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
    ipc_is_shared_inside_a_pod(&cluster)?;
    datagrams_are_counted(&cluster)
}

fn ipc_is_shared_inside_a_pod(cluster: &Cluster) -> Result<()> {
    let container = |name| json!({"name": name, "image": POD_IMAGE, "imagePullPolicy": "Never"});
    scene::apply(
        cluster,
        &json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "two", "namespace": NAMESPACE, "labels": {"app": "two"}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [container("one"), container("other")],
            },
        }),
    )?;
    cluster.wait_pods_ready(NAMESPACE, "app=two")?;
    cluster.exec(NAMESPACE, "two", &["pod-tools", "ipc-put", "hello"])?;
    let other = [
        "exec",
        "two",
        "--container=other",
        "--",
        "pod-tools",
        "ipc-take",
    ];
    let taken = cluster.plane().kubectl(&other, "")?;
    ensure!(taken.lines().count() == 4, "{taken}");
    ensure!(
        taken.lines().all(|line| line.ends_with(": hello")),
        "{taken}"
    );
    // Messages are taken once: nobody else had put them there.
    let again = cluster.plane().kubectl(&other, "");
    ensure!(again.is_err(), "a message was taken twice: {again:?}");
    Ok(())
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
