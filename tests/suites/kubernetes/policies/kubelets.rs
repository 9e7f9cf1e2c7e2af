//! Kubelets go on as ever, and choose neither a record nor pod CIDRs.

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::suite::Context;
use serde_json::{Map, Value, json};

use super::api::{Person, Request};
use super::change::{NODES, Through, Way, annotation, annotations, annotations_of, path};
use super::people::{administrator, kubelet};
use super::scene::{Expected, Scene, node};
use super::values;

const PLAINTEXT_LABEL: &str = "node-restriction.kubernetes.io/podwire-mode";

const NO_RECORDS: Expected<'_> =
    Expected::Denied("podwire-annotations", "are written by podwire-agent alone");
const NO_REQUESTS: Expected<'_> =
    Expected::Denied("podwire-annotations", "are written by holders of");
const NO_POD_CIDRS: Expected<'_> =
    Expected::Denied("podwire-kubelet", "may not choose its Node's spec.podCIDRs");
const NOT_ITS_LABEL: Expected<'_> = Expected::Refused("is not allowed to modify labels");
const NOT_ITS_NODE: Expected<'_> = Expected::Refused("is not allowed to modify node");

/// Nearly all annotations that the API server takes (256 KiB), each as short as can be: what costs an
/// expression most.
const ANNOTATIONS_MANY: usize = 36_000;

/// Writes as a kubelet writes them.
pub(crate) fn heartbeats_are_never_blocked(context: &Context) -> Result<()> {
    let scene = Scene::start(context, "base")?;
    let own = kubelet("node-1");
    // Without a record, and without any annotation.
    heartbeat(&scene, &own, "1")?;
    let none = json!({"metadata": {"annotations": null}});
    let merge = (Way::MergePatch, Through::Node);
    scene.attempt(&own, merge, "node-1", &none, Expected::Done)?;
    heartbeat(&scene, &own, "2")?;
    let first = annotation(
        "volumes.kubernetes.io/controller-managed-attach-detach",
        "true",
    );
    scene.attempt(&own, merge, "node-1", &first, Expected::Done)?;
    // With a record and a request.
    let agent = scene.agent("node-1")?;
    let apply = (Way::ServerSideApply, Through::Node);
    scene.attempt(&agent, apply, "node-1", &values::record(), Expected::Done)?;
    let request = annotation("request.podwire.dev/rotate", "if-key-generation=4,by=admin");
    scene.attempt(&administrator(), merge, "node-1", &request, Expected::Done)?;
    heartbeat(&scene, &own, "3")?;
    for through in Through::BOTH {
        let change = annotation("example.com/theirs", &format!("{through:?}"));
        for way in Way::ALL {
            scene.attempt(&own, (way, through), "node-1", &change, Expected::Done)?;
        }
    }
    let label = json!({"metadata": {"labels": {"kubernetes.io/arch": "amd64"}}});
    scene.attempt(&own, merge, "node-1", &label, Expected::Done)?;
    with_as_many_annotations_as_can_be(&scene, &own)?;
    // A new Node, as a kubelet registers it.
    let mut new = node(3);
    new["spec"] = json!({});
    scene.done(&kubelet("node-3"), &Request::post(NODES, new))?;
    heartbeat_of(&scene, &kubelet("node-3"), "node-3", "4")
}

fn heartbeat(scene: &Scene, own: &Person, time: &str) -> Result<()> {
    heartbeat_of(scene, own, "node-1", time)
}

/// A patch of conditions, as kubelets send it, and a whole status, as they did.
fn heartbeat_of(scene: &Scene, own: &Person, node: &str, time: &str) -> Result<()> {
    let ready = json!({"type": "Ready", "status": "True", "message": time});
    let order = json!([{"type": "MemoryPressure"}, {"type": "Ready"}]);
    let change = json!({"status": {
        "$setElementOrder/conditions": order,
        "conditions": [ready],
    }});
    let patch = (Way::StrategicMergePatch, Through::Status);
    scene.attempt(own, patch, node, &change, Expected::Done)?;
    let change = json!({"status": {"conditions": [ready]}});
    scene.attempt(
        own,
        (Way::Put, Through::Status),
        node,
        &change,
        Expected::Done,
    )?;
    let now = scene.node(node)?;
    let conditions = now["status"]["conditions"]
        .as_array()
        .context("conditions")?;
    let beats = conditions
        .iter()
        .any(|condition| condition["message"] == time);
    ensure!(beats, "{conditions:?}");
    Ok(())
}

