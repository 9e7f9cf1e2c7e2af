//! Services: their names, and what is behind them.

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::cluster::ProxyMode;
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Cluster, ClusterPlan, until};
use serde_json::json;

use crate::plain_network;
use crate::podwire;
use crate::scene::{self, DEADLINE, EVERYWHERE, NAMESPACE, PORT, name_on};

/// The Service, and where it is served.
const SERVICE: &str = "web";
const SERVICE_PORT: &str = "80";

pub(crate) const TESTS: &[Test] = &[
    ("a_service_is_resolved_and_answers_by_nftables", |context| {
        on_plain_routes(context, ProxyMode::Nftables)
    }),
    ("a_service_is_resolved_and_answers_by_iptables", |context| {
        on_plain_routes(context, ProxyMode::Iptables)
    }),
    (
        "a_service_is_resolved_and_answers_through_the_mesh_by_nftables",
        |context| through_the_mesh(context, ProxyMode::Nftables),
    ),
    (
        "a_service_is_resolved_and_answers_through_the_mesh_by_iptables",
        |context| through_the_mesh(context, ProxyMode::Iptables),
    ),
];

fn on_plain_routes(context: &Context, proxy: ProxyMode) -> Result<()> {
    let plan = ClusterPlan {
        proxy,
        ..ClusterPlan::default()
    };
    let (bed, cluster) = scene::cluster(context, 2, &plan)?;
    plain_network::connect(&bed, &cluster)?;
    a_service_is_resolved_and_answers(&cluster)
}

fn through_the_mesh(context: &Context, proxy: ProxyMode) -> Result<()> {
    let plan = ClusterPlan {
        proxy,
        ..podwire::plan()?
    };
    let (_bed, cluster) = scene::cluster(context, 2, &plan)?;
    podwire::roll_out(&cluster, "")?;
    a_service_is_resolved_and_answers(&cluster)
}

fn a_service_is_resolved_and_answers(cluster: &Cluster) -> Result<()> {
    cluster.wait_ready()?;
    cluster.wait_rolled_out("kube-system", "deployment/coredns")?;
    scene::pods_everywhere(cluster)?;
    let addresses = create_service(cluster)?;
    let pod = name_on(cluster, EVERYWHERE, 1)?;

    until(DEADLINE, "the Service's name", || {
        let said = cluster.exec(NAMESPACE, &pod, &["pod-tools", "resolve", SERVICE])?;
        let mut resolved: Vec<_> = said.lines().map(str::to_owned).collect();
        resolved.sort();
        ensure!(resolved == addresses, "{resolved:?} are not {addresses:?}");
        Ok(())
    })?;
    for target in addresses.iter().map(String::as_str).chain([SERVICE]) {
        for protocol in ["tcp", "udp"] {
            let question = ["probe", protocol, target, SERVICE_PORT, "hello"];
            let command = [&["pod-tools"], &question[..]].concat();
            // A proxy hears of the Service, and of what is behind it, after the API has said so.
            until(DEADLINE, "an answer to a pod", || {
                answered(cluster, &cluster.exec(NAMESPACE, &pod, &command)?)
            })?;
            // The node itself has no DNS server.
            if target != SERVICE {
                until(DEADLINE, "an answer to a node", || {
                    answered(cluster, &cluster.node(1).run("pod-tools", &question, "")?)
                })?;
            }
        }
    }
    Ok(())
}

/// Creates the Service in both families and returns its addresses, sorted.
fn create_service(cluster: &Cluster) -> Result<Vec<String>> {
    let port = |protocol: &str| {
        json!({
            "name": protocol.to_lowercase(),
            "protocol": protocol,
            "port": SERVICE_PORT.parse::<u16>().unwrap_or_default(),
            "targetPort": PORT.parse::<u16>().unwrap_or_default(),
        })
    };
    scene::apply(
        cluster,
        &json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": SERVICE, "namespace": NAMESPACE},
            "spec": {
                "selector": {"app": EVERYWHERE},
                "ipFamilyPolicy": "RequireDualStack",
                "ports": [port("TCP"), port("UDP")],
            },
        }),
    )?;
    let get = [
        "get",
        "service",
        SERVICE,
        "--output=jsonpath={.spec.clusterIPs[*]}",
    ];
    let said = cluster.plane().kubectl(&get, "")?;
    let mut addresses: Vec<_> = said.split_whitespace().map(str::to_owned).collect();
    addresses.sort();
    ensure!(addresses.len() == 2, "{addresses:?}");
    Ok(addresses)
}

/// An answer is one of the pods'.
fn answered(cluster: &Cluster, answer: &str) -> Result<()> {
    let host_name = answer
        .split_whitespace()
        .nth(1)
        .context("an answer has a name")?;
    let pods = [1, 2].map(|node| name_on(cluster, EVERYWHERE, node));
    let pods = pods.into_iter().collect::<Result<Vec<_>>>()?;
    ensure!(
        pods.iter().any(|pod| pod == host_name),
        "{answer} is none of {pods:?}"
    );
    Ok(())
}
