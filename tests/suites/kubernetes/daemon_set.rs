//! The DaemonSet of `deploy` and of each overlay, as the API server has it.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{ControlPlane, Topology, until};
use serde_json::{Value, json};

use crate::policies::kustomizations;
use crate::policies::scene::apply;

pub(crate) const TESTS: &[Test] = &[
    (
        "each_overlay_makes_pods_that_may_do_what_they_need_and_nothing_else",
        rights,
    ),
    ("each_overlay_says_what_it_is_for", overlays),
    (
        "a_change_of_the_settings_reaches_every_overlay_and_rolls_it_out",
        settings,
    ),
];

/// The DaemonSet controller makes a pod within seconds.
const POD_DEADLINE: Duration = Duration::from_secs(60);

/// What pods may have of the host.
const HOST_PATHS: [&str; 5] = [
    "/dev/net/tun",
    "/etc/cni/net.d",
    "/opt/cni/bin",
    "/run/podwire",
    "/var/lib/podwire",
];

fn get(cluster: &ControlPlane, arguments: &[&str]) -> Result<Value> {
    let all: Vec<_> = ["-n", "podwire-system", "get", "-o", "json"]
        .iter()
        .chain(arguments)
        .copied()
        .collect();
    Ok(serde_json::from_str(&cluster.kubectl(&all, "")?)?)
}

/// Of most nodes.
const DAEMON_SET: &str = "podwire-agent";

/// Of the nodes with the label of `overlays/host-network-nodes`.
const HOST_NETWORK: &str = "podwire-agent-host-network";

/// Applies a kustomization, and returns what its pods are made from.
fn pod(cluster: &ControlPlane, kustomization: &str) -> Result<Value> {
    apply(cluster, kustomization)?;
    template(cluster, DAEMON_SET)
}

/// What the pods of a DaemonSet are made from.
fn template(cluster: &ControlPlane, name: &str) -> Result<Value> {
    let daemon_set = get(cluster, &["daemonset", name])?;
    Ok(daemon_set["spec"]["template"]["spec"].clone())
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let kinds = ["initContainers", "containers"].into_iter();
    kinds.flat_map(|kind| pod[kind].as_array().into_iter().flatten())
}

/// All of the settings that a container sees, whether they are its own or the cluster's.
fn environment(cluster: &ControlPlane, container: &Value) -> Result<Value> {
    let mut all = json!({});
    for source in container["envFrom"].as_array().into_iter().flatten() {
        let name = source["configMapRef"]["name"].as_str();
        let data = get(cluster, &["configmap", name.context("a ConfigMap")?])?;
        for (key, value) in data["data"].as_object().context("data")? {
            all[key] = value.clone();
        }
    }
    for variable in container["env"].as_array().into_iter().flatten() {
        let name = variable["name"].as_str().context("a name")?;
        all[name] = variable["value"].clone();
    }
    Ok(all)
}

fn has_agent(kustomization: &str) -> bool {
    kustomization != "base"
}

fn rights(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(1).pods_per_node(0))?;
    let cluster = ControlPlane::start(&bed, &[])?;
    let node = bed.node(1);
    cluster.create_node(node.name(), &node.manifest().addresses)?;
    // As its kubelet says of itself.
    let label = ["label", "node", node.name(), "kubernetes.io/os=linux"];
    cluster.kubectl(&label, "")?;
    for kustomization in kustomizations::all()? {
        if !has_agent(&kustomization) {
            continue;
        }
        let pod = pod(&cluster, &kustomization)?;
        check_pod(&pod).with_context(|| kustomization.clone())?;
        for container in containers(&pod) {
            check_container(container).with_context(|| kustomization.clone())?;
        }
        // Those of a kustomization before could be taken for it.
        let delete = [
            "--namespace",
            "podwire-system",
            "delete",
            "pods",
            "--all",
            "--force",
        ];
        cluster.kubectl(&delete, "")?;
        // What admission has to say to the pod itself is only seen when there is one.
        until(POD_DEADLINE, "the pod", || {
            let pods = get(&cluster, &["pods"])?;
            let pods = pods["items"].as_array().context("pods")?;
            ensure!(
                pods.iter()
                    .any(|made| made["spec"]["containers"][0]["args"]
                        == pod["containers"][0]["args"]),
                "{kustomization}: {pods:?}"
            );
            Ok(())
        })?;
    }
    let pod = template(&cluster, HOST_NETWORK)?;
    check_pod(&pod)?;
    containers(&pod).try_for_each(check_container)?;
    let namespace = get(&cluster, &["namespace", "podwire-system"])?;
    let enforced = &namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"];
    ensure!(enforced == "privileged", "{enforced}");
    Ok(())
}