fn with_as_many_annotations_as_can_be(scene: &Scene, own: &Person) -> Result<()> {
    let many: Map<String, Value> = (0..ANNOTATIONS_MANY)
        .map(|number| (format!("a{number}"), json!("")))
        .collect();
    let many = json!({"metadata": {"annotations": many}});
    let merge = (Way::MergePatch, Through::Node);
    scene.attempt(own, merge, "node-1", &many, Expected::Done)?;
    heartbeat(scene, own, "many")?;
    let cordon = json!({"spec": {"unschedulable": true}});
    scene.attempt(&administrator(), merge, "node-1", &cordon, Expected::Done)?;
    ensure!(annotations_of(&scene.node("node-1")?).len() > ANNOTATIONS_MANY);
    Ok(())
}

pub(crate) fn no_kubelet_writes_a_record_or_a_request(context: &Context) -> Result<()> {
    let scene = Scene::start(context, "base")?;
    let agent = scene.agent("node-1")?;
    let apply = (Way::ServerSideApply, Through::Node);
    scene.attempt(&agent, apply, "node-1", &values::record(), Expected::Done)?;
    let own = kubelet("node-1");
    let before = scene.node("node-1")?;
    let rotate = "request.podwire.dev/rotate";
    let changes = [
        (annotation("podwire.dev/mode", "host-network"), NO_RECORDS),
        (annotation("podwire.dev/epoch", "2"), NO_RECORDS),
        (annotations([("podwire.dev/public-key", None)]), NO_RECORDS),
        (json!({"metadata": {"annotations": null}}), NO_RECORDS),
        (
            annotation(rotate, "if-key-generation=1,by=system:node:node-1"),
            NO_REQUESTS,
        ),
        (
            annotation(rotate, "if-key-generation=1,by=alice"),
            NO_REQUESTS,
        ),
    ];
    for (change, expected) in changes {
        for way in Way::ALL {
            for through in Through::BOTH {
                scene.attempt(&own, (way, through), "node-1", &change, expected)?;
            }
        }
    }
    // deploy/overlays/host-network-nodes makes a labelled node's traffic plaintext.
    let label = json!({"metadata": {"labels": {PLAINTEXT_LABEL: "host-network"}}});
    let merge = (Way::MergePatch, Through::Node);
    scene.attempt(&own, merge, "node-1", &label, NOT_ITS_LABEL)?;
    ensure!(scene.node("node-1")? == before, "the Node was changed");
    // A Node is not made with what it may not get.
    for (name, value, expected) in [
        ("podwire.dev/mode", "host-network", NO_RECORDS),
        (
            rotate,
            "if-key-generation=1,by=system:node:node-3",
            NO_REQUESTS,
        ),
    ] {
        let mut new = node(3);
        new["spec"] = json!({});
        new["metadata"]["annotations"] = json!({name: value});
        scene.expect(&kubelet("node-3"), &Request::post(NODES, new), expected)?;
    }
    Ok(())
}

