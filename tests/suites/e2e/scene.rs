//! What most tests begin with: a cluster, and pods on every node.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
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
