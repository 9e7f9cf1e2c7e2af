//! What is read from a folder.

use crate::invocation::{Ran, healthy, keyctl, mesh, on_folder, run};

#[test]
fn a_mesh_without_fault_is_exit_code_0() {
    let folder = healthy();
    for arguments in [
        &["status"] as &[&str],
        &["status", "node-4"],
        &["peers", "node-1"],
        &["verify"],
        &["verify", "-o", "json"],
    ] {
        let ran = on_folder(arguments, folder.path());
        assert_eq!((ran.code, &*ran.complaint), (0, ""), "{ran:?}");
        assert!(!ran.output.is_empty());
    }
}

#[test]
fn a_degraded_mesh_is_exit_code_3_and_its_data_is_on_standard_output() {
    for arguments in [
        &["status"] as &[&str],
        &["peers", "node-1"],
        &["peers", "node-6"],
        &["verify"],
        &["status", "node-5", "-o", "name"],
    ] {
        assert_eq!(on_folder(arguments, &mesh()).code, 3, "{arguments:?}");
    }
    let ran = on_folder(&["status"], &mesh());
    assert!(ran.output.starts_with("NAME"), "{ran:?}");
    assert!(ran.complaint.starts_with("keyctl: 5 of 9 nodes"), "{ran:?}");
}

#[test]
fn json_is_the_same_whenever_it_is_asked_for() {
    let expected = include_str!("../expected/status.json");
    let ran = on_folder(&["status", "-o", "json"], &mesh());
    assert!(ran.output == expected, "{}", ran.output);
}

#[track_caller]
fn fails(ran: &Ran, expected: &str) {
    assert_eq!((ran.code, &*ran.output), (1, ""), "{ran:?}");
    assert_eq!(ran.complaint.lines().count(), 1, "{ran:?}");
    assert!(ran.complaint.contains(expected), "{ran:?}");
}

#[test]
fn what_cannot_be_read_or_is_not_there_is_exit_code_1_and_one_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    fails(&on_folder(&["status"], folder.path()), "no Node manifest");
    let gone = folder.path().join("gone");
    fails(&on_folder(&["verify"], &gone), "check --directory");
    let ran = on_folder(&["status", "node-10"], &mesh());
    fails(&ran, "there is no Node node-10");
    fails(&on_folder(&["peers", "node-10"], &mesh()), "node-10");
}

#[test]
fn a_reader_that_went_away_is_no_error() {
    let folder = healthy();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = keyctl(&["status", "--watch", "--directory"]);
    let ran = run(command.arg(folder.path()).stdout(writer));
    assert_eq!((ran.code, &*ran.complaint), (0, ""), "{ran:?}");
}
