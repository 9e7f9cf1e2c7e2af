//! Network policies, which Podwire leaves to others: kube-router enforces them over the mesh.

use anyhow::{Result, ensure};
use podwire_testbed::cluster::policy_engine_image;
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Cluster, until};
use serde_json::json;

use crate::podwire;
use crate::scene::{self, DEADLINE, NAMESPACE, PORT};

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
        create_pod(&cluster, name, node)?;
    }
    cluster.wait_pods_ready(NAMESPACE, "app")?;
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

fn create_pod(cluster: &Cluster, name: &str, node: u8) -> Result<()> {
    let mut spec = scene::server();
    spec["nodeName"] = json!(cluster.node(node).name());
    scene::apply(
        cluster,
        &json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": name}},
            "spec": spec,
        }),
    )
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
    on_every_path(cluster, client, server, "an answer", |answer| {
        answer.map(drop)
    })
}

fn is_refused(cluster: &Cluster, client: &str, server: &str) -> Result<()> {
    on_every_path(cluster, client, server, "a refusal", |answer| {
        ensure!(answer.is_err(), "{answer:?}");
        Ok(())
    })
}

/// Asks in each family by each protocol until what comes of it is as expected.
fn on_every_path(
    cluster: &Cluster,
    client: &str,
    server: &str,
    what: &str,
    expect: impl Fn(Result<String>) -> Result<()>,
) -> Result<()> {
    let addresses = cluster.pod_addresses(NAMESPACE, server)?;
    ensure!(addresses.len() == 2, "{server} has {addresses:?}");
    for address in addresses.iter().map(ToString::to_string) {
        for protocol in ["tcp", "udp"] {
            let tools = ["pod-tools", "probe", "-for", "1s"];
            let question = [protocol, &address, PORT, "hello"];
            let command = [&tools[..], &question[..]].concat();
            let expected = format!("{what} from {server} to {client}: {question:?}");
            until(DEADLINE, &expected, || {
                expect(cluster.exec(NAMESPACE, client, &command))
            })?;
        }
    }
    Ok(())
}
