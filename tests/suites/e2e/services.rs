//! Services: their names, and what is behind them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::cluster::ProxyMode;
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Cluster, ClusterPlan, until};
use serde_json::{Value, json};

use crate::asking::{self, Asker, PROTOCOLS};
use crate::scene::{self, DEADLINE, EVERYWHERE, NAMESPACE, PORT, device_addresses, name_on};
use crate::{hosts, node_ports, plain_network, podwire};

/// The Service of the pods that are on every node, and where it is served.
pub(crate) const WEB: &str = "web";
pub(crate) const SERVICE_PORT: &str = "80";

/// The same pods, each client with one of them.
const STICKY: &str = "sticky";

/// The same pods, without an address for all of them.
const HEADLESS: &str = "headless";

/// A Service, and its only pod, which is on node 2.
pub(crate) const REMOTE: &str = "remote";

pub(crate) const TESTS: &[Test] = &[
    // What the cluster does by itself: when this one fails, the others say nothing of the mesh.
    (
        "a_service_is_resolved_and_answers_on_plain_routes",
        on_plain_routes,
    ),
    (
        "services_and_ports_of_nodes_lead_to_pods_through_the_mesh_by_nftables",
        |context| through_the_mesh(context, ProxyMode::Nftables),
    ),
    (
        "services_and_ports_of_nodes_lead_to_pods_through_the_mesh_by_iptables",
        |context| through_the_mesh(context, ProxyMode::Iptables),
    ),
];

fn on_plain_routes(context: &Context) -> Result<()> {
    let (bed, cluster) = scene::cluster(context, 2, &ClusterPlan::default())?;
    plain_network::connect(&bed, &cluster)?;
    a_service_is_resolved_and_answers(&cluster)
}

fn through_the_mesh(context: &Context, proxy: ProxyMode) -> Result<()> {
    let plan = ClusterPlan {
        proxy,
        ..podwire::plan()?
    };
    let (bed, cluster) = scene::cluster(context, 2, &plan)?;
    podwire::roll_out(&cluster, "")?;
    let (cluster, outside) = (&cluster, bed.outside());
    a_service_is_resolved_and_answers(cluster)?;
    a_headless_name_stands_for_the_pods(cluster)?;
    a_client_stays_with_its_pod(cluster)?;
    node_ports::create_remote_pod(cluster)?;
    a_remote_pod_answers_at_its_service(cluster)?;
    node_ports::a_node_without_the_pod_leads_to_it(cluster, outside)?;
    node_ports::only_the_node_with_the_pod_answers_for_it(cluster, outside)?;
    node_ports::a_port_of_the_pods_node_leads_to_it(cluster, outside)?;
    hosts::a_pod_in_its_nodes_network_talks_with_remote_pods(cluster)?;
    hosts::pods_reach_the_outside_under_their_nodes_address(cluster, outside)
}

fn a_service_is_resolved_and_answers(cluster: &Cluster) -> Result<()> {
    cluster.wait_ready()?;
    cluster.wait_rolled_out("kube-system", "deployment/coredns")?;
    scene::pods_everywhere(cluster)?;
    let addresses = create(cluster, WEB, EVERYWHERE, &json!({}))?;
    let pods = pods_everywhere(cluster)?;
    for pod in &pods {
        // The server of names is on one node: the other one asks it across.
        resolved(cluster, pod, WEB, &addresses)?;
        let targets = addresses.iter().map(IpAddr::to_string);
        for target in targets.chain([WEB.to_owned()]) {
            for protocol in PROTOCOLS {
                // A proxy hears of the Service, and of what is behind it, after the API says so.
                until(DEADLINE, "an answer to a pod", || {
                    let at = (&*target, SERVICE_PORT);
                    let answer = asking::ask(cluster, Asker::Pod(pod), protocol, at)?;
                    ensure!(pods.contains(&answer.by), "{answer:?} is none of {pods:?}");
                    Ok(())
                })?;
            }
        }
    }
    // Both are behind it: so one of them is remote, whoever asks.
    for address in addresses {
        until(DEADLINE, "every pod to have answered", || {
            let answering = asking::answering_ten(cluster, &pods[0], (address, SERVICE_PORT))?;
            ensure!(answering.len() == pods.len(), "{answering:?} of {pods:?}");
            Ok(())
        })?;
    }
    Ok(())
}