fn check_pod(pod: &Value) -> Result<()> {
    for (field, expected) in [
        ("hostNetwork", json!(true)),
        ("hostPID", Value::Null),
        ("hostIPC", Value::Null),
        ("automountServiceAccountToken", json!(false)),
        ("serviceAccountName", json!("podwire-agent")),
        ("priorityClassName", json!("system-node-critical")),
        ("tolerations", json!([{"operator": "Exists"}])),
    ] {
        ensure!(pod[field] == expected, "{field}: {}", pod[field]);
    }
    let volumes = pod["volumes"].as_array().context("volumes")?;
    let paths: BTreeSet<_> = volumes
        .iter()
        .filter_map(|volume| volume["hostPath"]["path"].as_str())
        .collect();
    let allowed: BTreeSet<_> = HOST_PATHS.into_iter().collect();
    ensure!(paths.is_subset(&allowed), "{paths:?}");
    ensure!(
        ["/run/podwire", "/var/lib/podwire"]
            .iter()
            .all(|path| paths.contains(path)),
        "{paths:?}"
    );
    let is_token =
        |volume: &&Value| volume["projected"]["sources"][0]["serviceAccountToken"].is_object();
    ensure!(volumes.iter().filter(is_token).count() == 1, "{volumes:?}");
    Ok(())
}

fn check_container(container: &Value) -> Result<()> {
    let security = &container["securityContext"];
    for (field, expected) in [
        ("privileged", json!(false)),
        ("allowPrivilegeEscalation", json!(false)),
        ("readOnlyRootFilesystem", json!(true)),
        ("seccompProfile", json!({"type": "RuntimeDefault"})),
    ] {
        ensure!(security[field] == expected, "{field}: {}", security[field]);
    }
    let capabilities = &security["capabilities"];
    let may = &capabilities["add"];
    ensure!(
        capabilities["drop"] == json!(["ALL"]) && (may.is_null() || *may == json!(["NET_ADMIN"])),
        "{capabilities}"
    );
    // On SELinux the host's folders need that type; what has no rights needs none.
    let kind = if may.is_null() {
        Value::Null
    } else {
        json!("spc_t")
    };
    let selinux = &security["seLinuxOptions"];
    ensure!(selinux["type"] == kind, "{selinux}");
    ensure!(container["ports"].is_null(), "{}", container["ports"]);
    ensure!(
        container["resources"]["limits"]["cpu"].is_null(),
        "a limit for the processor"
    );
    // Each mount is at the path of the host's, for links that lead from one to another.
    for mount in container["volumeMounts"].as_array().into_iter().flatten() {
        let path = mount["mountPath"].as_str().context("a path")?;
        let is_token = path == "/var/run/secrets/kubernetes.io/serviceaccount";
        ensure!(is_token || HOST_PATHS.contains(&path), "{path}");
    }
    Ok(())
}

/// The mounts of a pod's last container, and what it is told.
fn agent(cluster: &ControlPlane, kustomization: &str) -> Result<(BTreeSet<String>, Value)> {
    agent_of(cluster, &pod(cluster, kustomization)?)
}

fn agent_of(cluster: &ControlPlane, pod: &Value) -> Result<(BTreeSet<String>, Value)> {
    let container = containers(pod).last().context("no container")?;
    let mounts = container["volumeMounts"].as_array().into_iter().flatten();
    let mounts = mounts.filter_map(|mount| mount["mountPath"].as_str().map(ToOwned::to_owned));
    Ok((mounts.collect(), environment(cluster, container)?))
}

/// Where the second DaemonSet has pods, the first has none; its agents have no device, and are told
/// what the others are told, and the mode.
fn single_nodes(cluster: &ControlPlane) -> Result<()> {
    let most = pod(cluster, "overlays/host-network-nodes")?;
    let single = template(cluster, HOST_NETWORK)?;
    let label = (
        "node-restriction.kubernetes.io/podwire-mode",
        "host-network",
    );
    let terms = "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution\
                 /nodeSelectorTerms";
    let others = json!([{"matchExpressions": [
        {"key": label.0, "operator": "NotIn", "values": [label.1]},
    ]}]);
    ensure!(most.pointer(terms) == Some(&others), "{most}");
    ensure!(single["affinity"].is_null(), "{single}");
    ensure!(single["nodeSelector"][label.0] == label.1, "{single}");
    let (mut mounts, mut told) = agent_of(cluster, &most)?;
    let (its_mounts, its_told) = agent_of(cluster, &single)?;
    mounts.remove("/dev/net/tun");
    told["PODWIRE_MODE"] = json!(label.1);
    ensure!(mounts == its_mounts, "{its_mounts:?}");
    ensure!(told == its_told, "{its_told}");
    Ok(())
}

