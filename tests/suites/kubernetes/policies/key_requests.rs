//! Requests about keys as keyctl makes them, on a real API server; the test plays the agents.

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::keyctl::Run;
use podwire_testbed::suite::Context;
use podwire_testbed::until;
use serde_json::{Value, json};

use super::api::Person;
use super::change::{Through, Way, annotations, annotations_of, merged};
use super::people::{administrator, alice};
use super::scene::{Expected, IN_FORCE, Scene};
use super::values;

const KEY: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
const NEXT_KEY: &str = "podwire.dev/next-public-key";
const PREVIOUS_KEY: &str = "podwire.dev/previous-public-key";
const PHASE: &str = "podwire.dev/rotation-phase";
const GENERATION: &str = "podwire.dev/key-generation";

/// A cluster whose two nodes have records.
fn with_records(context: &Context) -> Result<Scene> {
    let scene = Scene::start(context, "base")?;
    for number in [1, 2] {
        let agent = scene.agent(&format!("node-{number}"))?;
        publish(&scene, &agent, number, &values::record_of(number))?;
    }
    Ok(scene)
}

/// Changes a record, as that node's agent.
fn publish(scene: &Scene, agent: &Person, number: u8, change: &Value) -> Result<()> {
    let way = (Way::MergePatch, Through::Node);
    let node = format!("node-{number}");
    scene.attempt(agent, way, &node, change, Expected::Done)
}

/// What is asked of a node, by the names behind the prefix.
fn requests(scene: &Scene, node: &str) -> Result<Vec<(String, String)>> {
    let annotations = annotations_of(&scene.node(node)?);
    let requests = annotations.into_iter().filter_map(|(name, value)| {
        let name = name.strip_prefix("request.podwire.dev/")?.to_owned();
        Some((name, value.as_str()?.to_owned()))
    });
    Ok(requests.collect())
}

/// Fails unless this alone is asked of a node.
fn is_asked(scene: &Scene, node: &str, verb: &str, value: &str) -> Result<()> {
    let found = requests(scene, node)?;
    ensure!(
        found == [(verb.to_owned(), value.to_owned())],
        "{node}: {found:?}"
    );
    Ok(())
}

fn ends(run: &Run, code: i32, words: &str) -> Result<()> {
    let is_told = run.out.contains(words) || run.err.contains(words);
    ensure!(run.code == Some(code) && is_told, "{run:?}\n{code} {words}");
    Ok(())
}

pub(crate) fn an_operator_rotates_aborts_and_revokes(context: &Context) -> Result<()> {
    let scene = with_records(context)?;
    let keyctl = |arguments: &[&str]| scene.keyctl("alice", arguments);
    ends(&keyctl(&["rotate"])?, 2, "--all")?;
    ends(
        &keyctl(&["rotate", "node-1", "node-9"])?,
        1,
        "no Node node-9",
    )?;
    let dry_run = keyctl(&["rotate", "--all", "--dry-run"])?;
    ends(&dry_run, 0, "node-2: would be asked to rotate")?;
    for node in ["node-1", "node-2"] {
        ensure!(
            requests(&scene, node)?.is_empty(),
            "a dry run wrote something"
        );
    }
    // There is room for one of two.
    let run = keyctl(&["rotate", "--all", "--wait=false"])?;
    ends(&run, 3, "not asked: 1 of 2")?;
    is_asked(&scene, "node-1", "rotate", "if-key-generation=1,by=alice")?;
    ensure!(
        requests(&scene, "node-2")?.is_empty(),
        "asked beyond the share"
    );
    // Nobody answers: what is asked for is taken back.
    let run = keyctl(&[
        "rotate",
        "-l",
        "kubernetes.io/hostname=node-1",
        "--timeout=3s",
    ])?;
    ends(&run, 4, "the time is over")?;
    ensure!(requests(&scene, "node-1")?.is_empty(), "it is asked still");
    is_followed_to_its_end(&scene)?;
    is_aborted_and_revoked(&scene)
}

