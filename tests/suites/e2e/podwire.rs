//! Podwire as its users roll it out: `kubectl apply -k deploy/`; only the image is there before.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::api::ListParams;
use podwire_testbed::{Cluster, ClusterPlan};

/// Names the image; `make e2e` builds it.
const IMAGE_VARIABLE: &str = "PODWIRE_IMAGE";

/// Where its objects are.
pub(crate) const NAMESPACE: &str = "podwire-system";

pub(crate) const DAEMON_SET: &str = "daemonset/podwire-agent";

/// The overlay for single nodes that are not to encrypt, and its DaemonSet for them.
pub(crate) const SINGLE_NODES: &str = "overlays/host-network-nodes";
pub(crate) const SINGLE_NODES_DAEMON_SET: &str = "daemonset/podwire-agent-host-network";

/// What makes a node one of these.
pub(crate) const SINGLE_NODES_LABEL: &str = "node-restriction.kubernetes.io/podwire-mode";

/// Makes a node one of these.
pub(crate) fn label_host_network(cluster: &Cluster, number: u8) -> Result<()> {
    let node = cluster.node(number).name();
    let label = [
        "label",
        "node",
        node,
        &format!("{SINGLE_NODES_LABEL}=host-network"),
    ];
    cluster.plane().kubectl(&label, "").map(drop)
}

/// A cluster whose nodes have the image.
pub(crate) fn plan() -> Result<ClusterPlan> {
    let image = std::env::var_os(IMAGE_VARIABLE);
    let image = image.with_context(|| format!("{IMAGE_VARIABLE} names no image: make e2e"))?;
    Ok(ClusterPlan {
        images: vec![PathBuf::from(image)],
        ..ClusterPlan::default()
    })
}

/// Applies a kustomization of `deploy`, such as `cleanup`, and waits until every node has it.
pub(crate) fn roll_out(cluster: &Cluster, kustomization: &str) -> Result<()> {
    apply(cluster, &folder(kustomization))?;
    cluster.wait_rolled_out(NAMESPACE, DAEMON_SET)
}

/// Applies whatever kustomization is in a folder.
pub(crate) fn apply(cluster: &Cluster, folder: &str) -> Result<()> {
    let arguments = ["apply", "-k", folder];
    cluster.plane().kubectl(&arguments, "").map(drop)
}

/// Writes a user's own kustomization. `DEPLOY` in its text is the way from there to `deploy`.
pub(crate) fn write_kustomization(folder: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(folder)?;
    let folder = folder.canonicalize()?;
    let deploy = fs::canonicalize(self::folder(""))?;
    // kustomize takes no absolute path.
    let up = "../".repeat(folder.components().count() - 1);
    let way = format!("{up}{}", deploy.strip_prefix("/")?.display());
    let text = text.replace("DEPLOY", &way);
    fs::write(folder.join("kustomization.yaml"), text).context("writing a kustomization")
}

/// The agent's pod on a node: the newest one that is not about to end.
pub(crate) fn agent_on(cluster: &Cluster, number: u8) -> Result<core::Pod> {
    let node = cluster.node(number).name();
    let pods: Api<core::Pod> = Api::namespaced(cluster.plane().client(), NAMESPACE);
    let which = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let pods = cluster.plane().run(pods.list(&which))?.items.into_iter();
    let mut pods = pods.filter(|pod| pod.metadata.deletion_timestamp.is_none());
    pods.next()
        .with_context(|| format!("no agent is on {node}"))
}

/// Runs a command of the agent on a node, as `kubectl exec POD -- /podwire-agent COMMAND`.
pub(crate) fn ask_agent(cluster: &Cluster, number: u8, command: &[&str]) -> Result<String> {
    let pod = agent_on(cluster, number)?;
    let name = pod.metadata.name.context("a pod of the API has a name")?;
    let command = [&["/podwire-agent"], command].concat();
    cluster.exec(NAMESPACE, &name, &command)
}

/// Deletes what `deploy` has.
pub(crate) fn delete(cluster: &Cluster) -> Result<()> {
    let arguments = ["delete", "--wait", "-k", &folder("")];
    cluster.plane().kubectl(&arguments, "").map(drop)
}

fn folder(kustomization: &str) -> String {
    format!("{}/../deploy/{kustomization}", env!("CARGO_MANIFEST_DIR"))
}
