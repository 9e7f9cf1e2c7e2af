//! What everybody but the agents may write: no record, and requests only as an operator and in
//! one's own name.

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::suite::Context;
use serde_json::{Value, json};

use super::api::{Person, Request};
use super::change::{NODES, Through, Way, annotation, annotations, annotations_of, merged, path};
use super::people::{administrator, alice, chief, editor, mallory, nobody, user};
use super::scene::{Expected, Scene, node};
use super::values;

const POLICY: &str = "podwire-annotations";

const NO_RECORDS: Expected<'_> = Expected::Denied(POLICY, "are written by podwire-agent alone");
const NO_REQUESTS: Expected<'_> = Expected::Denied(POLICY, "are written by holders of");
const NO_RIGHT: Expected<'_> = Expected::Refused("is forbidden");

const ROTATE: &str = "request.podwire.dev/rotate";

/// Requests of somebody, as keyctl makes them.
fn requests(by: &str) -> Vec<Value> {
    let number = format!("if-key-generation=4,by={by}");
    let mut all: Vec<Value> = ["rotate", "abort", "revoke"]
        .iter()
        .map(|what| annotation(&format!("request.podwire.dev/{what}"), &number))
        .collect();
    for mode in ["auto", "encrypted", "host-network"] {
        let value = format!("to={mode},by={by}");
        all.push(annotation("request.podwire.dev/mode", &value));
    }
    all
}

/// Changes of records: one added, one changed, one removed, one of no known name.
fn records() -> Vec<Value> {
    vec![
        values::record_of(2),
        annotation("podwire.dev/next-public-key", "none"),
        annotation("podwire.dev/mode", "host-network"),
        annotations([("podwire.dev/public-key", None)]),
        annotation("podwire.dev/later", "x"),
    ]
}

/// A cluster whose node-1 has a record.
fn with_record(context: &Context) -> Result<Scene> {
    let scene = Scene::start(context, "base")?;
    let agent = scene.agent("node-1")?;
    let record = merged(&values::record(), &annotation("podwire.dev/epoch", "7"));
    let way = (Way::ServerSideApply, Through::Node);
    scene.attempt(&agent, way, "node-1", &record, Expected::Done)?;
    Ok(scene)
}

/// Every way and both resources, to one end.
fn every_way(scene: &Scene, person: &Person, change: &Value, expected: Expected<'_>) -> Result<()> {
    for way in Way::ALL {
        for through in Through::BOTH {
            scene.attempt(person, (way, through), "node-1", change, expected)?;
        }
    }
    Ok(())
}

/// Takes the requests from a Node, as an operator may.
fn remove_requests(scene: &Scene) -> Result<()> {
    let names = annotations_of(&scene.node("node-1")?);
    let names = names
        .keys()
        .filter(|name| name.starts_with("request.podwire.dev/"));
    let change = annotations(names.map(|name| (name.as_str(), None)));
    let way = (Way::MergePatch, Through::Node);
    scene.attempt(&alice(), way, "node-1", &change, Expected::Done)
}

pub(crate) fn nobody_but_the_agent_writes_records(context: &Context) -> Result<()> {
    let scene = with_record(context)?;
    let before = scene.node("node-1")?;
    for person in [editor(), chief(), administrator()] {
        for change in records() {
            every_way(&scene, &person, &change, NO_RECORDS)?;
        }
        let mut other = node(3);
        other["metadata"]["annotations"] = values::record()["metadata"]["annotations"].clone();
        scene.expect(&person, &Request::post(NODES, other), NO_RECORDS)?;
    }
    for person in [mallory(), nobody()] {
        let label = json!({"metadata": {"labels": {"example.com/new": "it"}}});
        let mut changes = records();
        changes.extend(requests("mallory"));
        changes.push(label);
        for change in changes {
            every_way(&scene, &person, &change, NO_RIGHT)?;
        }
        scene.expect(&person, &Request::post(NODES, node(3)), NO_RIGHT)?;
        scene.expect(&person, &Request::delete(&path("node-1")), NO_RIGHT)?;
    }
    ensure!(scene.node("node-1")? == before, "the Node was changed");
    Ok(())
}

