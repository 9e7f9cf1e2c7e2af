//! Each kustomization of `deploy`: whole, and without an error that only shows when it is too late.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::suite::Context;
use podwire_testbed::{ControlPlane, Topology, until};
use serde_json::{Value, json};

use super::change::{Through, Way, annotation, merged};
use super::scene::{Expected, Scene, apply};
use super::values;

/// A controller checks the types within a second or two.
const TYPES_CHECKED: Duration = Duration::from_secs(60);

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// Whatever a user may apply, every overlay that is there among it.
pub(crate) fn all() -> Result<Vec<String>> {
    let mut all = ["base", ".", "cleanup"].map(str::to_owned).to_vec();
    for entry in fs::read_dir(deploy().join("overlays"))? {
        let name = entry?.file_name();
        let name = name.to_str().context("a name that is text")?.to_owned();
        all.push(format!("overlays/{name}"));
    }
    ensure!(all.len() > 3, "no overlay is found");
    Ok(all)
}

/// Strictly: a field that no version knows is an error. And applied twice, it changes nothing.
pub(crate) fn are_accepted_strictly_and_their_types_are_right(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(0).pods_per_node(0))?;
    let cluster = ControlPlane::start(&bed, &[])?;
    for kustomization in all()? {
        apply(&cluster, &kustomization).with_context(|| kustomization.clone())?;
        let again = apply(&cluster, &kustomization)?;
        let objects = again.lines().count();
        let unchanged = again.lines().filter(|line| line.ends_with(" unchanged"));
        ensure!(
            objects > 0 && unchanged.count() == objects,
            "{kustomization}: {again}"
        );
        types_are_right(&cluster).with_context(|| kustomization.clone())?;
    }
    the_type_check_is_not_blind(&cluster)
}

fn policies(cluster: &ControlPlane) -> Result<Vec<Value>> {
    let arguments = ["get", "validatingadmissionpolicies", "-o", "json"];
    let list: Value = serde_json::from_str(&cluster.kubectl(&arguments, "")?)?;
    list["items"].as_array().cloned().context("a list")
}

/// Each policy was checked as it is now, without a warning, and has its binding.
fn types_are_right(cluster: &ControlPlane) -> Result<()> {
    let expected = ["agent-own-node", "annotations", "kubelet", "operator"];
    until(TYPES_CHECKED, "the types to be checked", || {
        let policies = policies(cluster)?;
        let mut names = Vec::new();
        for policy in &policies {
            let name = policy["metadata"]["name"].as_str().unwrap_or_default();
            names.push(name.trim_start_matches("podwire-"));
            let (status, now) = (&policy["status"], &policy["metadata"]["generation"]);
            ensure!(
                &status["observedGeneration"] == now,
                "{name} is not checked yet"
            );
            let warnings = &status["typeChecking"]["expressionWarnings"];
            ensure!(warnings.is_null(), "{name}: {warnings:#}");
        }
        ensure!(names == expected, "{names:?}");
        Ok(())
    })?;
    for name in expected {
        let binding = format!("podwire-{name}");
        let arguments = [
            "get",
            "validatingadmissionpolicybinding",
            &binding,
            "-o",
            "json",
        ];
        let binding: Value = serde_json::from_str(&cluster.kubectl(&arguments, "")?)?;
        let spec = &binding["spec"];
        ensure!(spec["policyName"] == binding["metadata"]["name"], "{spec}");
        ensure!(
            spec["validationActions"] == json!(["Deny", "Audit"]),
            "{spec}"
        );
    }
    Ok(())
}

