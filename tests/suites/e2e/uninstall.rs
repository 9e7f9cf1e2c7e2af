//! A cluster is rid of Podwire.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Cluster, ClusterNode, until};
use serde_json::json;

use crate::podwire;
use crate::rollout::annotations;
use crate::scene::{self, DEADLINE, NAMESPACE};

pub(crate) const TESTS: &[Test] = &[(
    "an_uninstalled_cluster_has_nothing_of_ours_left_and_nothing_else_gone",
    uninstalled,
)];

const FOREIGN_ANNOTATION: (&str, &str) = ("theirs.example/note", "kept");

/// Files of others beside ours; neither is a configuration that a container runtime reads.
const FOREIGN_FILES: [&str; 2] = [
    "/etc/cni/net.d/99-theirs.conflist.off",
    "/etc/cni/net.d/05-podwire.conflist.theirs",
];

/// As like ours as can be.
const FOREIGN_LINES: [&str; 6] = [
    "link add podwire1 type bridge",
    "link set podwire1 addrgenmode none",
    "link set podwire1 up",
    "route add 10.251.0.0/24 dev podwire1 proto 120 metric 1024",
    "route add unreachable 10.244.0.0/16 proto static metric 4000001",
    "rule add priority 120 to 10.251.0.0/16 lookup 119 protocol 118",
];

const FOREIGN_TABLES: &str = "table ip podwire {\n  chain output {\n    \
    type filter hook output priority 10; policy accept;\n    counter accept\n  }\n}\n\
    table inet podwired {\n  set cluster { type ipv4_addr; }\n}\n";

/// Is not to encrypt, and so has an agent of another DaemonSet.
const HOST_NETWORK: u8 = 2;

/// What an installed node has in any case.
const OURS: [&str; 3] = ["podwire-bridge", "inet podwire {", "/run/podwire/"];

/// The label `app` of ordinary pods.
const ORDINARY: &str = "ordinary";

/// Folders whose files an uninstallation could take or leave.
const FOLDERS: [&str; 4] = [
    "/etc/cni/net.d",
    "/opt/cni/bin",
    "/run/podwire",
    "/var/lib/podwire",
];

fn uninstalled(context: &Context) -> Result<()> {
    let (_bed, cluster) = scene::cluster(context, 2, &podwire::plan()?)?;
    let mut before = Vec::new();
    for node in cluster.nodes() {
        give_foreign_things(&cluster, node)?;
        before.push(configuration(node)?);
    }
    podwire::label_host_network(&cluster, HOST_NETWORK)?;
    podwire::roll_out(&cluster, podwire::SINGLE_NODES)?;
    cluster.wait_rolled_out(podwire::NAMESPACE, podwire::SINGLE_NODES_DAEMON_SET)?;
    cluster.wait_ready()?;
    start_pods(&cluster)?;
    for (node, before) in cluster.nodes().iter().zip(&before) {
        let installed = configuration(node)?;
        let new: Vec<_> = installed.difference(before).collect();
        let has = |ours: &str| new.iter().any(|line| line.contains(ours));
        for ours in OURS {
            ensure!(has(ours), "the check sees no {ours} in {new:#?}");
        }
        let encrypts = node.number() != HOST_NETWORK;
        ensure!(has("link show: podwire0") == encrypts, "{new:#?}");
        let record = annotations(&cluster, node.name())?;
        let has_key = record.contains_key("podwire.dev/public-key");
        ensure!(has_key == encrypts && !record.is_empty(), "{record:?}");
    }
    end_pods(&cluster)?;
    // As deploy/README.md has it: the clean-up knows one DaemonSet alone.
    let label = format!("{}-", podwire::SINGLE_NODES_LABEL);
    let unlabel = ["label", "node", "--all", &label];
    cluster.plane().kubectl(&unlabel, "")?;
    podwire::roll_out(&cluster, "cleanup")?;
    podwire::delete(&cluster)?;
    for (node, before) in cluster.nodes().iter().zip(&before) {
        until(DEADLINE, "the node to be as it was", || {
            let after = configuration(node)?;
            let gone: Vec<_> = before.difference(&after).collect();
            let left: Vec<_> = after.difference(before).collect();
            ensure!(
                gone.is_empty() && left.is_empty(),
                "{}: gone are {gone:#?}, left are {left:#?}",
                node.name()
            );
            Ok(())
        })?;
        let left = annotations(&cluster, node.name())?;
        let mut ours = left.keys().filter(|key| key.contains("podwire.dev/"));
        ensure!(ours.next().is_none(), "{left:?}");
        let (name, value) = FOREIGN_ANNOTATION;
        let theirs = left.get(name).map(String::as_str);
        ensure!(theirs == Some(value), "theirs is gone: {left:?}");
    }
    no_object_is_left(&cluster)
}

