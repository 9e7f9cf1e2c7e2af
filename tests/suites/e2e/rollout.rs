//! A cluster without a network gets one by Podwire, and boots with it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use podwire_testbed::cluster::{POD_IMAGE, Service};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Cluster, results, until};
use serde_json::json;

use crate::scene::{self, DEADLINE, EVERYWHERE, NAMESPACE, PORT, name_on};
use crate::talks::{Place, Told};
use crate::{asking, podwire};

pub(crate) const TESTS: &[Test] = &[(
    "kubectl_apply_gives_a_cluster_its_network_and_a_node_that_boots_is_back_in_it",
    rolled_out,
)];

pub(crate) const NODES: u8 = 3;

/// The pod that talks from its start on, and where it tells how that goes.
const TALKER: &str = "talker";
const TALKER_TELLS: u16 = 9300;

/// From kubelet's start to the first answer of a pod of a node that booted.
const BACK_WITHIN: Duration = Duration::from_secs(20);

/// Boots that are measured where the bound is held; one shows that it works.
const BOOTS_MEASURED: usize = 5;

fn rolled_out(context: &Context) -> Result<()> {
    let (_bed, cluster) = scene::cluster(context, NODES, &podwire::plan()?)?;
    podwire::roll_out(&cluster, "")?;
    cluster.wait_ready()?;
    scene::pods_everywhere(&cluster)?;
    all_reach_all(&cluster)?;
    start_talker(&cluster)?;
    let boots = if results::are_kept() {
        BOOTS_MEASURED
    } else {
        1
    };
    let mut took = Vec::new();
    for _ in 0..boots {
        took.push(back_after_a_boot(&cluster)?);
        until(DEADLINE, "every pod to reach every other", || {
            all_reach_all(&cluster)
        })?;
    }
    results::write("kubernetes-boot", &table(&took))?;
    let worst = took.into_iter().max().unwrap_or_default();
    ensure!(
        !results::are_kept() || worst <= BACK_WITHIN,
        "promised within {BACK_WITHIN:?}, measured {worst:?}"
    );
    Ok(())
}

/// How long after kubelet's start a pod of node 2, which boots, answers a pod of another node.
fn back_after_a_boot(cluster: &Cluster) -> Result<Duration> {
    let asking = name_on(cluster, EVERYWHERE, 1)?;
    cluster.reboot(2)?;
    let started = cluster.node(2).started(Service::Kubelet)?;
    until(DEADLINE, "an answer of a pod of the booted node", || {
        let pod = name_on(cluster, EVERYWHERE, 2)?;
        // Its old ones until kubelet has told the new ones.
        let address = cluster.pod_addresses(NAMESPACE, &pod)?[0].to_string();
        let probe = ["pod-tools", "probe", "-for", "250ms", "udp"];
        let command = [&probe[..], &[&address, PORT, "back"]].concat();
        let answer = cluster.exec(NAMESPACE, &asking, &command)?;
        ensure!(answer.contains(&pod), "{answer} is not of {pod}");
        Ok(())
    })?;
    let took = started.elapsed();
    // What talks from the first moment on that it can is back, too: nothing of it was in the clear.
    until(
        DEADLINE,
        "the talker of the booted node to be answered",
        || {
            let told: Vec<Told> = Place::Pod(cluster, TALKER.to_owned()).told(TALKER_TELLS)?;
            ensure!(told.iter().all(|told| told.answered > 0), "{told:?}");
            Ok(())
        },
    )?;
    Ok(took)
}

/// Starts a pod on node 2 that talks to pods of node 1 as soon as it runs.
fn start_talker(cluster: &Cluster) -> Result<()> {
    let other = name_on(cluster, EVERYWHERE, 1)?;
    let port = PORT.parse()?;
    let targets = cluster.pod_addresses(NAMESPACE, &other)?.into_iter();
    let targets = targets.map(|address| SocketAddr::new(address, port).to_string());
    let tells = TALKER_TELLS.to_string();
    let command = ["pod-tools", "talk", &tells, "udp"].map(str::to_owned);
    let command: Vec<_> = command.into_iter().chain(targets).collect();
    let mut talker = scene::server();
    talker["containers"][0] = json!({
        "name": "talker",
        "image": POD_IMAGE,
        "imagePullPolicy": "Never",
        "command": command,
    });
    scene::pod_alone(cluster, TALKER, 2, talker)
}

fn table(took: &[Duration]) -> String {
    let mut text = format!(
        "# A node that boots\n\n\
         A real cluster of {NODES} nodes, Podwire as shipped; the kubelet starts the node's pods \
         again at once. Promised: at most {} s.\n\n\
         | boot | from kubelet's start to a pod's first answer to a pod of another node |\n\
         |---|---|\n",
        BACK_WITHIN.as_secs()
    );
    for (number, took) in (1..).zip(took) {
        let _ = writeln!(text, "| {number} | {:.1} s |", took.as_secs_f64());
    }
    text
}

/// A pod's name, and its address of each family.
pub(crate) type MeshPod = (String, Vec<IpAddr>);

/// The pods that are on every node, node by node.
pub(crate) fn pods(cluster: &Cluster) -> Result<Vec<MeshPod>> {
    let pod = |number| {
        let name = name_on(cluster, EVERYWHERE, number)?;
        let addresses = cluster.pod_addresses(NAMESPACE, &name)?;
        ensure!(addresses.len() == 2, "{name} has {addresses:?}");
        Ok((name, addresses))
    };
    (1..=NODES).map(pod).collect()
}

/// Every pod reaches every pod, itself too, by its own address, over TCP, UDP and ICMP, in both
/// families, and is seen there by its own.
pub(crate) fn all_reach_all(cluster: &Cluster) -> Result<()> {
    let pods = pods(cluster)?;
    for (from, _) in &pods {
        for (to, addresses) in &pods {
            asking::reached(cluster, from, to)?;
            for target in addresses {
                let ping = ["ping", "-c", "1", "-W", "5", &target.to_string()];
                cluster.exec(NAMESPACE, from, &ping)?;
            }
        }
    }
    Ok(())
}

/// What a Node is annotated with.
pub(crate) fn annotations(cluster: &Cluster, node: &str) -> Result<BTreeMap<String, String>> {
    let annotations = cluster.plane().node(node)?.metadata.annotations;
    Ok(annotations.unwrap_or_default())
}