/// A policy with a wrong type gets a warning.
fn the_type_check_is_not_blind(cluster: &ControlPlane) -> Result<()> {
    let mut policy = policies(cluster)?.remove(0);
    policy["metadata"] = json!({"name": "wrong"});
    policy["spec"]["validations"] = json!([{"expression": "object.metadata.name == 1"}]);
    cluster.kubectl(&["create", "-f", "-"], &policy.to_string())?;
    until(TYPES_CHECKED, "a warning", || {
        let policies = policies(cluster)?;
        let wrong = policies
            .iter()
            .find(|policy| policy["metadata"]["name"] == "wrong");
        let status = &wrong.context("it is not there")?["status"];
        let warnings = &status["typeChecking"]["expressionWarnings"];
        ensure!(!warnings.is_null(), "{status}");
        Ok(())
    })
}

const STATUS: (Way, Through) = (Way::StrategicMergePatch, Through::Status);

fn condition(kind: &str, status: &str) -> Value {
    json!({"status": {"conditions": [{"type": kind, "status": status, "reason": "PodwireIsUp"}]}})
}

/// One condition, to one value, of the own Node: with the overlay, and not without.
pub(crate) fn the_overlay_network_available_allows_that_alone(context: &Context) -> Result<()> {
    let scene = Scene::start(context, "overlays/network-available")?;
    let agent = scene.agent("node-1")?;
    let up = condition("NetworkUnavailable", "False");
    for way in [Way::StrategicMergePatch, Way::ServerSideApply] {
        scene.attempt(
            &agent,
            (way, Through::Status),
            "node-1",
            &up,
            Expected::Done,
        )?;
    }
    // As it is where a cloud made the Node.
    let down = condition("NetworkUnavailable", "True");
    let administrator = super::people::administrator();
    scene.attempt(&administrator, STATUS, "node-1", &down, Expected::Done)?;
    scene.attempt(&agent, STATUS, "node-1", &up, Expected::Done)?;
    let now = scene.node("node-1")?;
    let conditions = now["status"]["conditions"]
        .as_array()
        .context("conditions")?;
    ensure!(conditions.len() == 3, "{conditions:?}");

    let policy = "podwire-agent-own-node";
    let no_status = Expected::Denied(policy, "may not write a Node's status");
    let address = json!([{"type": "InternalIP", "address": "192.0.2.12"}]);
    for change in [
        down,
        condition("Ready", "False"),
        merged(&up, &json!({"status": {"addresses": address}})),
        merged(&up, &json!({"status": {"capacity": {"cpu": "64"}}})),
        merged(&up, &json!({"status": {"phase": "Running"}})),
        json!({"status": {"conditions": up["status"]["conditions"], "capacity": null}}),
        merged(&up, &values::record()),
        merged(&up, &annotation("example.com/new", "it")),
        values::record(),
    ] {
        for way in [
            Way::StrategicMergePatch,
            Way::ServerSideApply,
            Way::JsonPatch,
        ] {
            let way = (way, Through::Status);
            scene.attempt(&agent, way, "node-1", &change, no_status)?;
        }
    }
    // That there is a network is said, and not taken back.
    let others = conditions
        .iter()
        .filter(|it| it["type"] != "NetworkUnavailable");
    let others = json!({"status": {"conditions": others.collect::<Vec<_>>()}});
    let merge = (Way::MergePatch, Through::Status);
    scene.attempt(&agent, merge, "node-1", &others, no_status)?;
    let label = json!({"metadata": {"labels": {"example.com/new": "it"}}});
    let nothing_else = Expected::Denied(policy, "may change nothing of its Node but");
    scene.attempt(&agent, STATUS, "node-1", &merged(&up, &label), nothing_else)?;
    let own = Expected::Denied(policy, "may only update the Node on which it runs");
    scene.attempt(&agent, STATUS, "node-2", &up, own)?;
    // The rest is as in base.
    let way = (Way::ServerSideApply, Through::Node);
    scene.attempt(&agent, way, "node-1", &values::record(), Expected::Done)?;
    scene.attempt(&agent, way, "node-1", &label, nothing_else)?;
    let nodes = (Way::Put, Through::Status);
    scene.attempt(
        &agent,
        nodes,
        "node-1",
        &up,
        Expected::Refused("cannot update"),
    )
}