fn overlays(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(0).pods_per_node(0))?;
    let cluster = ControlPlane::start(&bed, &[])?;
    let (all_mounts, plain) = agent(&cluster, ".")?;
    for path in HOST_PATHS {
        ensure!(all_mounts.contains(path), "{path}: {all_mounts:?}");
    }
    ensure!(plain["PODWIRE_CLUSTER_CIDR"].is_string(), "{plain}");
    let cases: [(&str, Value, &[&str]); 5] = [
        (
            "overlays/strict",
            json!({"PODWIRE_MODE": "encrypted", "PODWIRE_HOST_NETWORK_PEERS": "refuse"}),
            &[],
        ),
        (
            "overlays/host-network",
            json!({"PODWIRE_MODE": "host-network"}),
            &["/dev/net/tun"],
        ),
        // Most nodes; the others are below.
        ("overlays/host-network-nodes", json!({}), &[]),
        (
            "overlays/network-available",
            json!({"PODWIRE_SET_NETWORK_AVAILABLE": "true"}),
            &[],
        ),
        (
            "overlays/no-cni",
            json!({
                "PODWIRE_CNI_PLUGIN": "none",
                "PODWIRE_CNI_PLUGIN_DIRECTORY": null,
            }),
            &["/opt/cni/bin"],
        ),
    ];
    for (kustomization, change, unmounted) in cases {
        let (mounts, told) = agent(&cluster, kustomization)?;
        let mut expected = plain.clone();
        for (key, value) in change.as_object().context("an object")? {
            if value.is_null() {
                expected.as_object_mut().context("settings")?.remove(key);
            } else {
                expected[key] = value.clone();
            }
        }
        ensure!(told == expected, "{kustomization}: {told}");
        let mut expected = all_mounts.clone();
        expected.retain(|path| !unmounted.contains(&path.as_str()));
        ensure!(mounts == expected, "{kustomization}: {mounts:?}");
    }
    single_nodes(&cluster)?;
    let pod = pod(&cluster, "cleanup")?;
    let arguments: Vec<_> = containers(&pod).map(|it| it["args"].clone()).collect();
    let expected = [json!(["cleanup", "--remove-state"]), json!(["wait"])];
    ensure!(arguments == expected, "{arguments:?}");
    Ok(())
}

/// As a user edits them: two lines in two files.
fn settings(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(0).pods_per_node(0))?;
    let cluster = ControlPlane::start(&bed, &[])?;
    // Not in the testbed's folder, to which there is no way that kustomize would follow.
    let folder = tempfile::tempdir()?;
    let copy = folder.path().join("deploy");
    let copied = Command::new("cp")
        .arg("-r")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy"))
        .arg(&copy)
        .status()?;
    ensure!(copied.success(), "cp: {copied}");
    let build = |kustomization: &str| -> Result<String> {
        let folder = copy.join(kustomization);
        let folder = folder.to_str().context("a path that is text")?;
        cluster.kubectl(&["kustomize", folder], "")
    };
    let config_map = |text: &str| -> Result<String> {
        let (_, rest) = text.split_once("configMapRef:").context("no ConfigMap")?;
        let name = rest.split_whitespace().nth(1).context("no name")?;
        Ok(name.to_owned())
    };
    let mut all = kustomizations::all()?;
    all.retain(|kustomization| has_agent(kustomization));
    // And a user's own, which the component cleans up.
    let own = copy.join("own");
    std::fs::create_dir(&own)?;
    let text = "resources: [../overlays/strict]\ncomponents: [../cleanup/component]\n";
    std::fs::write(own.join("kustomization.yaml"), text)?;
    all.push("own".to_owned());
    let before: Vec<_> = all
        .iter()
        .map(|kustomization| config_map(&build(kustomization)?))
        .collect::<Result<_>>()?;
    for (file, old, new) in [
        (
            "agent/settings.env",
            "CIDR=10.244.0.0/16",
            "CIDR=10.8.0.0/14",
        ),
        (
            "agent/kustomization.yaml",
            "newName: localhost/podwire-agent",
            "newName: registry.example.com/agent",
        ),
    ] {
        let path = copy.join(file);
        let text = std::fs::read_to_string(&path)?;
        ensure!(text.contains(old), "{file} has no {old}");
        std::fs::write(&path, text.replace(old, new))?;
    }
    for (kustomization, before) in all.iter().zip(before) {
        let text = build(kustomization)?;
        ensure!(
            text.contains("PODWIRE_CLUSTER_CIDR: 10.8.0.0/14") && config_map(&text)? != before,
            "{kustomization}: {text}"
        );
        let images: Vec<_> = text.matches("image: ").collect();
        let changed: Vec<_> = text.matches("image: registry.example.com/agent:").collect();
        ensure!(
            !images.is_empty() && images.len() == changed.len(),
            "{kustomization}: {text}"
        );
    }
    Ok(())
}