/// Rotates node 1 while the test plays its agent.
fn is_followed_to_its_end(scene: &Scene) -> Result<()> {
    let agent = scene.agent("node-1")?;
    let play = || -> Result<()> {
        until(IN_FORCE, "the request", || {
            is_asked(scene, "node-1", "rotate", "if-key-generation=1,by=alice")
        })?;
        let phases = [
            annotations([(NEXT_KEY, Some(KEY)), (PHASE, Some("announced"))]),
            annotations([
                (NEXT_KEY, None),
                (PREVIOUS_KEY, Some(KEY)),
                (PHASE, Some("promoted confirmed=1/1")),
                (GENERATION, Some("2")),
            ]),
            annotations([(PREVIOUS_KEY, None), (PHASE, None)]),
        ];
        phases
            .iter()
            .try_for_each(|phase| publish(scene, &agent, 1, phase))
    };
    let (run, played) = std::thread::scope(|scope| {
        let run = scope.spawn(|| scene.keyctl("alice", &["rotate", "node-1", "-o", "json"]));
        let played = play();
        (run.join(), played)
    });
    played?;
    let run = run.map_err(|_| anyhow::anyhow!("the run panicked"))??;
    ends(&run, 0, "retired the old keys, key generation 2")?;
    let json: Value = serde_json::from_str(&run.out).with_context(|| format!("{run:?}"))?;
    let item = &json["items"][0];
    ensure!(
        item["result"] == "rotated" && item["keyGeneration"] == 2,
        "{json}"
    );
    let run = scene.keyctl("alice", &["wait", "--for=generation=2", "node-1"])?;
    ends(&run, 0, "generation=2 is met")
}

fn is_aborted_and_revoked(scene: &Scene) -> Result<()> {
    let keyctl = |arguments: &[&str]| scene.keyctl("alice", arguments);
    ends(&keyctl(&["abort", "node-2"])?, 1, "nothing to abort")?;
    let agent = scene.agent("node-2")?;
    publish(scene, &agent, 2, &annotations([(NEXT_KEY, Some(KEY))]))?;
    // What an operator asked before, and what is not about keys.
    let mode = "request.podwire.dev/mode";
    let before = annotations([
        (
            "request.podwire.dev/rotate",
            Some("if-key-generation=1,by=alice"),
        ),
        (mode, Some("to=auto,by=alice")),
    ]);
    let way = (Way::MergePatch, Through::Node);
    scene.attempt(&alice(), way, "node-2", &before, Expected::Done)?;
    ends(
        &keyctl(&["abort", "node-2", "--wait=false"])?,
        0,
        "asked to abort",
    )?;
    let expected = [
        ("abort", "if-key-generation=1,by=alice"),
        ("mode", "to=auto,by=alice"),
    ];
    let expected = expected.map(|(verb, value)| (verb.to_owned(), value.to_owned()));
    ensure!(requests(scene, "node-2")? == expected, "mode is another's");
    let remove = annotations([(mode, None)]);
    scene.attempt(&alice(), way, "node-2", &remove, Expected::Done)?;
    ends(&keyctl(&["revoke", "node-2"])?, 2, "--yes")?;
    let run = keyctl(&["revoke", "node-2", "--yes", "--timeout=1s"])?;
    ends(&run, 4, "the request stands")?;
    is_asked(scene, "node-2", "revoke", "if-key-generation=1,by=alice")
}

/// The rights that mallory is given one after another: none of them is an operator's.
const RIGHTS: [&str; 2] = [
    "{apiGroups: [''], resources: [nodes], verbs: [get, list, watch]}",
    "{apiGroups: [''], resources: [nodes], verbs: ['*']}",
];

pub(crate) fn anybody_else_is_denied(context: &Context) -> Result<()> {
    let scene = with_records(context)?;
    let before = scene.node("node-1")?;
    let commands: [&[&str]; 4] = [
        &["rotate", "node-1"],
        &["rotate", "--all", "--dry-run"],
        &["rotate", "node-1", "--wait=false"],
        &["revoke", "node-1", "--yes"],
    ];
    for command in commands {
        ends(&scene.keyctl("mallory", command)?, 5, "cannot list")?;
    }
    for (rights, words) in RIGHTS.iter().zip(["cannot patch", "podwire-annotations"]) {
        let role = format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\n\
             metadata: {{name: mallory}}\nrules: [{rights}]\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\n\
             metadata: {{name: mallory}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: mallory}}\n\
             subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: mallory}}]\n"
        );
        scene.cluster().kubectl(&["apply", "-f", "-"], &role)?;
        until(IN_FORCE, "the rights", || {
            ends(&scene.keyctl("mallory", commands[0])?, 5, words)
        })?;
        for command in commands {
            let run = scene.keyctl("mallory", command)?;
            ends(&run, 5, words)?;
            let complaints = run.err.lines().filter(|line| line.contains("denies"));
            ensure!(complaints.count() == 1, "{run:?}");
        }
    }
    ensure!(scene.node("node-1")? == before, "the Node was changed");
    // Whoever may do everything may ask, in their own name.
    let way = (Way::MergePatch, Through::Node);
    let request = json!({"metadata": {"annotations": {
        "request.podwire.dev/rotate": "if-key-generation=1,by=admin",
    }}});
    let request = merged(&json!({}), &request);
    scene.attempt(&administrator(), way, "node-1", &request, Expected::Done)
}
