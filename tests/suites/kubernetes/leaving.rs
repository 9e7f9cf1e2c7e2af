//! A node leaves the mesh for good: `podwire-agent cleanup` with the name of its Node.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, run_program, wait_peers, wait_status};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{ControlPlane, Node, Testbed, until};

use crate::scene::{cluster, join, topology};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_node_that_leaves_takes_its_record_and_keys_and_nothing_else",
        leaves,
    ),
    (
        "a_cleanup_takes_no_record_of_another_node",
        another_nodes_record,
    ),
];

/// An annotation of somebody else, and one that only operators write.
const OTHERS: [(&str, &str); 2] = [
    ("example.com/theirs", "as it was"),
    ("request.podwire.dev/mode", "to=auto,by=admin"),
];

/// Two meshed nodes without pods: what these would send after the clean-up, nothing guards.
fn pair(context: &Context) -> Result<(Arc<Testbed>, ControlPlane)> {
    let (bed, cluster) = cluster(context, &topology(2).pods_per_node(0))?;
    join(&bed, &cluster, &[1, 2])?;
    wait_peers(&bed)?;
    Ok((bed, cluster))
}

/// All but the controllers', which write theirs when they come to it.
fn annotations(cluster: &ControlPlane, node: &str) -> Result<BTreeMap<String, String>> {
    let mut annotations = cluster.node(node)?.metadata.annotations.unwrap_or_default();
    annotations.retain(|key, _| !key.starts_with("node.alpha.kubernetes.io/"));
    Ok(annotations)
}

fn record(annotations: &BTreeMap<String, String>) -> BTreeMap<&String, &String> {
    let is_record = |(key, _): &(&String, &String)| key.starts_with("podwire.dev/");
    annotations.iter().filter(is_record).collect()
}

/// Cleans up on a node, as the agent whose kubeconfig that is, the record of this Node.
fn cleanup(node: &Node, kubeconfig: &Path, whose: &str) -> Result<Output> {
    let program = node.agent_program()?.to_owned();
    let words: [&OsStr; 8] = [
        "cleanup".as_ref(),
        "--state-dir".as_ref(),
        node.state_dir().as_os_str(),
        "--remove-state".as_ref(),
        "--node-name".as_ref(),
        whose.as_ref(),
        "--kubeconfig".as_ref(),
        kubeconfig.as_os_str(),
    ];
    run_program(node, &program, &words)
}

fn leaves(context: &Context) -> Result<()> {
    let (bed, cluster) = pair(context)?;
    let node = bed.node(1);
    for (key, value) in OTHERS {
        let change = format!("{key}={value}");
        cluster.kubectl(&["annotate", "node", node.name(), &change], "")?;
    }
    let before = annotations(&cluster, node.name())?;
    ensure!(!record(&before).is_empty(), "no record: nothing is shown");
    node.stop_agent()?;
    let credentials = cluster.agent_credentials(node.name(), CONVERGENCE * 60)?;
    // Twice: what is done again finds nothing.
    for count in [record(&before).len(), 0] {
        let expected = format!("node-1: {count} removed");
        let output = cleanup(node, &credentials.kubeconfig(), node.name())?;
        let told = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success() && told.contains(&expected),
            "{expected}: {told}{errors}"
        );
        let after = annotations(&cluster, node.name())?;
        let mut others = before.clone();
        others.retain(|key, _| !key.starts_with("podwire.dev/"));
        ensure!(after == others, "{after:?} in place of {others:?}");
    }
    let left = std::fs::read_dir(node.state_dir()).into_iter().flatten();
    let left: Vec<_> = left.flatten().map(|entry| entry.file_name()).collect();
    ensure!(left.is_empty(), "keys or more are left: {left:?}");
    wait_status(bed.node(2), "node-1 to be no peer", |status| {
        status.peers.total == 0
    })?;
    Ok(())
}

fn another_nodes_record(context: &Context) -> Result<()> {
    let (bed, cluster) = pair(context)?;
    let node = bed.node(1);
    node.stop_agent()?;
    let credentials = cluster.agent_credentials(node.name(), CONVERGENCE * 60)?;
    let token = credentials.token()?;
    let attempt = [
        "annotate",
        "node",
        "node-2",
        "--dry-run=server",
        "podwire.dev/mode-",
    ];
    until(CONVERGENCE, "the policy to be in force", || {
        let allowed = cluster.kubectl_as(&token, &attempt, "");
        ensure!(allowed.is_err(), "it is allowed");
        Ok(())
    })?;
    let before = annotations(&cluster, "node-2")?;
    let output = cleanup(node, &credentials.kubeconfig(), "node-2")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1)
            && errors.contains("may only update the Node on which it runs"),
        "{errors}"
    );
    let after = annotations(&cluster, "node-2")?;
    ensure!(after == before, "{after:?} in place of {before:?}");
    // What failed is done again: the keys are still there.
    let keys = node.state_dir().join("keys");
    std::fs::metadata(&keys).with_context(|| format!("{} is gone", keys.display()))?;
    Ok(())
}