pub(crate) fn who_may_write_nodes_goes_on_as_ever(context: &Context) -> Result<()> {
    let scene = with_record(context)?;
    for request in requests("editor") {
        every_way(&scene, &editor(), &request, NO_REQUESTS)?;
    }
    let mut other = node(3);
    other["metadata"]["annotations"] = json!({ROTATE: "if-key-generation=4,by=editor"});
    scene.expect(&editor(), &Request::post(NODES, other), NO_REQUESTS)?;
    let taint = json!({"key": "example.com/full", "effect": "NoSchedule"});
    let changes = [
        json!({"metadata": {"labels": {"example.com/new": "it"}}}),
        json!({"spec": {"unschedulable": true}}),
        json!({"spec": {"taints": [taint]}}),
        annotation("example.com/new", "it"),
        annotation("podwire.dev.example.com/new", "it"),
    ];
    for person in [editor(), chief(), administrator()] {
        for change in &changes {
            for way in Way::ALL {
                let way = (way, Through::Node);
                scene.attempt(&person, way, "node-1", change, Expected::Done)?;
            }
        }
    }
    scene.done(&editor(), &Request::post(NODES, node(3)))?;
    // A Node goes with its record: so is one evicted.
    scene.done(&editor(), &Request::delete(&path("node-1")))?;
    Ok(())
}

pub(crate) fn an_operator_writes_requests_in_its_own_name(context: &Context) -> Result<()> {
    let scene = with_record(context)?;
    let service = "system:serviceaccount:ops:keyctl";
    let people = [
        ("alice", alice()),
        (service, user(service, &["operators"])),
        (
            "oidc:al.ice+1@example.com",
            user("oidc:al.ice+1@example.com", &["operators"]),
        ),
        ("Alice Example", user("Alice Example", &["operators"])),
        ("chief", chief()),
        ("admin", administrator()),
    ];
    for (name, person) in people {
        for request in requests(name) {
            for way in Way::ALL.into_iter().filter(|way| *way != Way::Put) {
                let way = (way, Through::Node);
                scene.attempt(&person, way, "node-1", &request, Expected::Done)?;
            }
        }
        // One that another made is replaced, and removed.
        let theirs = annotation(ROTATE, "if-key-generation=9,by=alice");
        let way = (Way::MergePatch, Through::Node);
        scene.attempt(&alice(), way, "node-1", &theirs, Expected::Done)?;
        let own = annotation(ROTATE, &format!("if-key-generation=10,by={name}"));
        scene.attempt(&person, way, "node-1", &own, Expected::Done)?;
        remove_requests(&scene)?;
    }
    Ok(())
}

pub(crate) fn an_operator_writes_nothing_else(context: &Context) -> Result<()> {
    let scene = with_record(context)?;
    let before = scene.node("node-1")?;
    for (change, expected) in refused_of_alice() {
        for way in Way::ALL {
            // The role has neither right.
            let (on_node, on_status) = match way {
                Way::Put => (NO_RIGHT, NO_RIGHT),
                Way::ServerSideApply
                | Way::StrategicMergePatch
                | Way::MergePatch
                | Way::JsonPatch => (expected, NO_RIGHT),
            };
            scene.attempt(&alice(), (way, Through::Node), "node-1", &change, on_node)?;
            scene.attempt(
                &alice(),
                (way, Through::Status),
                "node-1",
                &change,
                on_status,
            )?;
        }
    }
    // Right requests do not go by the other ways either.
    for request in requests("alice") {
        let ways = [
            (Way::Put, Through::Node),
            (Way::MergePatch, Through::Status),
        ];
        for way in ways {
            scene.attempt(&alice(), way, "node-1", &request, NO_RIGHT)?;
        }
    }
    scene.expect(&alice(), &Request::post(NODES, node(3)), NO_RIGHT)?;
    scene.expect(&alice(), &Request::delete(&path("node-1")), NO_RIGHT)?;
    sees_whether_the_policies_are_in_force(&scene)?;
    names_that_could_say_something_else(&scene)?;
    ensure!(scene.node("node-1")? == before, "the Node was changed");
    Ok(())
}

/// Each of them, and neither others nor to change them.
fn sees_whether_the_policies_are_in_force(scene: &Scene) -> Result<()> {
    for kind in [
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
    ] {
        let all = format!("/apis/admissionregistration.k8s.io/v1/{kind}");
        scene.expect(&alice(), &Request::get(&all), NO_RIGHT)?;
        for name in ["agent-own-node", "annotations", "kubelet", "operator"] {
            let one = format!("{all}/podwire-{name}");
            scene.done(&alice(), &Request::get(&one))?;
            scene.expect(&alice(), &Request::delete(&one), NO_RIGHT)?;
        }
    }
    Ok(())
}

