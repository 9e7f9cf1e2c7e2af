//! On real files.

use std::fs;

use podwire_core::request::{Request, Verb};

use super::*;

fn name() -> NodeName {
    "node-1".parse().expect("a name")
}

/// A folder with node-1, whose manifest has these further lines in its metadata.
fn folder(metadata: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: node-1\n  uid: u\n  \
         creationTimestamp: \"2026-01-01T00:00:00Z\"\n{metadata}"
    );
    fs::write(folder.path().join("node-1.yaml"), manifest).expect("write");
    folder
}

fn request(generation: u64) -> Request {
    Request {
        verb: Verb::Rotate,
        if_key_generation: generation,
        by: "alice".to_owned(),
    }
}

fn rotate(generation: u64) -> RequestChange {
    RequestChange::Make(request(generation))
}

/// The requests that an agent reads, by their names without the prefix.
fn requests(folder: &Path) -> BTreeMap<String, String> {
    let nodes = super::super::read(folder).expect("a folder of Nodes");
    assert!(nodes.rejected.is_empty(), "{:?}", nodes.rejected);
    let annotations = nodes.nodes[&name()].annotations.iter();
    annotations
        .filter_map(|(key, value)| {
            Some((key.strip_prefix(REQUEST_PREFIX)?.to_owned(), value.clone()))
        })
        .collect()
}

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    pairs.iter().map(owned).collect()
}

#[test]
fn a_request_takes_the_place_of_others_about_keys_and_of_nothing_else() {
    let folder = folder("");
    let requests_file = folder.path().join("node-1.request.yaml");
    let before = "{apiVersion: v1, kind: Node, metadata: {name: node-1, uid: u, annotations: {\
         request.podwire.dev/abort: \"if-key-generation=4,by=bob\", \
         request.podwire.dev/mode: \"to=encrypted,by=bob\"}}}";
    fs::write(&requests_file, before).expect("write");
    change_requests(folder.path(), &name(), "u", &rotate(4), true).expect("a dry run");
    assert_eq!(fs::read_to_string(&requests_file).expect("read"), before);
    change_requests(folder.path(), &name(), "u", &rotate(4), false).expect("written");
    let mode = ("mode", "to=encrypted,by=bob");
    let rotate = ("rotate", "if-key-generation=4,by=alice");
    assert_eq!(requests(folder.path()), texts(&[mode, rotate]));
    // Of the keys before: nothing is to be taken back.
    let back = RequestChange::TakeBack(request(3));
    change_requests(folder.path(), &name(), "u", &back, false).expect("nothing to do");
    assert_eq!(requests(folder.path()).len(), 2);
    let back = RequestChange::TakeBack(request(4));
    change_requests(folder.path(), &name(), "u", &back, false).expect("written");
    assert_eq!(requests(folder.path()), texts(&[mode]));
    assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 2);
}

#[test]
fn requests_in_the_manifest_stay_in_force() {
    let folder = folder(
        "  annotations:\n    request.podwire.dev/mode: to=host-network,by=bob\n    \
         example.com/other: it\n",
    );
    change_requests(folder.path(), &name(), "u", &rotate(1), false).expect("written");
    let mode = ("mode", "to=host-network,by=bob");
    let rotate = ("rotate", "if-key-generation=1,by=alice");
    assert_eq!(requests(folder.path()), texts(&[mode, rotate]));
}

#[test]
fn another_node_of_the_same_name_gets_no_request_and_leaves_none() {
    let folder = folder("");
    let error = change_requests(folder.path(), &name(), "other", &rotate(1), false);
    assert!(matches!(error, Err(ChangeError::Replaced(..))), "{error:?}");
    let gone = "node-2".parse().expect("a name");
    let error = change_requests(folder.path(), &gone, "u", &rotate(1), false);
    assert!(matches!(error, Err(ChangeError::Replaced(..))), "{error:?}");
    assert_eq!(fs::read_dir(folder.path()).expect("list").count(), 1);
    // What was asked of a Node that is gone is not asked of the next one.
    let old = "{apiVersion: v1, kind: Node, metadata: {name: node-1, uid: old, annotations: {\
         request.podwire.dev/mode: \"to=host-network,by=bob\"}}}";
    fs::write(folder.path().join("node-1.request.yaml"), old).expect("write");
    change_requests(folder.path(), &name(), "u", &rotate(1), false).expect("written");
    let rotate = ("rotate", "if-key-generation=1,by=alice");
    assert_eq!(requests(folder.path()), texts(&[rotate]));
}

#[test]
fn requests_that_cannot_be_read_are_not_lost_but_told() {
    let folder = folder("");
    let requests_file = folder.path().join("node-1.request.yaml");
    fs::write(&requests_file, "apiVersion: [").expect("write");
    let error = change_requests(folder.path(), &name(), "u", &rotate(1), false);
    let error = error.expect_err("refused").to_string();
    assert!(
        error.contains("node-1.request.yaml cannot be read"),
        "{error}"
    );
    assert_eq!(
        fs::read_to_string(&requests_file).expect("read"),
        "apiVersion: ["
    );
}

#[test]
fn a_user_without_a_name_is_a_number() {
    assert_eq!(user_name(Some("alice")), "alice");
    for name in [None, Some(""), Some("a b"), Some("a,by=b"), Some("a=b")] {
        assert!(user_name(name).starts_with("uid:"), "{name:?}");
    }
}

#[test]
fn nodes_are_chosen_by_the_labels_of_their_manifests() {
    let folder = folder("  labels: {pool: a}\n");
    let is_a = |labels: &BTreeMap<String, String>| labels.get("pool").is_some_and(|it| it == "a");
    let chosen = labelled(folder.path(), is_a).expect("a folder of Nodes");
    assert_eq!(chosen, [name()].into());
    let others = labelled(folder.path(), |labels| !is_a(labels)).expect("a folder of Nodes");
    assert!(others.is_empty());
}
