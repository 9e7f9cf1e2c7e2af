//! What an agent may write: its own record, and nothing else of any Node.

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::suite::Context;
use serde_json::{Value, json};

use super::api::{Person, Request};
use super::change::{NODES, Through, Way, annotation, annotations, annotations_of, merged, path};
use super::people::{administrator, agent};
use super::scene::{Expected, Scene, node};
use super::values;

const POLICY: &str = "podwire-agent-own-node";

const OWN: Expected<'_> = Expected::Denied(POLICY, "may only update the Node on which it runs");
const NO_STATUS: Expected<'_> = Expected::Denied(POLICY, "may not write a Node's status");
const ANNOTATIONS: Expected<'_> = Expected::Denied(POLICY, "may change nothing of its Node but");
const OURS: Expected<'_> = Expected::Denied(POLICY, "may change no annotations but those");

/// Writes a record through each way, and whatever the table refuses.
pub(crate) fn writes_its_own_record_and_nothing_else(context: &Context) -> Result<()> {
    let scene = Scene::start(context, "base")?;
    scene.let_agents_do_everything()?;
    let agent = scene.agent("node-1")?;
    for (what, record) in values::accepted() {
        accepted(&scene, &agent, &record).context(what)?;
    }
    for (what, words, change) in values::refused() {
        refused(&scene, &agent, &change, Expected::Denied(POLICY, words)).context(what)?;
    }
    for (what, change) in beside_annotations(&scene.node("node-1")?) {
        refused(&scene, &agent, &change, ANNOTATIONS).context(what)?;
    }
    for (what, change) in foreign_annotations() {
        refused(&scene, &agent, &change, OURS).context(what)?;
    }
    creates_and_deletes_nothing(&scene, &agent)?;
    another_nodes(&scene, &agent)?;
    tokens_that_are_bound_to_no_pod(&scene)
}

/// Every way accepts it on the Node, and none does through the status.
fn accepted(scene: &Scene, agent: &Person, record: &Value) -> Result<()> {
    for way in Way::ALL {
        scene.attempt(agent, (way, Through::Status), "node-1", record, NO_STATUS)?;
        scene.attempt(
            agent,
            (way, Through::Node),
            "node-1",
            record,
            Expected::Done,
        )?;
        let now = annotations_of(&scene.node("node-1")?);
        let expected = annotations_of(&merged(&node(1), record));
        ensure!(now == expected, "{way:?} left {now:?}");
        remove_record(scene, agent)?;
    }
    Ok(())
}

/// No way accepts it, and nothing is changed.
fn refused(scene: &Scene, agent: &Person, change: &Value, expected: Expected<'_>) -> Result<()> {
    let before = scene.node("node-1")?;
    for way in Way::ALL {
        scene.attempt(agent, (way, Through::Status), "node-1", change, NO_STATUS)?;
        scene.attempt(agent, (way, Through::Node), "node-1", change, expected)?;
    }
    ensure!(scene.node("node-1")? == before, "the Node was changed");
    Ok(())
}

fn remove_record(scene: &Scene, agent: &Person) -> Result<()> {
    let names = annotations_of(&scene.node("node-1")?);
    let names = names.keys().filter(|name| name.starts_with("podwire.dev/"));
    let change = annotations(names.map(|name| (name.as_str(), None)));
    let way = (Way::MergePatch, Through::Node);
    scene.attempt(agent, way, "node-1", &change, Expected::Done)
}

/// Changes of everything that is no annotation.
fn beside_annotations(own: &Value) -> Vec<(&'static str, Value)> {
    let owner = json!({
        "apiVersion": "v1", "kind": "Node", "name": "node-1", "uid": own["metadata"]["uid"],
    });
    let taint = json!({"key": "example.com/mine", "effect": "NoSchedule"});
    vec![
        (
            "a label",
            json!({"metadata": {"labels": {"example.com/new": "it"}}}),
        ),
        (
            "a label's value",
            json!({"metadata": {"labels": {"example.com/old": "its"}}}),
        ),
        (
            "a label removed",
            json!({"metadata": {"labels": {"example.com/old": null}}}),
        ),
        ("a taint", json!({"spec": {"taints": [taint]}})),
        ("a cordon", json!({"spec": {"unschedulable": true}})),
        (
            "a provider's name",
            json!({"spec": {"providerID": "example://1"}}),
        ),
        (
            "a finalizer",
            json!({"metadata": {"finalizers": ["example.com/hold"]}}),
        ),
        (
            "an owner",
            json!({"metadata": {"ownerReferences": [owner]}}),
        ),
        (
            "a label beside a record",
            merged(
                &values::record(),
                &json!({"metadata": {"labels": {"example.com/new": "it"}}}),
            ),
        ),
    ]
}

