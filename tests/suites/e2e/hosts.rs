//! Hosts that pods talk with: their nodes' own network, and the outside.

use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use podwire_testbed::control_plane::program;
use podwire_testbed::{Cluster, Host, until};
use serde_json::json;

use crate::asking::{self, Asker, PROTOCOLS};
use crate::scene::{
    self, DEADLINE, EVERYWHERE, NAMESPACE, PORT, device_addresses, name_on, pod_alone,
};
use crate::services::WEB;

/// A pod in the network of node 2.
const HOST_NETWORK: &str = "host-network";

/// Pods reach it at its node's address under their own node's, in the clear as between any hosts;
/// it reaches pods through the mesh.
pub(crate) fn a_pod_in_its_nodes_network_talks_with_remote_pods(cluster: &Cluster) -> Result<()> {
    let mut spec = scene::server();
    spec["hostNetwork"] = json!(true);
    spec["dnsPolicy"] = json!("ClusterFirstWithHostNet");
    pod_alone(cluster, HOST_NETWORK, 2, spec)?;
    let node = cluster.node(2);
    let pod = name_on(cluster, EVERYWHERE, 1)?;
    let at = (node.addresses(), PORT);
    let seen = cluster.node(1).addresses();
    asking::answered(cluster, Asker::Pod(&pod), at, node.name(), seen)?;

    let addresses = cluster.pod_addresses(NAMESPACE, &pod)?;
    let asker = Asker::Pod(HOST_NETWORK);
    let seen = device_addresses(cluster, 2)?;
    asking::answered(cluster, asker, (&addresses, PORT), &pod, &seen)?;
    // One that asks for the cluster's names gets them.
    let (here, there) = (
        asking::resolve(cluster, HOST_NETWORK, WEB)?,
        asking::resolve(cluster, &pod, WEB)?,
    );
    ensure!(here == there, "{WEB} is {here:?}, and {there:?} to a pod");
    Ok(())
}

/// Who is outside the cluster sees the node that a pod is on.
pub(crate) fn pods_reach_the_outside_under_their_nodes_address(
    cluster: &Cluster,
    outside: &Host,
) -> Result<()> {
    let mut server = Command::new(program("pod-tools")?);
    server.args(["serve", PORT]).stdout(Stdio::null());
    // It ends with its namespace.
    drop(outside.namespace().spawn(server)?);
    for node in cluster.nodes() {
        let pod = name_on(cluster, EVERYWHERE, node.number())?;
        let pairs = outside.addresses().into_iter().zip(node.addresses());
        for (target, own) in pairs {
            for protocol in PROTOCOLS {
                let seen = until(DEADLINE, "an answer from outside", || {
                    let at = (&*target.to_string(), PORT);
                    Ok(asking::ask(cluster, Asker::Pod(&pod), protocol, at)?.seen)
                })?;
                ensure!(seen == *own, "{pod} is seen as {seen}, not {own}");
            }
        }
    }
    Ok(())
}
