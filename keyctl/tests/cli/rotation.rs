//! `keyctl rotate`, `abort`, `revoke` and `wait` to their ends, with an agent that the test plays.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::invocation::{Ran, healthy, on_folder};
use crate::running::Running;

const OLD_KEY: &str = "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=";
const NEW_KEY: &str = "FxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxcXFxc=";

/// What an agent of node-3 publishes.
#[derive(Clone, Copy)]
enum Record {
    /// Keys of this generation, and no others.
    Settled(u64),
    Announced,
    Promoted,
    Withdrawn,
    /// Those of before are revoked.
    Revoked(u64),
}

/// Publishes it, as an agent does: the whole file at once.
fn publish(folder: &Path, record: Record) {
    let (key, generation) = match record {
        Record::Settled(1) | Record::Announced | Record::Withdrawn => (OLD_KEY, 1),
        Record::Settled(generation) | Record::Revoked(generation) => (NEW_KEY, generation),
        Record::Promoted => (NEW_KEY, 2),
    };
    let more = match record {
        Record::Settled(_) => String::new(),
        Record::Announced => format!(
            "    podwire.dev/next-public-key: {NEW_KEY}\n    podwire.dev/rotation-phase: announced\n"
        ),
        Record::Promoted => format!(
            "    podwire.dev/previous-public-key: {OLD_KEY}\n    \
             podwire.dev/rotation-phase: promoted confirmed=47/48\n"
        ),
        Record::Withdrawn => "    podwire.dev/rotation-phase: withdrawn\n".to_owned(),
        Record::Revoked(_) => "    podwire.dev/rotation-phase: revoked\n".to_owned(),
    };
    let text = format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: node-3\n  \
         uid: 00000000-0000-4000-8000-000000000003\n  annotations:\n    \
         podwire.dev/mode: encrypted\n    \
         podwire.dev/pod-cidrs: 10.244.3.0/24,fd00:10:244:3::/64\n    \
         podwire.dev/public-key: {key}\n    podwire.dev/key-generation: \"{generation}\"\n{more}"
    );
    let half = folder.join(".half-written");
    std::fs::write(&half, text).expect("write");
    std::fs::rename(&half, folder.join("node-3.podwire.yaml")).expect("rename");
}

/// What is asked of node-3.
fn requests(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("node-3.request.yaml")).unwrap_or_default()
}

/// The healthy mesh, in which nobody rotates.
fn settled() -> tempfile::TempDir {
    let folder = healthy();
    for node in ["node-1", "node-2"] {
        for file in [".yaml", ".podwire.yaml", ".request.yaml"] {
            // Not every node has each.
            let _ = std::fs::remove_file(folder.path().join(format!("{node}{file}")));
        }
    }
    folder
}

#[test]
fn a_rotation_is_told_step_by_step() {
    let folder = settled();
    let mut running = Running::start(&["rotate", "node-3"], folder.path());
    let asked = running.until(|line| line.contains("node-3: asked"));
    assert!(
        asked.ends_with("asked to rotate, key generation 1"),
        "{asked}"
    );
    let value = "request.podwire.dev/rotate: \"if-key-generation=1,by=alice\"";
    let request = requests(folder.path());
    assert!(
        request.replace('"', "").contains(&value.replace('"', "")),
        "{request}"
    );
    publish(folder.path(), Record::Announced);
    running.until(|line| line.contains("node-3: announced"));
    publish(folder.path(), Record::Promoted);
    let promoted = running.until(|line| line.contains("node-3: promoted"));
    assert!(
        promoted.ends_with("key generation 2 (47/48 confirmed)"),
        "{promoted}"
    );
    publish(folder.path(), Record::Settled(2));
    running.until(|line| line.contains("node-3: retired the old keys, key generation 2"));
    assert_eq!(running.end(), 0);
    // The request is of the past, and nobody's to clear.
    assert_eq!(requests(folder.path()), request);
}

/// What answers like the agent of a node of which one of two peers has not confirmed.
fn agent(run_dir: &Path, node: &str) {
    let listener = UnixListener::bind(run_dir.join("admin.sock")).expect("a socket");
    let status = format!(
        r#"{{"node": "{node}", "rotation": {{"phase": "announced", "confirmed": 1,
            "waiting": ["node-1"], "waiting_total": 1}}}}"#
    );
    let row = |node, state, age, handshakes| {
        format!(
            r#"{{"node": "{node}", "mode": "encrypted", "state": "{state}",
                "latest_handshake_seconds": {age}, "handshakes": {handshakes}}}"#
        )
    };
    let rows = [
        row("node-1", "up", "7200", 3),
        row("node-2", "idle", "10800", 1),
        row("node-4", "down", "null", 0),
    ];
    let peers = format!("[{}]", rows.join(","));
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let mut lines = BufReader::new(&connection).lines().map_while(Result::ok);
            let question = lines.next().unwrap_or_default();
            lines.find(String::is_empty);
            let is_peers = question.starts_with("GET /peers ");
            let body = if is_peers { &peers } else { &status };
            let length = body.len();
            // Whoever went away needs no answer.
            let _ = write!(
                &connection,
                "HTTP/1.1 200 -\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
        }
    });
}