/// Changes of annotations that are others'.
fn foreign_annotations() -> Vec<(&'static str, Value)> {
    let beside = annotation("example.com/new", "it");
    vec![
        ("a foreign annotation", beside.clone()),
        ("a foreign value", annotation("example.com/theirs", "ours")),
        (
            "a foreign one removed",
            annotations([("example.com/theirs", None)]),
        ),
        ("one beside a record", merged(&values::record(), &beside)),
        (
            "a domain that looks like ours",
            annotation("podwire.dev.example.com/mode", "encrypted"),
        ),
        (
            "ours without a name",
            annotation("podwire.developer/mode", "encrypted"),
        ),
        (
            "a request",
            annotation(
                "request.podwire.dev/rotate",
                "if-key-generation=1,by=system:serviceaccount:podwire-system:podwire-agent",
            ),
        ),
    ]
}

fn creates_and_deletes_nothing(scene: &Scene, agent: &Person) -> Result<()> {
    let mut other = node(3);
    scene.expect(agent, &Request::post(NODES, other.clone()), OWN)?;
    other["metadata"]["annotations"] = json!({"podwire.dev/mode": "encrypted"});
    scene.expect(agent, &Request::post(NODES, other), OWN)?;
    for name in ["node-1", "node-2"] {
        scene.expect(agent, &Request::delete(&path(name)), OWN)?;
        scene.node(name)?;
    }
    scene.expect(agent, &Request::delete(NODES), OWN)?;
    scene.node("node-2").map(drop)
}

/// What is right on its own Node is refused on another's, also with that one's own claims.
fn another_nodes(scene: &Scene, agent: &Person) -> Result<()> {
    let before = scene.node("node-2")?;
    let changes = [
        values::record(),
        values::record_of(2),
        annotation("podwire.dev/mode", "host-network"),
        json!({"metadata": {"labels": {"example.com/new": "it"}}}),
        json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.66"}]}}),
    ];
    for change in changes {
        for way in Way::ALL {
            for through in Through::BOTH {
                scene.attempt(agent, (way, through), "node-2", &change, OWN)?;
            }
        }
    }
    ensure!(scene.node("node-2")? == before, "the Node was changed");
    // That one's own agent may.
    let other = scene.agent("node-2")?;
    let way = (Way::ServerSideApply, Through::Node);
    scene.attempt(&other, way, "node-2", &values::record_of(2), Expected::Done)
}

/// A token that names no pod was made by somebody who chose what it names.
fn tokens_that_are_bound_to_no_pod(scene: &Scene) -> Result<()> {
    let unbound = scene.cluster().unbound_token()?;
    for agent in [
        agent("an agent bound to nothing", unbound),
        bound_to_its_node(scene)?,
    ] {
        for way in Way::ALL {
            for through in Through::BOTH {
                let way = (way, through);
                scene.attempt(&agent, way, "node-1", &values::record(), OWN)?;
            }
        }
    }
    Ok(())
}

/// Who may make tokens for the agents may have one that names any Node.
fn bound_to_its_node(scene: &Scene) -> Result<Person> {
    let uid = scene.node("node-1")?["metadata"]["uid"].clone();
    let request = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"boundObjectRef": {
            "kind": "Node", "apiVersion": "v1", "name": "node-1", "uid": uid,
        }},
    });
    let path = "/api/v1/namespaces/podwire-system/serviceaccounts/podwire-agent/token";
    let answer = scene.done(&administrator(), &Request::post(path, request))?;
    let token = answer["status"]["token"].as_str().context("no token")?;
    Ok(agent("an agent bound to a Node", token.to_owned()))
}