/// What looks like ours and is not, and what is close to it.
fn give_foreign_things(cluster: &Cluster, node: &ClusterNode) -> Result<()> {
    for file in FOREIGN_FILES {
        node.write(file, "theirs\n")?;
    }
    for line in FOREIGN_LINES {
        let words: Vec<_> = line.split(' ').collect();
        node.run("ip", &words, "")?;
    }
    node.run("nft", &["-f", "-"], FOREIGN_TABLES)?;
    let (name, value) = FOREIGN_ANNOTATION;
    let note = format!("{name}={value}");
    let annotate = ["annotate", "node", node.name(), &note];
    cluster.plane().kubectl(&annotate, "").map(drop)
}

/// Everything of a node that an uninstallation could take or leave, one line each.
fn configuration(node: &ClusterNode) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    let listings: [(&str, &[&str]); 7] = [
        ("ip", &["-brief", "link", "show"]),
        ("ip", &["-brief", "address", "show"]),
        ("ip", &["-4", "route", "show", "table", "all"]),
        ("ip", &["-6", "route", "show", "table", "all"]),
        ("ip", &["-4", "rule", "show"]),
        ("ip", &["-6", "rule", "show"]),
        ("nft", &["-s", "list", "ruleset"]),
    ];
    for (program, arguments) in listings {
        let said = node.run(program, arguments, "")?;
        // The proxy's, which comes and changes by itself.
        let tables = said.split("\ntable ");
        let others = tables.filter(|table| !table.contains("kube-proxy {"));
        let lines = others.flat_map(str::lines).map(str::trim);
        all.extend(lines.map(|line| format!("{program} {}: {line}", arguments.join(" "))));
    }
    for folder in FOLDERS {
        // Those that were made stay, empty.
        const FIND: &str = "[ ! -d \"$0\" ] || find \"$0\" ! -type d -printf '%p %l %s\\n'";
        let find = ["-c", FIND, folder];
        let files = node.run("sh", &find, "")?;
        all.extend(files.lines().map(str::to_owned));
    }
    Ok(all)
}

/// Pods with a network on every node.
fn start_pods(cluster: &Cluster) -> Result<()> {
    let labels = json!({"app": ORDINARY});
    let mut spec = scene::server();
    spec["topologySpreadConstraints"] = json!([{
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": labels},
    }]);
    scene::deploy(cluster, ORDINARY, 2, spec)?;
    cluster.wait_rolled_out("kube-system", "deployment/coredns")
}

/// Ends all pods with a network, as who uninstalls has to: without a CNI configuration none can be
/// deleted, and a bridge with pods stays.
fn end_pods(cluster: &Cluster) -> Result<()> {
    for (namespace, deployment) in [(NAMESPACE, ORDINARY), ("kube-system", "coredns")] {
        let what = format!("deployment/{deployment}");
        let scale = ["--namespace", namespace, "scale", "--replicas=0", &what];
        cluster.plane().kubectl(&scale, "")?;
        until(DEADLINE, "the pods to be gone", || {
            let get = ["--namespace", namespace, "get", "pods", "-o=name"];
            let left = cluster.plane().kubectl(&get, "")?;
            ensure!(left.is_empty(), "{left}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Of the cluster's objects none is ours any more.
fn no_object_is_left(cluster: &Cluster) -> Result<()> {
    const KINDS: &str = "namespaces,clusterroles,clusterrolebindings,roles,rolebindings,\
        validatingadmissionpolicies,validatingadmissionpolicybindings,daemonsets,configmaps,\
        services,serviceaccounts,pods";
    let get = ["get", KINDS, "--all-namespaces", "--output=name"];
    let said = cluster.plane().kubectl(&get, "")?;
    ensure!(!said.is_empty(), "the check sees no objects");
    let ours: Vec<_> = said
        .lines()
        .filter(|line| line.contains("podwire"))
        .collect();
    ensure!(ours.is_empty(), "{ours:?}");
    Ok(())
}
