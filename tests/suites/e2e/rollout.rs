//! A cluster without a network gets one by Podwire, boots with it, and is rid of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Cluster, ClusterNode, until};

use crate::podwire;
use crate::scene::{self, DEADLINE, EVERYWHERE, NAMESPACE, PORT, name_on};

pub(crate) const TESTS: &[Test] = &[
    (
        "kubectl_apply_gives_a_cluster_its_network_and_a_node_that_boots_is_back_in_it",
        rolled_out,
    ),
    (
        "an_uninstalled_cluster_has_nothing_of_ours_left_and_nothing_else_gone",
        uninstalled,
    ),
];

const NODES: u8 = 3;

fn rolled_out(context: &Context) -> Result<()> {
    let (_bed, cluster) = scene::cluster(context, NODES, &podwire::plan()?)?;
    podwire::roll_out(&cluster, "")?;
    cluster.wait_ready()?;
    scene::pods_everywhere(&cluster)?;
    all_reach_all(&cluster)?;
    cluster.reboot(2)?;
    until(
        DEADLINE,
        "the pods of the booted node to be reached",
        || all_reach_all(&cluster),
    )
}

fn pods(cluster: &Cluster) -> Result<Vec<(String, Vec<IpAddr>)>> {
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
fn all_reach_all(cluster: &Cluster) -> Result<()> {
    let pods = pods(cluster)?;
    for (from, own) in &pods {
        for (to, addresses) in &pods {
            for (source, target) in own.iter().zip(addresses) {
                let target = target.to_string();
                for protocol in ["tcp", "udp"] {
                    let command = ["pod-tools", "probe", protocol, &target, PORT, "hello"];
                    let answer = cluster.exec(NAMESPACE, from, &command)?;
                    let expected = format!("{source} {to} hello");
                    ensure!(answer.trim() == expected, "{answer} is not {expected}");
                }
                let ping = ["ping", "-c", "1", "-W", "5", &target];
                cluster.exec(NAMESPACE, from, &ping)?;
            }
        }
    }
    Ok(())
}

/// What a node has that an uninstallation could take or leave.
#[derive(Debug, PartialEq, Eq)]
struct Host {
    links: Vec<String>,
    rules: Vec<String>,
    routes: Vec<String>,
    tables: Vec<String>,
    cni: Vec<String>,
}

impl Host {
    fn of(node: &ClusterNode) -> Result<Self> {
        let lines = |program: &str, arguments: &[&str]| -> Result<Vec<String>> {
            let said = node.run(program, arguments, "")?;
            Ok(said.lines().map(|line| line.trim().to_owned()).collect())
        };
        let links = lines("ip", &["-brief", "link"])?;
        let name = |line: &String| line.split(['@', ' ']).next().map(str::to_owned);
        let both = |object: &[&str]| -> Result<Vec<String>> {
            let mut all = lines("ip", &[&["-4"], object].concat())?;
            all.extend(lines("ip", &[&["-6"], object].concat())?);
            Ok(all)
        };
        Ok(Self {
            links: links.iter().filter_map(name).collect(),
            rules: both(&["rule"])?,
            routes: both(&["route", "show", "table", "all", "proto", "119"])?,
            tables: lines("nft", &["list", "tables"])?,
            cni: lines("ls", &["/etc/cni/net.d"])?,
        })
    }
}

fn annotations(cluster: &Cluster, node: &str) -> Result<BTreeMap<String, String>> {
    let annotations = cluster.plane().node(node)?.metadata.annotations;
    Ok(annotations.unwrap_or_default())
}

const FOREIGN_FILE: &str = "/etc/cni/net.d/99-theirs.conflist.off";

/// Ends the cluster's only pods with a network, as who uninstalls has to: without a CNI
/// configuration none can be deleted, and a bridge with pods stays.
fn end_pods(cluster: &Cluster) -> Result<()> {
    cluster.wait_rolled_out("kube-system", "deployment/coredns")?;
    let system = ["--namespace", "kube-system"];
    let scale = ["scale", "--replicas=0", "deployment/coredns"];
    let plane = cluster.plane();
    plane.kubectl(&[&system[..], &scale].concat(), "")?;
    until(DEADLINE, "the pods to be gone", || {
        let left = plane.kubectl(&[&system[..], &["get", "pods", "-o=name"]].concat(), "")?;
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
}

fn uninstalled(context: &Context) -> Result<()> {
    let (_bed, cluster) = scene::cluster(context, 2, &podwire::plan()?)?;
    for node in cluster.nodes() {
        node.write(FOREIGN_FILE, "")?;
    }
    let before: Vec<Host> = cluster
        .nodes()
        .iter()
        .map(Host::of)
        .collect::<Result<_>>()?;
    podwire::roll_out(&cluster, "")?;
    cluster.wait_ready()?;
    for node in cluster.nodes() {
        let record = annotations(&cluster, node.name())?;
        ensure!(record.contains_key("podwire.dev/public-key"), "{record:?}");
    }
    end_pods(&cluster)?;
    podwire::roll_out(&cluster, "cleanup")?;
    podwire::delete(&cluster)?;
    for (node, before) in cluster.nodes().iter().zip(&before) {
        until(DEADLINE, "the node to be as it was", || {
            let after = Host::of(node)?;
            // Its pods have come and gone: what is theirs is not looked at here.
            let is_same = after.rules == before.rules
                && after.routes == before.routes
                && after.cni == before.cni;
            ensure!(is_same, "{after:?} was {before:?}");
            let ours = ["podwire0", "podwire-bridge"];
            let links = after.links.iter();
            ensure!(
                links.clone().all(|link| !ours.contains(&link.as_str())),
                "{after:?}"
            );
            let mut tables = after.tables.iter();
            ensure!(
                tables.all(|table| table != "table inet podwire"),
                "{after:?}"
            );
            Ok(())
        })?;
        let left = annotations(&cluster, node.name())?;
        let mut ours = left.keys().filter(|key| key.contains("podwire.dev/"));
        ensure!(ours.next().is_none(), "{left:?}");
        let state = node.path("/var/lib/podwire")?;
        let files = std::fs::read_dir(&state).with_context(|| state.display().to_string())?;
        ensure!(files.count() == 0, "the state is left");
    }
    let gone = ["get", "namespace", podwire::NAMESPACE];
    ensure!(cluster.plane().kubectl(&gone, "").is_err(), "its namespace");
    Ok(())
}
