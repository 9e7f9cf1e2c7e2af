//! Ports of nodes that lead to a pod: those of a Service, and those of a pod itself.

use anyhow::Result;
use podwire_testbed::{Cluster, Host, until};
use serde_json::{Value, json};

use crate::asking::{self, Asker};
use crate::scene::{
    self, DEADLINE, EVERYWHERE, NAMESPACE, PORT, device_addresses, name_on, pod_alone,
};
use crate::services::{self, REMOTE};

/// The Service's port of every node.
const NODE_PORT: &str = "30080";

/// The pod's port of its node.
const HOST_PORT: &str = "8090";

/// Creates the pod that is the only one of its Service. It is on node 2.
pub(crate) fn create_remote_pod(cluster: &Cluster) -> Result<()> {
    let mut spec = scene::server();
    let port = |protocol: &str| {
        json!({
            "containerPort": PORT.parse::<u16>().unwrap_or_default(),
            "hostPort": HOST_PORT.parse::<u16>().unwrap_or_default(),
            "protocol": protocol,
        })
    };
    spec["containers"][0]["ports"] = json!([port("TCP"), port("UDP")]);
    pod_alone(cluster, REMOTE, 2, spec)
}

/// What gives a Service a port of every node.
pub(crate) fn settings() -> Value {
    let ports = ["TCP", "UDP"].map(|protocol| {
        let mut port = services::port(protocol);
        port["nodePort"] = json!(NODE_PORT.parse::<u16>().unwrap_or_default());
        port
    });
    json!({"type": "NodePort", "ports": ports})
}

/// Where every node leads to the pod, one without it does so under its own address in the mesh.
pub(crate) fn a_node_without_the_pod_leads_to_it(cluster: &Cluster, outside: &Host) -> Result<()> {
    let at = (cluster.node(1).addresses(), NODE_PORT);
    let seen = device_addresses(cluster, 1)?;
    for asker in [Asker::Outside(outside), Asker::Node(2)] {
        until(DEADLINE, "an answer of a node without the pod", || {
            asking::answered(cluster, asker, at, REMOTE, &seen)
        })?;
    }
    Ok(())
}

/// Where the pod's node alone leads to it, the pod sees who asks.
pub(crate) fn only_the_node_with_the_pod_answers_for_it(
    cluster: &Cluster,
    outside: &Host,
) -> Result<()> {
    let policy = json!({"spec": {"externalTrafficPolicy": "Local"}}).to_string();
    let patch = ["patch", "service", REMOTE, "--patch", &policy];
    let patch = [&["--namespace", NAMESPACE], &patch[..]].concat();
    cluster.plane().kubectl(&patch, "")?;
    until(DEADLINE, "a node without the pod to be silent", || {
        asking::unheard(
            cluster,
            Asker::Outside(outside),
            (cluster.node(1).addresses(), NODE_PORT),
        )
    })?;
    let at = (cluster.node(2).addresses(), NODE_PORT);
    until(DEADLINE, "an answer of the node with the pod", || {
        asked_from_elsewhere(cluster, outside, at.1)
    })
}

/// The pod's own port of its node, which nobody else has.
pub(crate) fn a_port_of_the_pods_node_leads_to_it(cluster: &Cluster, outside: &Host) -> Result<()> {
    asked_from_elsewhere(cluster, outside, HOST_PORT)
}

/// The pod answers at a port of its node, and sees the address of who asks: the host outside,
/// another node, and that node again in place of a pod of it, as to any host.
fn asked_from_elsewhere(cluster: &Cluster, outside: &Host, port: &str) -> Result<()> {
    let at = (cluster.node(2).addresses(), port);
    let seen = outside.addresses();
    asking::answered(cluster, Asker::Outside(outside), at, REMOTE, &seen)?;
    let node = cluster.node(1).addresses();
    asking::answered(cluster, Asker::Node(1), at, REMOTE, node)?;
    let pod = name_on(cluster, EVERYWHERE, 1)?;
    asking::answered(cluster, Asker::Pod(&pod), at, REMOTE, node)
}
