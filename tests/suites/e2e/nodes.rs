//! Nodes: how they become Ready, boot, and are replaced.

use std::fs;

use anyhow::{Result, ensure};
use podwire_testbed::cluster::Service;
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Cluster, ClusterPlan, Testbed, until};

use crate::scene::{self, DEADLINE, EVERYWHERE, name_on, pod_on};
use crate::{asking, plain_network};

pub(crate) const TESTS: &[Test] = &[
    (
        "nodes_are_ready_once_a_cni_configuration_appears",
        nodes_are_ready_once_a_cni_configuration_appears,
    ),
    (
        "a_rebooted_node_comes_back_with_its_pods_and_so_does_a_replaced_one",
        a_rebooted_node_comes_back_with_its_pods_and_so_does_a_replaced_one,
    ),
];

fn nodes_are_ready_once_a_cni_configuration_appears(context: &Context) -> Result<()> {
    let (bed, cluster) = scene::cluster(context, 2, &ClusterPlan::default())?;
    for node in cluster.nodes() {
        until(DEADLINE, "a node to miss its network", || {
            let ready = cluster.ready_condition(node.name())?;
            let message = ready.message.unwrap_or_default();
            ensure!(
                ready.status == "False",
                "{} is {}",
                node.name(),
                ready.status
            );
            ensure!(message.contains("cni plugin not initialized"), "{message}");
            Ok(())
        })?;
    }
    plain_network::connect(&bed, &cluster)?;
    cluster.wait_ready()
}

fn a_rebooted_node_comes_back_with_its_pods_and_so_does_a_replaced_one(
    context: &Context,
) -> Result<()> {
    let (bed, cluster) = scene::cluster(context, 2, &ClusterPlan::default())?;
    plain_network::connect(&bed, &cluster)?;
    cluster.wait_ready()?;
    scene::pods_everywhere(&cluster)?;
    let mark = "/var/lib/podwire/mark";
    cluster.node(2).write(mark, "of the disk")?;
    fs::write(cluster.node(2).path("/run/mark")?, "of the boot")?;

    cluster.reboot(2)?;
    plain_network::route(&bed, &cluster, 2)?;
    ensure!(fs::read_to_string(cluster.node(2).path(mark)?)? == "of the disk");
    ensure!(
        !cluster.node(2).path("/run/mark")?.exists(),
        "/run was kept"
    );
    wait_restarted(&cluster, 1)?;
    reached(&cluster)?;

    for service in [Service::Kubelet, Service::Containerd, Service::KubeProxy] {
        cluster.node(2).restart(service)?;
    }
    reached(&cluster)?;

    let uid = cluster.plane().node("node-2")?.metadata.uid;
    cluster.replace(2)?;
    let next = cluster.plane().node("node-2")?.metadata.uid;
    ensure!(uid != next, "the Node is the one that was there before");
    ensure!(!cluster.node(2).path(mark)?.exists(), "the disk was kept");
    connect_again(&bed, &cluster)?;
    // The Pod is the same one: its node's name came back before it was missed.
    until(DEADLINE, "the pod to run on the new node", || {
        reached(&cluster)
    })
}

/// The new node has other pod CIDRs, perhaps.
fn connect_again(bed: &Testbed, cluster: &Cluster) -> Result<()> {
    plain_network::route(bed, cluster, 2)?;
    plain_network::configure(cluster, cluster.node(2))?;
    plain_network::route(bed, cluster, 1)
}

/// Waits until the pod of node 2 is Ready after so many restarts of its container.
fn wait_restarted(cluster: &Cluster, times: i32) -> Result<()> {
    until(DEADLINE, "the pod to run again", || {
        let status = pod_on(cluster, EVERYWHERE, 2)?.status.unwrap_or_default();
        let container = status.container_statuses.unwrap_or_default();
        let restarted = container
            .iter()
            .any(|c| c.ready && c.restart_count >= times);
        ensure!(restarted, "{container:?}");
        Ok(())
    })
}

/// The pod of node 1 is answered by the one of node 2.
fn reached(cluster: &Cluster) -> Result<()> {
    let pods = [1, 2].map(|node| name_on(cluster, EVERYWHERE, node));
    let [from, to] = pods;
    asking::reached(cluster, &from?, &to?)
}