/// A kubelet's credentials and the agent's token of node-1 together get nothing of node-2.
pub(crate) fn a_compromised_node_takes_nothing_of_another(context: &Context) -> Result<()> {
    let scene = Scene::start(context, "base")?;
    let (own, agent) = (kubelet("node-1"), scene.agent("node-1")?);
    let victim = scene.agent("node-2")?;
    let apply = (Way::ServerSideApply, Through::Node);
    scene.attempt(
        &victim,
        apply,
        "node-2",
        &values::record_of(2),
        Expected::Done,
    )?;
    let before = scene.node("node-2")?;
    // Its record, its addresses and its Node.
    let address = json!([{"type": "InternalIP", "address": "192.0.2.66"}]);
    for change in [
        values::record(),
        json!({"status": {"addresses": address}}),
        json!({"metadata": {"labels": {"example.com/new": "it"}}}),
    ] {
        for way in Way::ALL {
            for through in Through::BOTH {
                scene.attempt(&own, (way, through), "node-2", &change, NOT_ITS_NODE)?;
            }
        }
    }
    scene.expect(
        &own,
        &Request::delete(&path("node-2")),
        Expected::Refused("is forbidden"),
    )?;
    tokens_of_others(&scene, &own)?;
    lifts_no_taint(&scene, &own)?;
    ensure!(scene.node("node-2")? == before, "the Node was changed");
    // Its pod CIDR, by a Node that has none yet, or by one that comes anew.
    let bare = |spec: Value| {
        let mut new = node(3);
        new["spec"] = spec;
        new
    };
    let (joiner, theirs) = (kubelet("node-3"), "10.244.2.0/24");
    for spec in [
        json!({"podCIDRs": [theirs]}),
        json!({"podCIDR": theirs}),
        json!({"podCIDR": "0.0.0.0/0", "podCIDRs": ["0.0.0.0/0", "::/0"]}),
    ] {
        let post = Request::post(NODES, bare(spec));
        scene.expect(&joiner, &post, NO_POD_CIDRS)?;
    }
    scene.done(&joiner, &Request::post(NODES, bare(json!({}))))?;
    for change in [
        json!({"spec": {"podCIDRs": [theirs]}}),
        json!({"spec": {"podCIDR": theirs, "podCIDRs": [theirs]}}),
    ] {
        for way in Way::ALL {
            scene.attempt(
                &joiner,
                (way, Through::Node),
                "node-3",
                &change,
                NO_POD_CIDRS,
            )?;
        }
    }
    // What is left to it is its own record, with what is its own.
    scene.attempt(&agent, apply, "node-1", &values::record(), Expected::Done)
}

/// Whoever evicts a node begins with a taint, as its kubelet can lift a cordon.
fn lifts_no_taint(scene: &Scene, own: &Person) -> Result<()> {
    let merge = (Way::MergePatch, Through::Node);
    let taint = json!({"key": "compromised", "effect": "NoSchedule"});
    let evicted = json!({"spec": {"taints": [taint], "unschedulable": true}});
    scene.attempt(&administrator(), merge, "node-1", &evicted, Expected::Done)?;
    let cordon = json!({"spec": {"unschedulable": null}});
    scene.attempt(own, merge, "node-1", &cordon, Expected::Done)?;
    let taints = json!({"spec": {"taints": null}});
    let refused = Expected::Refused("is not allowed to modify taints");
    for way in Way::ALL {
        scene.attempt(own, (way, Through::Node), "node-1", &taints, refused)?;
    }
    Ok(())
}

/// A kubelet gets tokens for pods on its own node, and for no others.
fn tokens_of_others(scene: &Scene, own: &Person) -> Result<()> {
    let agents = "/api/v1/namespaces/podwire-system";
    let uid = |name: &str| -> Result<Value> {
        let pod = Request::get(&format!("{agents}/pods/{name}"));
        Ok(scene.done(&administrator(), &pod)?["metadata"]["uid"].clone())
    };
    let node = scene.node("node-2")?["metadata"]["uid"].clone();
    let theirs = uid("podwire-agent-node-2")?;
    let path = format!("{agents}/serviceaccounts/podwire-agent/token");
    let request = |bound: Value| {
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"boundObjectRef": bound},
        });
        Request::post(&path, body)
    };
    for bound in [
        Value::Null,
        json!({"apiVersion": "v1", "kind": "Pod", "name": "podwire-agent-node-2", "uid": theirs}),
        json!({"apiVersion": "v1", "kind": "Node", "name": "node-2", "uid": node}),
    ] {
        scene.expect(own, &request(bound), Expected::Refused("is forbidden"))?;
    }
    // As the agent's pod is when a DaemonSet makes it.
    let token = json!({"serviceAccountToken": {"path": "token"}});
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "own"},
        "spec": {
            "nodeName": "node-1",
            "serviceAccountName": "podwire-agent",
            "containers": [{"name": "agent", "image": "podwire-agent"}],
            "volumes": [{"name": "token", "projected": {"sources": [token]}}],
        },
    });
    scene.done(
        &administrator(),
        &Request::post(&format!("{agents}/pods"), pod),
    )?;
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "own", "uid": uid("own")?});
    scene.done(own, &request(bound)).map(drop)
}