fn a_headless_name_stands_for_the_pods(cluster: &Cluster) -> Result<()> {
    create(cluster, HEADLESS, EVERYWHERE, &json!({"clusterIP": "None"}))?;
    let pods = pods_everywhere(cluster)?;
    let addresses = pods.iter().map(|pod| cluster.pod_addresses(NAMESPACE, pod));
    let addresses = addresses.collect::<Result<Vec<_>>>()?.concat();
    for pod in &pods {
        resolved(cluster, pod, HEADLESS, &addresses)?;
        let answer = asking::ask(cluster, Asker::Pod(pod), "tcp", (HEADLESS, PORT))?;
        ensure!(pods.contains(&answer.by), "{answer:?} is none of {pods:?}");
    }
    Ok(())
}

/// Ten connections go to one pod; to a Service without affinity they do not, as was seen.
fn a_client_stays_with_its_pod(cluster: &Cluster) -> Result<()> {
    let affinity = json!({"sessionAffinity": "ClientIP"});
    let addresses = create(cluster, STICKY, EVERYWHERE, &affinity)?;
    for pod in pods_everywhere(cluster)? {
        for address in &addresses {
            let answering = until(DEADLINE, "ten answers", || {
                asking::answering_ten(cluster, &pod, (*address, SERVICE_PORT))
            })?;
            ensure!(answering.len() == 1, "{answering:?} answered {pod}");
        }
    }
    Ok(())
}

/// The only pod of a Service answers a pod and the host of the other node, and itself.
fn a_remote_pod_answers_at_its_service(cluster: &Cluster) -> Result<()> {
    let addresses = create(cluster, REMOTE, REMOTE, &node_ports::settings())?;
    let at = (&*addresses, SERVICE_PORT);
    let pod = name_on(cluster, EVERYWHERE, 1)?;
    let own = cluster.pod_addresses(NAMESPACE, &pod)?;
    until(DEADLINE, "an answer to a remote pod", || {
        asking::answered(cluster, Asker::Pod(&pod), at, REMOTE, &own)
    })?;
    // Encrypted, too: so under an address that is the node's in the mesh.
    asking::answered(
        cluster,
        Asker::Node(1),
        at,
        REMOTE,
        &device_addresses(cluster, 1)?,
    )?;
    until(DEADLINE, "an answer to itself", || {
        for protocol in PROTOCOLS {
            for target in &addresses {
                let at = (&*target.to_string(), SERVICE_PORT);
                // Under which address is the proxy's choice.
                let answer = asking::ask(cluster, Asker::Pod(REMOTE), protocol, at)?;
                ensure!(answer.by == REMOTE, "{answer:?}");
            }
        }
        Ok(())
    })
}

/// The pods that are on every node, by their names.
fn pods_everywhere(cluster: &Cluster) -> Result<Vec<String>> {
    let nodes = cluster.nodes().iter();
    nodes
        .map(|node| name_on(cluster, EVERYWHERE, node.number()))
        .collect()
}

/// Waits until a name stands for these addresses.
fn resolved(cluster: &Cluster, pod: &str, name: &str, addresses: &[IpAddr]) -> Result<()> {
    let expected: BTreeSet<_> = addresses.iter().copied().collect();
    until(DEADLINE, "a Service's name", || {
        let said = asking::resolve(cluster, pod, name)?;
        ensure!(said == expected, "{name} is {said:?}, not {expected:?}");
        Ok(())
    })
}

/// Creates a Service in both families, with these further fields of its specification, for pods
/// with this label `app`, and returns its addresses.
pub(crate) fn create(
    cluster: &Cluster,
    name: &str,
    app: &str,
    further: &Value,
) -> Result<Vec<IpAddr>> {
    let mut spec = json!({
        "selector": {"app": app},
        "ipFamilyPolicy": "RequireDualStack",
        "ports": [port("TCP"), port("UDP")],
    });
    for (field, value) in further.as_object().into_iter().flatten() {
        spec[field] = value.clone();
    }
    scene::apply(
        cluster,
        &json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": spec,
        }),
    )?;
    let addresses = "--output=jsonpath={.spec.clusterIPs[*]}";
    let get = ["--namespace", NAMESPACE, "get", "service", name, addresses];
    let said = cluster.plane().kubectl(&get, "")?;
    if said == "None" {
        return Ok(Vec::new());
    }
    let parsed = said.split_whitespace().map(str::parse);
    let addresses: Vec<_> = parsed.collect::<Result<_, _>>().context(said.clone())?;
    ensure!(addresses.len() == 2, "{addresses:?}");
    Ok(addresses)
}

/// A port of a Service.
pub(crate) fn port(protocol: &str) -> Value {
    json!({
        "name": protocol.to_lowercase(),
        "protocol": protocol,
        "port": SERVICE_PORT.parse::<u16>().unwrap_or_default(),
        "targetPort": PORT.parse::<u16>().unwrap_or_default(),
    })
}