#[test]
fn wide_status_adds_who_is_in_touch_with_this_machines_node() {
    let folder = healthy();
    let run_dir = tempfile::tempdir().expect("a folder");
    let run_dir_text = run_dir.path().to_str().expect("text");
    let columns = || {
        let arguments = ["status", "-o", "wide", "--run-dir", run_dir_text];
        let ran = on_folder(&arguments, folder.path());
        assert_eq!(ran.code, 0, "{ran:?}");
        let rows = ran.output.lines().map(|line| {
            let cells: Vec<&str> = line.split_whitespace().collect();
            cells[9..11].join(" ")
        });
        rows.collect::<Vec<_>>()
    };
    let nobody = "<none> <none>";
    let header = "PEERS LAST-HANDSHAKE";
    assert_eq!(columns(), [header, nobody, nobody, nobody, nobody]);
    agent(run_dir.path(), "node-3");
    assert_eq!(
        columns(),
        [header, "<none> 120m", "<none> 3h", "1/3 120m", nobody]
    );
}

#[test]
fn peers_are_counted_where_the_nodes_own_agent_is_at_hand() {
    let folder = settled();
    publish(folder.path(), Record::Announced);
    for (node, is_told) in [("node-3", true), ("node-1", false)] {
        let run_dir = tempfile::tempdir().expect("a folder");
        agent(run_dir.path(), node);
        let run_dir = run_dir.path().to_str().expect("text");
        let arguments = ["rotate", "node-3", "--timeout=2s", "--run-dir", run_dir];
        let ran = on_folder(&arguments, folder.path());
        let told = ran
            .output
            .matches("1/2 confirmed, waiting for node-1")
            .count();
        assert_eq!((ran.code, told), (4, usize::from(is_told)), "{ran:?}");
    }
}

#[test]
fn a_rotation_that_somebody_aborts_is_exit_code_3() {
    let folder = settled();
    let mut rotation = Running::start(&["rotate", "node-3", "-o", "json"], folder.path());
    rotation.until(|line| line.contains("asked to rotate"));
    publish(folder.path(), Record::Announced);
    rotation.until(|line| line.contains("announced"));
    let mut abort = Running::start(&["abort", "node-3"], folder.path());
    abort.until(|line| line.ends_with("asked to abort, key generation 1"));
    let request = requests(folder.path());
    assert!(
        request.contains("dev/abort") && !request.contains("dev/rotate"),
        "{request}"
    );
    publish(folder.path(), Record::Withdrawn);
    abort.until(|line| line.ends_with("aborted, the keys of generation 1 stay"));
    assert_eq!(abort.end(), 0);
    rotation.until(|line| line.contains("\"reason\": \"aborted\""));
    assert_eq!(rotation.end(), 3);
    let again = on_folder(&["abort", "node-3"], folder.path());
    assert_eq!(again.code, 0, "it is aborted already: {again:?}");
}

#[test]
fn a_revocation_is_done_when_nothing_of_before_is_left() {
    let folder = settled();
    let mut running = Running::start(&["revoke", "node-3", "--yes"], folder.path());
    running.until(|line| line.ends_with("asked to revoke, key generation 1"));
    // A rotation came between: the old keys still receive, so it is asked again.
    publish(folder.path(), Record::Promoted);
    running.until(|line| line.ends_with("asked to revoke, key generation 2"));
    assert!(requests(folder.path()).contains("if-key-generation=2"));
    publish(folder.path(), Record::Revoked(3));
    running.until(|line| line.contains("revoked, key generation 3"));
    assert_eq!(running.end(), 0);
}

#[test]
fn a_wait_ends_when_all_are_as_they_should_be() {
    let folder = healthy();
    let arguments = ["wait", "--for=generation=2", "node-3", "node-1"];
    let mut running = Running::start(&arguments, folder.path());
    running.until(|line| line == "node-1: generation=2 is met");
    publish(folder.path(), Record::Revoked(2));
    running.until(|line| line == "node-3: generation=2 is met");
    assert_eq!(running.end(), 0);
    for (condition, code) in [
        ("phase=revoked", 0),
        ("phase=settled", 0),
        ("phase=announced", 4),
        ("generation=3", 4),
    ] {
        let condition = format!("--for={condition}");
        let ran = on_folder(
            &["wait", &condition, "node-3", "--timeout=1s"],
            folder.path(),
        );
        assert_eq!(ran.code, code, "{ran:?}");
    }
}

#[test]
fn a_node_that_does_not_answer_in_time_is_exit_code_4_and_not_asked_any_more() {
    let folder = settled();
    let ran = on_folder(&["rotate", "node-3", "--timeout=2s"], folder.path());
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.output.contains("asked to rotate"), "{ran:?}");
    let request = requests(folder.path());
    assert!(
        !request.is_empty() && !request.contains("rotate"),
        "{request}"
    );
    // In rotation it goes on by itself.
    publish(folder.path(), Record::Announced);
    let ran = on_folder(&["rotate", "node-3", "--timeout=2s"], folder.path());
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(!ran.output.contains("asked"), "{ran:?}");
}

#[track_caller]
fn refuses(ran: &Ran, expected: &str) {
    assert_eq!((ran.code, &*ran.output), (1, ""), "{ran:?}");
    assert!(ran.complaint.contains(expected), "{ran:?}");
}

#[test]
fn what_cannot_be_aborted_is_told_and_not_asked() {
    let folder = settled();
    let abort = || on_folder(&["abort", "node-3"], folder.path());
    refuses(&abort(), "nothing to abort");
    publish(folder.path(), Record::Promoted);
    refuses(&abort(), "generation 2, are in force already");
    assert_eq!(requests(folder.path()), "");
}
