//! What most tests begin with: a cluster, and pods on every node.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::api::ListParams;
use podwire_testbed::cluster::POD_IMAGE;
use podwire_testbed::suite::Context;
use podwire_testbed::{Cluster, ClusterPlan, Testbed, Topology};
use serde_json::json;

/// Where the pods of tests are.
pub(crate) const NAMESPACE: &str = "default";

/// Where they answer.
pub(crate) const PORT: &str = "8080";

/// The label `app` of the pods that are on every node.
pub(crate) const EVERYWHERE: &str = "everywhere";

/// Whatever the cluster does by itself is done by then, also on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// A cluster whose nodes have no network of pods yet.
pub(crate) fn cluster(
    context: &Context,
    nodes: u8,
    plan: &ClusterPlan,
) -> Result<(Arc<Testbed>, Cluster)> {
    let bed = context.testbed(&Topology::new().nodes(nodes).container_runtime())?;
    let cluster = Cluster::start(&bed, plan)?;
    Ok((bed, cluster))
}

/// Creates a pod on every node that answers at [`PORT`], and waits until each is Ready.
pub(crate) fn pods_everywhere(cluster: &Cluster) -> Result<()> {
    create_pods_everywhere(cluster)?;
    cluster.wait_rolled_out(NAMESPACE, &format!("daemonset/{EVERYWHERE}"))
}

/// Creates them, also where no pod can start.
pub(crate) fn create_pods_everywhere(cluster: &Cluster) -> Result<()> {
    let labels = json!({"app": EVERYWHERE});
    let manifest = json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": EVERYWHERE, "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": server()},
        },
    });
    apply(cluster, &manifest)
}

/// The specification of a pod that answers at [`PORT`].
pub(crate) fn server() -> serde_json::Value {
    json!({
        // It has nothing to finish.
        "terminationGracePeriodSeconds": 0,
        "containers": [{
            "name": "server",
            "image": POD_IMAGE,
            "imagePullPolicy": "Never",
            "command": ["pod-tools", "serve", PORT],
            "readinessProbe": {
                "tcpSocket": {"port": PORT.parse::<u16>().unwrap_or_default()},
                "periodSeconds": 1,
            },
        }],
    })
}

/// Creates a pod with a label `app` of its own name on a node, and waits until it is Ready.
pub(crate) fn pod_alone(
    cluster: &Cluster,
    name: &str,
    node: u8,
    mut spec: serde_json::Value,
) -> Result<()> {
    spec["nodeName"] = json!(cluster.node(node).name());
    let labels = json!({"app": name});
    apply(
        cluster,
        &json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
            "spec": spec,
        }),
    )?;
    cluster.wait_pods_ready(NAMESPACE, &format!("app={name}"))
}

/// Creates a Deployment of so many pods, with a label `app` of its name, and waits until all run.
pub(crate) fn deploy(
    cluster: &Cluster,
    name: &str,
    replicas: u8,
    spec: serde_json::Value,
) -> Result<()> {
    let labels = json!({"app": name});
    apply(
        cluster,
        &json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": spec},
            },
        }),
    )?;
    cluster.wait_rolled_out(NAMESPACE, &format!("deployment/{name}"))
}

/// A node's addresses in the mesh, those of its device, under which remote pods see what the node
/// itself sends to them: the first of its pods' in IPv4, the last in IPv6.
pub(crate) fn device_addresses(cluster: &Cluster, number: u8) -> Result<Vec<IpAddr>> {
    let cidrs = cluster.plane().pod_cidrs(cluster.node(number).name())?;
    let address = |cidr: &IpNet| match cidr {
        IpNet::V4(cidr) => cidr.network().into(),
        IpNet::V6(cidr) => cidr.broadcast().into(),
    };
    Ok(cidrs.iter().map(address).collect())
}

/// Applies a manifest, which JSON is, too.
pub(crate) fn apply(cluster: &Cluster, manifest: &serde_json::Value) -> Result<()> {
    let arguments = ["apply", "-f", "-"];
    let text = manifest.to_string();
    cluster.plane().kubectl(&arguments, &text).map(drop)
}

/// The pod with a label `app` on a node.
pub(crate) fn pod_on(cluster: &Cluster, app: &str, number: u8) -> Result<core::Pod> {
    let node = cluster.node(number).name();
    let pods: Api<core::Pod> = Api::namespaced(cluster.plane().client(), NAMESPACE);
    let which = ListParams::default()
        .labels(&format!("app={app}"))
        .fields(&format!("spec.nodeName={node}"));
    let pods = cluster.plane().run(pods.list(&which))?;
    let pod = pods.items.into_iter().next();
    pod.with_context(|| format!("no pod of {app} is on {node}"))
}

/// The name of that pod.
pub(crate) fn name_on(cluster: &Cluster, app: &str, number: u8) -> Result<String> {
    let pod = pod_on(cluster, app, number)?;
    pod.metadata.name.context("a pod of the API has a name")
}

/// Runs a command in one of a pod's containers and returns what it prints.
pub(crate) fn exec_in(
    cluster: &Cluster,
    (pod, container): (&str, &str),
    command: &[&str],
) -> Result<String> {
    let which = ["exec", pod, "--container", container, "--"];
    let all = [&["--namespace", NAMESPACE], &which[..], command].concat();
    cluster.plane().kubectl(&all, "")
}
