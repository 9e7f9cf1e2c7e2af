//! What `keyctl rotate` and its like write, and what they refuse to.

use std::collections::BTreeMap;
use std::path::Path;

use crate::invocation::{Ran, healthy, mesh, on_folder};

/// All files of a folder.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    entries
        .map(|entry| {
            let entry = entry.expect("an entry");
            let text = std::fs::read_to_string(entry.path()).expect("text");
            (entry.file_name().to_string_lossy().into_owned(), text)
        })
        .collect()
}

#[test]
fn a_request_is_a_file_beside_the_nodes() {
    let folder = healthy();
    let arguments = ["rotate", "node-3", "--wait=false", "--max-unavailable=3"];
    let before = files(folder.path());
    let ran = on_folder(&arguments, folder.path());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.complaint.contains("keyctl status --watch"), "{ran:?}");
    let mut after = files(folder.path());
    let written = after.remove("node-3.request.yaml").expect("a request");
    assert!(
        written == include_str!("../expected/node-3.request.yaml"),
        "{written}"
    );
    assert_eq!(after, before, "nothing else is written");
    // It is asked already.
    let ran = on_folder(&arguments, folder.path());
    assert!(
        ran.code == 0 && ran.output.contains("is asked already"),
        "{ran:?}"
    );
}

#[test]
fn only_so_many_are_asked_as_there_is_room_for() {
    // Nodes 1 and 2 are in rotation, of three that have keys.
    let folder = healthy();
    let before = files(folder.path());
    let ran = on_folder(&["rotate", "--all", "--wait=false"], folder.path());
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(ran.complaint.contains("not asked: 1 of 3"), "{ran:?}");
    assert!(
        ran.complaint.contains("left out: 1 in host-network"),
        "{ran:?}"
    );
    assert_eq!(files(folder.path()), before);
    let room = "--max-unavailable=100%";
    let ran = on_folder(&["rotate", "--all", "--wait=false", room], folder.path());
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.output.contains("node-3: asked to rotate"), "{ran:?}");
}

#[test]
fn a_dry_run_says_what_would_be_and_writes_nothing() {
    let folder = healthy();
    let before = files(folder.path());
    let ran = on_folder(&["rotate", "--all", "--dry-run"], folder.path());
    assert_eq!(ran.code, 0, "{ran:?}");
    let expected = include_str!("../expected/rotate-dry-run.txt");
    assert!(ran.output == expected, "{}", ran.output);
    let ran = on_folder(
        &["rotate", "--all", "--dry-run", "-o", "yaml"],
        folder.path(),
    );
    let expected = include_str!("../expected/rotate-dry-run.yaml");
    assert!(ran.output == expected, "{}", ran.output);
    for arguments in [
        &["revoke", "node-3", "--dry-run"] as &[&str],
        &["abort", "node-2", "--dry-run"],
    ] {
        let ran = on_folder(arguments, folder.path());
        assert!(
            ran.code == 0 && ran.output.contains("would be asked"),
            "{ran:?}"
        );
    }
    assert_eq!(files(folder.path()), before);
}

#[track_caller]
fn fails(ran: &Ran, code: i32, expected: &str) {
    assert_eq!((ran.code, &*ran.output), (code, ""), "{ran:?}");
    assert_eq!(ran.complaint.lines().count(), 1, "{ran:?}");
    assert!(ran.complaint.contains(expected), "{ran:?}");
}

#[test]
fn a_list_with_a_mistake_asks_nobody() {
    let folder = healthy();
    let before = files(folder.path());
    let on = |arguments: &[&str]| on_folder(arguments, folder.path());
    fails(
        &on(&["rotate", "node-3", "node-10"]),
        1,
        "there is no Node node-10",
    );
    fails(&on(&["rotate", "node-3", "node-4"]), 1, "host-network mode");
    fails(&on(&["revoke", "node-10", "--yes"]), 1, "no Node node-10");
    fails(&on(&["abort", "node-10"]), 1, "no Node node-10");
    fails(
        &on(&["wait", "--for=generation=1", "node-10"]),
        1,
        "no Node node-10",
    );
    fails(&on(&["rotate", "-l", "pool=none"]), 1, "no node is chosen");
    fails(&on(&["rotate", "-l", "pool in (a)"]), 2, "no selector");
    assert_eq!(files(folder.path()), before);
}

#[test]
fn nodes_are_chosen_by_label_and_by_the_age_of_their_keys() {
    let folder = healthy();
    let path = folder.path().join("node-3.yaml");
    let manifest = std::fs::read_to_string(&path).expect("read");
    let labelled = manifest.replace("  name: node-3\n", "  name: node-3\n  labels: {pool: a}\n");
    std::fs::write(&path, labelled).expect("write");
    let ran = on_folder(&["rotate", "-l", "pool=a", "--dry-run"], folder.path());
    assert!(
        ran.code == 0 && ran.output.starts_with("node-3: would"),
        "{ran:?}"
    );
    assert_eq!(ran.output.lines().count(), 1, "{ran:?}");
    // Node 1's keys are of this time; node 3's have none.
    let time = "--older-than=2026-03-01T11:15:00Z";
    let ran = on_folder(&["rotate", "--all", "--dry-run", time], folder.path());
    assert!(
        ran.complaint.contains("left out: 1 with younger keys"),
        "{ran:?}"
    );
    assert!(
        !ran.output.contains("node-1") && ran.output.contains("node-3"),
        "{ran:?}"
    );
}

#[test]
fn a_node_without_a_record_is_skipped_and_exit_code_3() {
    let ran = on_folder(&["rotate", "--all", "--dry-run"], &mesh());
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(
        ran.output.contains("node-6: would be skipped: no agent"),
        "{ran:?}"
    );
}