/// What alice asks for, and how each ends.
fn refused_of_alice() -> Vec<(Value, Expected<'static>)> {
    let mut all = beside_requests();
    all.extend(no_requests());
    // Two policies refuse it; either may say so first.
    let twice = Expected::Refused("ValidatingAdmissionPolicy 'podwire-");
    all.extend(records().into_iter().map(|change| (change, twice)));
    all
}

/// Changes that are no requests, and that others may make.
fn beside_requests() -> Vec<(Value, Expected<'static>)> {
    const LIMITED: Expected<'_> = Expected::Denied(
        "podwire-operator",
        "may change nothing of a Node but annotations",
    );
    let taint = json!({"key": "example.com/full", "effect": "NoSchedule"});
    let changes = [
        annotation("example.com/new", "it"),
        annotation("example.com/theirs", "mine"),
        annotations([("example.com/theirs", None)]),
        json!({"metadata": {"labels": {"example.com/new": "it"}}}),
        json!({"metadata": {"labels": {"example.com/old": null}}}),
        json!({"metadata": {"finalizers": ["example.com/hold"]}}),
        json!({"spec": {"unschedulable": true}}),
        json!({"spec": {"taints": [taint]}}),
    ];
    changes
        .into_iter()
        .map(|change| (change, LIMITED))
        .collect()
}

/// Requests that are none, or in another's name.
fn no_requests() -> Vec<(Value, Expected<'static>)> {
    const UNKNOWN: Expected<'_> = Expected::Denied(POLICY, "a request is one of");
    const MALFORMED: Expected<'_> = Expected::Denied(POLICY, "must be if-key-generation=NUMBER");
    const IN_ANOTHERS_NAME: Expected<'_> = Expected::Denied(POLICY, "must be the user name of");
    let reboot = "request.podwire.dev/reboot";
    let mode = "request.podwire.dev/mode";
    let cases = [
        (reboot, "if-key-generation=4,by=alice", UNKNOWN),
        (mode, "if-key-generation=4,by=alice", MALFORMED),
        (mode, "to=plaintext,by=alice", MALFORMED),
        (mode, "host-network", MALFORMED),
        (mode, "to=encrypted,by=admin", IN_ANOTHERS_NAME),
        (ROTATE, "", MALFORMED),
        (ROTATE, "now", MALFORMED),
        (ROTATE, "by=alice", MALFORMED),
        (ROTATE, "if-key-generation=4", MALFORMED),
        (ROTATE, "if-key-generation=4,by=", MALFORMED),
        (ROTATE, "if-key-generation=,by=alice", MALFORMED),
        (ROTATE, "if-key-generation=04,by=alice", MALFORMED),
        (ROTATE, "if-key-generation=-4,by=alice", MALFORMED),
        (ROTATE, "by=alice,if-key-generation=4", MALFORMED),
        (ROTATE, "if-key-generation=4,by=alice\n", MALFORMED),
        (ROTATE, "if-key-generation=4, by=alice", MALFORMED),
        (ROTATE, "if-key-generation=4,by=bob", IN_ANOTHERS_NAME),
        (ROTATE, "if-key-generation=4,by=alice ", IN_ANOTHERS_NAME),
        (ROTATE, "if-key-generation=4,by=malice", IN_ANOTHERS_NAME),
        (ROTATE, "if-key-generation=4,by=ALICE", IN_ANOTHERS_NAME),
        (
            ROTATE,
            "if-key-generation=4,by=alice,by=bob",
            IN_ANOTHERS_NAME,
        ),
    ];
    cases
        .into_iter()
        .map(|(name, value, expected)| (annotation(name, value), expected))
        .collect()
}

/// A user name that holds what readers split at.
fn names_that_could_say_something_else(scene: &Scene) -> Result<()> {
    for name in ["bob,by=alice", "bob=alice", "bob,alice", "CN=bob,OU=ops"] {
        let person = user(name, &["operators"]);
        for request in requests(name) {
            let expected = Expected::Denied(POLICY, "must be the user name of");
            let way = (Way::MergePatch, Through::Node);
            scene
                .attempt(&person, way, "node-1", &request, expected)
                .with_context(|| name.to_owned())?;
        }
    }
    // One whose end is another's name and by=.
    let person = user("e,by=alice", &["operators"]);
    let request = annotation(ROTATE, "if-key-generation=4,by=e,by=alice");
    let way = (Way::MergePatch, Through::Node);
    let expected = Expected::Denied(POLICY, "must be the user name of");
    scene.attempt(&person, way, "node-1", &request, expected)
}
