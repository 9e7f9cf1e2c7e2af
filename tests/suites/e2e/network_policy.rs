//! Network policies, which Podwire leaves to others: kube-router enforces them over the mesh.

use anyhow::Result;
use podwire_testbed::cluster::policy_engine_image;
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Cluster, until};
use serde_json::json;

use crate::scene::{self, DEADLINE, NAMESPACE};
use crate::{asking, podwire};

/// On one node: who may talk to [`GUARDED`], and who may not.
const FRIEND: &str = "friend";
const STRANGER: &str = "stranger";

/// On the other node: the pod that the policy is for, and one that it is not for.
const GUARDED: &str = "guarded";
const NEIGHBOUR: &str = "neighbour";

pub(crate) const TESTS: &[Test] = &[(
    "a_network_policy_is_enforced_by_other_software_over_the_mesh",
    a_network_policy_is_enforced_by_other_software_over_the_mesh,
)];

fn a_network_policy_is_enforced_by_other_software_over_the_mesh(context: &Context) -> Result<()> {
    let (bed, cluster) = scene::cluster(context, 2, &podwire::plan()?)?;
    cluster.import(&[policy_engine_image(&bed.folder())?])?;
    podwire::roll_out(&cluster, "")?;
    cluster.wait_ready()?;
    let apply = ["apply", "-f", "-"];
    cluster
        .plane()
        .kubectl(&apply, include_str!("kube_router.yaml"))?;
    for (name, node) in [(FRIEND, 1), (STRANGER, 1), (GUARDED, 2), (NEIGHBOUR, 2)] {
        scene::pod_alone(&cluster, name, node, scene::server())?;
    }
    cluster.wait_rolled_out("kube-system", "daemonset/kube-router")?;

    for client in [FRIEND, STRANGER, NEIGHBOUR] {
        is_answered(&cluster, client, GUARDED)?;
    }
    apply_policy(&cluster)?;
    // Of the same node, too: its packets cross the bridge alone.
    for client in [STRANGER, NEIGHBOUR] {
        is_refused(&cluster, client, GUARDED)?;
    }
    is_answered(&cluster, FRIEND, GUARDED)?;
    is_answered(&cluster, STRANGER, NEIGHBOUR)?;
    let delete = ["delete", "networkpolicy", GUARDED];
    cluster.plane().kubectl(&delete, "")?;
    for client in [STRANGER, NEIGHBOUR] {
        is_answered(&cluster, client, GUARDED)?;
    }
    Ok(())
}

/// Lets nobody but [`FRIEND`] talk to [`GUARDED`].
fn apply_policy(cluster: &Cluster) -> Result<()> {
    let pods = |name| json!({"matchLabels": {"app": name}});
    scene::apply(
        cluster,
        &json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": GUARDED, "namespace": NAMESPACE},
            "spec": {
                "podSelector": pods(GUARDED),
                "policyTypes": ["Ingress"],
                "ingress": [{"from": [{"podSelector": pods(FRIEND)}]}],
            },
        }),
    )
}

fn is_answered(cluster: &Cluster, client: &str, server: &str) -> Result<()> {
    let what = format!("{client} to reach {server}");
    until(DEADLINE, &what, || asking::reached(cluster, client, server))
}

fn is_refused(cluster: &Cluster, client: &str, server: &str) -> Result<()> {
    let what = format!("{client} not to reach {server}");
    until(DEADLINE, &what, || {
        asking::unreached(cluster, client, server)
    })
}
