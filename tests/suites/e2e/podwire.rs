//! Podwire as its users roll it out: `kubectl apply -k deploy/`, and only the image is there before.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use podwire_testbed::{Cluster, ClusterPlan};

/// Names the image; `make e2e` builds it.
const IMAGE_VARIABLE: &str = "PODWIRE_IMAGE";

/// Where its objects are.
pub(crate) const NAMESPACE: &str = "podwire-system";

pub(crate) const DAEMON_SET: &str = "daemonset/podwire-agent";

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
    cluster
        .plane()
        .kubectl(&["apply", "-k", &folder(kustomization)], "")?;
    cluster.wait_rolled_out(NAMESPACE, DAEMON_SET)
}

/// Deletes what `deploy` has.
pub(crate) fn delete(cluster: &Cluster) -> Result<()> {
    let arguments = ["delete", "--wait", "-k", &folder("")];
    cluster.plane().kubectl(&arguments, "").map(drop)
}

fn folder(kustomization: &str) -> String {
    format!("{}/../deploy/{kustomization}", env!("CARGO_MANIFEST_DIR"))
}