/// What is shipped gives an agent no way but a patch of the Node, and nothing of other kinds.
pub(crate) fn has_no_right_but_to_what_it_needs(context: &Context) -> Result<()> {
    let scene = Scene::start(context, "base")?;
    let agent = scene.agent("node-1")?;
    let record = values::record();
    for way in Way::ALL {
        let expected = match way {
            Way::Put => Expected::Refused("cannot update resource \"nodes\""),
            Way::ServerSideApply | Way::StrategicMergePatch | Way::MergePatch | Way::JsonPatch => {
                Expected::Done
            }
        };
        scene.attempt(&agent, (way, Through::Node), "node-1", &record, expected)?;
        let status = Expected::Refused("resource \"nodes/status\"");
        scene.attempt(&agent, (way, Through::Status), "node-1", &record, status)?;
    }
    let system = "/api/v1/namespaces/podwire-system";
    let policies = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    let token =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    for request in [
        Request::post(NODES, node(3)),
        Request::delete(&path("node-1")),
        Request::get("/api/v1/pods"),
        Request::get("/api/v1/secrets"),
        Request::get(&format!("{system}/secrets")),
        Request::post(
            &format!("{system}/serviceaccounts/podwire-agent/token"),
            token,
        ),
        Request::get(policies),
        Request::delete(&format!("{policies}/podwire-annotations")),
        Request::get("/apis/events.k8s.io/v1/namespaces/default/events"),
        Request::post(
            "/apis/events.k8s.io/v1/namespaces/podwire-system/events",
            event("podwire-system"),
        ),
        Request::get(&format!("{}/proxy/pods", path("node-1"))),
    ] {
        scene.expect(&agent, &request, Expected::Refused("is forbidden"))?;
    }
    for request in [
        Request::get(NODES),
        Request::get(&path("node-2")),
        Request::post(
            "/apis/events.k8s.io/v1/namespaces/default/events",
            event("default"),
        ),
    ] {
        scene.done(&agent, &request)?;
    }
    Ok(())
}

fn event(namespace: &str) -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "node-1.1", "namespace": namespace},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "podwire-agent",
        "reportingInstance": "node-1",
        "action": "Refuse",
        "reason": "ClaimRefused",
        "type": "Warning",
        "regarding": {"apiVersion": "v1", "kind": "Node", "name": "node-1"},
    })
}

/// A value is checked when it changes: garbage beside it holds up no repair.
pub(crate) fn mends_what_somebody_else_broke(context: &Context) -> Result<()> {
    let scene = Scene::start(context, "base")?;
    let agent = scene.agent("node-1")?;
    let way = (Way::ServerSideApply, Through::Node);
    scene.attempt(&agent, way, "node-1", &values::record(), Expected::Done)?;
    let binding = [
        "delete",
        "validatingadmissionpolicybinding",
        "podwire-annotations",
    ];
    scene.cluster().kubectl(&binding, "")?;
    let garbage = annotations([
        ("podwire.dev/pod-cidrs", Some("0.0.0.0/0")),
        ("podwire.dev/public-key", Some("none")),
        ("podwire.dev/next-lanes", Some("\u{1b}[2J")),
        ("podwire.dev/mode", None),
    ]);
    podwire_testbed::until(
        super::scene::IN_FORCE,
        "the binding to be out of force",
        || {
            let way = (Way::MergePatch, Through::Node);
            scene.attempt(&administrator(), way, "node-1", &garbage, Expected::Done)
        },
    )?;
    // As agents do: they apply what they have, and remove what they have not.
    scene.attempt(&agent, way, "node-1", &values::record(), Expected::Done)?;
    let rest = annotations([("podwire.dev/next-lanes", None)]);
    let way = (Way::MergePatch, Through::Node);
    scene.attempt(&agent, way, "node-1", &rest, Expected::Done)?;
    let now = annotations_of(&scene.node("node-1")?);
    let expected = annotations_of(&merged(&node(1), &values::record()));
    ensure!(now == expected, "{now:?}");
    Ok(())
}

/// The token of a pod that is gone is nobody's.
pub(crate) fn loses_its_token_with_its_pod(context: &Context) -> Result<()> {
    let scene = Scene::start(context, "base")?;
    let agent = scene.agent("node-1")?;
    scene.done(&agent, &Request::get(&path("node-1")))?;
    scene.delete_agent("node-1")?;
    // What was accepted a moment ago is remembered for some seconds.
    podwire_testbed::until(super::scene::IN_FORCE, "the token to be refused", || {
        let get = Request::get(&path("node-1"));
        scene.expect(&agent, &get, Expected::Refused("Unauthorized"))
    })?;
    // Others' tokens are good.
    let other = scene.agent("node-2")?;
    scene.done(&other, &Request::get(&path("node-2"))).map(drop)
}
