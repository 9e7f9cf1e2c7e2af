use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;

use podwire_core::key::{PrivateKey, PublicKey};
use podwire_core::mesh::Incumbent;
use podwire_core::rotation::Step;

use super::*;

const LANES: usize = 2;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn sent(initiations: u64, highest_seconds: u64) -> SentStamps {
    SentStamps {
        initiations,
        highest: highest_seconds * 1_000_000_000,
    }
}

fn open(path: &Path) -> State {
    State::open(path, LANES, at(1000)).unwrap_or_else(|error| panic!("{}", chain(error)))
}

fn refused(path: &Path) -> StateError {
    State::open(path, LANES, at(1000)).expect_err("refused")
}

fn chain(error: StateError) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

/// A folder in which an agent ran before.
fn used() -> (tempfile::TempDir, Vec<PublicKey>) {
    let folder = tempfile::tempdir().expect("folder");
    let keys = open(folder.path()).public_keys();
    (folder, keys)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("stat").permissions().mode() & 0o777
}

fn node(name: &str) -> Arc<Node> {
    Arc::new(Node {
        name: name.parse().expect("name"),
        uid: "a".to_owned(),
        created: -1,
        pod_cidrs: vec![
            "10.244.1.0/24".parse().expect("cidr"),
            "fd00:10:244:1::/64".parse().expect("cidr"),
        ],
        addresses: vec!["2001:db8::11".parse().expect("address")],
        annotations: BTreeMap::from([(
            "podwire.dev/mode".to_owned(),
            "encrypted \"ä\"".to_owned(),
        )]),
        is_record_unread: true,
    })
}

#[test]
fn a_first_start_makes_keys_that_only_the_agent_may_read() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("var/lib/podwire");
    let mut state = open(&path);
    assert_eq!(state.public_keys().len(), LANES);
    assert_eq!(state.key_generation(), 1);
    assert_eq!(state.key_created(), "1970-01-01T00:16:40Z");
    assert_eq!(
        (
            state.epoch(),
            state.process_generation(),
            state.ever_encrypted()
        ),
        (0, 1, false)
    );
    assert_eq!(state.snapshot(), Snapshot::default());
    let private = state.own_keys().expect("keys").base;
    let public: Vec<PublicKey> = private.iter().map(PrivateKey::public_key).collect();
    assert_eq!(public, state.public_keys());
    assert_eq!(mode(&path), 0o700);
    for file in ["lock", "keys", "history.json"] {
        assert_eq!(mode(&path.join(file)), 0o600, "{file}");
    }
}

#[test]
fn a_killed_agent_keeps_its_key() {
    let (folder, keys) = used();
    let mut state = open(folder.path());
    assert_eq!(state.public_keys(), keys);
    assert_eq!(state.process_generation(), 2);
    state.keep_ever_encrypted().expect("kept");
    drop(state);
    let state = open(folder.path());
    assert_eq!(
        (state.process_generation(), state.ever_encrypted()),
        (3, true)
    );
    assert_eq!(state.public_keys(), keys);
}

#[test]
fn one_agent_a_node() {
    let (folder, _) = used();
    let state = open(folder.path());
    let error = refused(folder.path());
    assert!(matches!(&error, StateError::Locked { pid, .. } if *pid == Some(std::process::id())));
    let text = chain(error);
    assert!(
        text.contains(&folder.path().display().to_string()),
        "{text}"
    );
    assert!(matches!(
        lock_if_there(folder.path()),
        Err(StateError::Locked { .. })
    ));
    drop(state);
    drop(lock_if_there(folder.path()).expect("free").expect("there"));
    open(folder.path());
    assert!(
        lock_if_there(&folder.path().join("no"))
            .expect("nothing to lock")
            .is_none()
    );
}

#[test]
fn a_removed_state_takes_its_folder_with_it_unless_somebody_else_uses_that() {
    for has_foreign in [false, true] {
        let (folder, _) = used();
        let path = folder.path();
        // A process that was killed while it wrote keys.
        fs::write(path.join(".keys.Ab3xYz.tmp"), "private").expect("written");
        let foreign = path.join("theirs");
        if has_foreign {
            fs::write(&foreign, "").expect("written");
        }
        let lock = lock_if_there(path).expect("free").expect("there");
        remove(path).expect("removed");
        drop(lock);
        let left: Vec<_> = fs::read_dir(path).into_iter().flatten().flatten().collect();
        let left: Vec<_> = left.into_iter().map(|entry| entry.path()).collect();
        let expected: Vec<_> = has_foreign.then_some(foreign).into_iter().collect();
        assert_eq!(left, expected);
        assert_eq!(path.is_dir(), has_foreign);
        remove(path).expect("nothing to remove");
    }
}

#[test]
fn added_lanes_get_new_keys_and_the_others_keep_theirs() {
    let (folder, keys) = used();
    let more = State::open(folder.path(), 4, at(1000))
        .expect("open")
        .public_keys();
    assert_eq!(more.len(), 4);
    assert_eq!(more[..2], keys);
    let mut fewer = State::open(folder.path(), 1, at(1000)).expect("open");
    assert_eq!(fewer.told_keys().current, keys[..1]);
    assert_eq!(fewer.public_keys(), more, "all are this node's");
    assert_eq!(fewer.own_keys().expect("keys").base.len(), 1);
    drop(fewer);
    assert_eq!(
        State::open(folder.path(), 4, at(1000))
            .expect("open")
            .public_keys(),
        more
    );
}

#[test]
fn a_damaged_key_file_is_an_error_that_names_it_and_never_a_new_key() {
    let (folder, _) = used();
    let path = folder.path().join("keys");
    let good = fs::read_to_string(&path).expect("text");
    let private = good.lines().nth(5).expect("lane 0")[10..54].to_owned();
    let half = good[..good.len() / 2].to_owned();
    // Not the first letter: its last bit is one of those that a curve's key does without.
    let third = &private[2..3];
    let flipped = good.replace(third, if third == "A" { "B" } else { "A" });
    let huge = good.repeat(1000);
    for bad in [
        "",
        "garbage",
        "\u{feff}podwire-keys 2\n",
        &half,
        &flipped,
        &huge,
    ] {
        fs::write(&path, bad).expect("write");
        let error = refused(folder.path());
        assert!(matches!(error, StateError::Damaged { .. }), "{error:?}");
        let text = format!("{error:?}") + &chain(error);
        assert!(
            text.contains(&path.display().to_string()) && text.contains("backup"),
            "{text}"
        );
        assert!(
            !text.contains(&private) && !text.contains(&private[1..]),
            "{text}"
        );
        assert_eq!(
            fs::read_to_string(&path).expect("text"),
            bad,
            "the file stays as it is"
        );
    }
    fs::write(&path, b"\xff\xfe").expect("write");
    assert!(matches!(refused(folder.path()), StateError::Damaged { .. }));
    fs::write(&path, good.replace("podwire-keys 2", "podwire-keys 3")).expect("write");
    assert!(matches!(
        refused(folder.path()),
        StateError::FutureVersion {
            found: 3,
            known: 2,
            ..
        }
    ));
    fs::remove_file(&path).expect("remove");
    fs::create_dir(&path).expect("a folder in its place");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("chmod");
    assert!(matches!(refused(folder.path()), StateError::Read { .. }));
    fs::remove_dir(&path).expect("remove");
    assert!(matches!(refused(folder.path()), StateError::Missing { .. }));
    assert!(!path.exists());
}

#[test]
fn a_key_file_that_others_may_read_is_an_error() {
    let (folder, keys) = used();
    let path = folder.path().join("keys");
    for mode in [0o644, 0o640, 0o602] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        let error = refused(folder.path());
        assert!(matches!(&error, StateError::Exposed { mode: found, .. } if *found == mode));
        assert!(chain(error).contains("mode 600"));
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).expect("chmod");
    assert_eq!(open(folder.path()).public_keys(), keys);
}

#[test]
fn a_damaged_or_missing_history_is_an_error() {
    let (folder, keys) = used();
    let path = folder.path().join("history.json");
    let good = fs::read_to_string(&path).expect("text");
    let unknown = good.replacen('{', "{\"more\": 1,", 1);
    for bad in [
        "",
        "{}",
        "[]",
        "garbage",
        &good[..good.len() / 2],
        &unknown,
        &" ".repeat(1 << 17),
    ] {
        fs::write(&path, bad).expect("write");
        let error = refused(folder.path());
        assert!(matches!(error, StateError::Damaged { .. }), "{error:?}");
        assert!(chain(error).contains(&path.display().to_string()));
    }
    let future = good.replace("\"version\": 1", "\"version\": 7");
    fs::write(&path, future).expect("write");
    assert!(matches!(
        refused(folder.path()),
        StateError::FutureVersion { found: 7, .. }
    ));
    fs::remove_file(&path).expect("remove");
    assert!(matches!(refused(folder.path()), StateError::Missing { .. }));
    fs::write(&path, good).expect("write");
    assert_eq!(open(folder.path()).public_keys(), keys);
}

#[test]
fn a_crash_at_any_point_of_the_first_start_is_made_up_for() {
    // After the first history, before the keys.
    let folder = tempfile::tempdir().expect("folder");
    History::new().write(folder.path()).expect("write");
    assert_eq!(open(folder.path()).process_generation(), 1);
    // After the keys, before the history that tells of them.
    let (folder, keys) = used();
    History::new().write(folder.path()).expect("write");
    let state = open(folder.path());
    assert_eq!(state.public_keys(), keys);
    assert!(state.history.has_keys);
}

#[test]
fn what_a_killed_process_left_half_written_is_removed_and_nothing_else() {
    let (folder, _) = used();
    for name in [
        ".keys.a1B2",
        ".history.json.x",
        ".snapshot.json.x",
        ".keys",
        ".other",
        "note.txt",
    ] {
        fs::write(folder.path().join(name), "x").expect("write");
    }
    open(folder.path());
    let mut names: Vec<String> = fs::read_dir(folder.path())
        .expect("list")
        .map(|entry| {
            entry
                .expect("entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            ".keys",
            ".other",
            "history.json",
            "keys",
            "lock",
            "note.txt"
        ]
    );
}

#[test]
fn a_folder_that_a_kubelet_made_is_closed_to_others() {
    let folder = tempfile::tempdir().expect("folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    open(folder.path());
    assert_eq!(mode(folder.path()), 0o700);
}

#[test]
fn a_path_that_cannot_be_a_folder_is_an_error_that_names_the_flag() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("file");
    fs::write(&file, "x").expect("write");
    for path in [file.as_path(), Path::new("/proc/podwire")] {
        let error = refused(path);
        assert!(matches!(error, StateError::Folder { .. }), "{error:?}");
        assert!(chain(error).contains("--state-dir"));
    }
}

#[test]
fn a_clock_that_went_back_over_a_restart_begins_an_epoch() {
    let (folder, _) = used();
    let mut state = open(folder.path());
    assert!(!state.keep_stamp(at(2000), sent(1, 2000)).expect("kept"));
    drop(state);
    assert_eq!(
        State::open(folder.path(), LANES, at(2001))
            .expect("open")
            .epoch(),
        0
    );
    assert_eq!(
        State::open(folder.path(), LANES, at(1500))
            .expect("open")
            .epoch(),
        1
    );
    assert_eq!(
        State::open(folder.path(), LANES, at(1500))
            .expect("open")
            .epoch(),
        1
    );
}

#[test]
fn a_clock_that_jumps_back_while_running_begins_an_epoch() {
    let (folder, _) = used();
    let mut state = open(folder.path());
    assert!(!state.keep_stamp(at(2000), sent(1, 2000)).expect("kept"));
    assert!(
        !state
            .keep_stamp(at(2500), sent(1, 2000))
            .expect("nothing was sent at 2500")
    );
    assert!(
        !state
            .keep_stamp(at(2001), sent(1, 2000))
            .expect("still ahead of what was sent")
    );
    // Not yet on disk, because the disk is little behind: it counts all the same.
    assert!(!state.keep_stamp(at(2003), sent(2, 2003)).expect("kept"));
    assert!(
        !state
            .keep_stamp(at(2002), sent(2, 2003))
            .expect("a correction")
    );
    assert!(state.keep_stamp(at(2001), sent(2, 2003)).expect("kept"));
    state.begin_epoch(at(2001)).expect("kept");
    assert_eq!(state.epoch(), 1);
    assert!(!state.keep_stamp(at(2001), sent(2, 0)).expect("once"));
    assert!(!state.keep_stamp(at(2002), sent(3, 2002)).expect("kept"));
    drop(state);
    assert_eq!(
        State::open(folder.path(), LANES, at(2003))
            .expect("open")
            .epoch(),
        1
    );
}

/// An engine does not notice that the clock was set: its stamps count on from where they were.
#[test]
fn stamps_that_run_ahead_of_a_clock_are_what_counts_and_not_the_clock() {
    let (folder, _) = used();
    let mut state = open(folder.path());
    assert!(
        state
            .keep_stamp(at(2000), sent(1, 1_000_000))
            .expect("kept")
    );
    drop(state);
    assert_eq!(
        State::open(folder.path(), LANES, at(2001))
            .expect("open")
            .epoch(),
        1
    );
    let mut state = State::open(folder.path(), LANES, at(2002)).expect("open");
    state.begin_epoch(at(2003)).expect("nothing was sent");
    assert_eq!(state.epoch(), 1, "no epoch without a reason");
}

#[test]
fn an_epoch_that_peers_know_already_is_skipped() {
    let (folder, _) = used();
    let mut state = open(folder.path());
    assert!(!state.keep_stamp(at(1500), sent(1, 1500)).expect("kept"));
    let older_copy = fs::read(folder.path().join("history.json")).expect("history");
    assert!(state.keep_stamp(at(2000), sent(1, 9000)).expect("kept"));
    state.begin_epoch(at(2000)).expect("kept");
    state.continue_epoch(0).expect("the record is of before");
    assert_eq!(state.epoch(), 1);
    state.continue_epoch(1).expect("published by itself");
    assert_eq!(state.epoch(), 1);
    drop(state);
    fs::write(folder.path().join("history.json"), older_copy).expect("restored");
    let mut state = State::open(folder.path(), LANES, at(500)).expect("open");
    assert_eq!(state.epoch(), 1, "the clock is behind the older copy too");
    state.continue_epoch(1).expect("kept");
    assert_eq!(state.epoch(), 2);
    drop(state);
    assert_eq!(
        State::open(folder.path(), LANES, at(501))
            .expect("open")
            .epoch(),
        2
    );
}

#[test]
fn a_node_at_rest_writes_nothing() {
    let (folder, _) = used();
    let mut state = open(folder.path());
    let nodes = BTreeMap::from([("n1".parse().expect("name"), node("n1"))]);
    let mut keep = |now| {
        state.keep_stamp(at(now), sent(1, 2000)).expect("kept");
        state
            .keep_snapshot(&nodes, &Incumbents::new())
            .expect("kept");
        state.keep_ever_encrypted().expect("kept");
        state.continue_key_generation(1).expect("kept");
        ["keys", "history.json", "snapshot.json"]
            .map(|file| fs::metadata(folder.path().join(file)).expect("stat").ino())
    };
    let first = keep(2000);
    for now in 2001..2100 {
        assert_eq!(keep(now), first);
    }
}

#[test]
fn the_last_known_mesh_comes_back_after_a_restart() {
    let (folder, keys) = used();
    let mut state = open(folder.path());
    let names = ["n1", "n2"];
    let nodes = names
        .map(|name| (name.parse().expect("name"), node(name)))
        .into();
    let incumbent = Incumbent {
        uid: "a".to_owned(),
        public_key: keys[0],
        other_lanes: vec![keys[1]],
        pod_cidrs: vec!["10.244.1.0/24".parse().expect("cidr")],
    };
    let incumbents = Incumbents::from([("n1".parse().expect("name"), incumbent)]);
    state.keep_snapshot(&nodes, &incumbents).expect("kept");
    drop(state);
    assert_eq!(
        open(folder.path()).snapshot(),
        Snapshot { nodes, incumbents }
    );
}

#[test]
fn a_damaged_snapshot_is_ignored() {
    let (folder, keys) = used();
    let path = folder.path().join("snapshot.json");
    let mut state = open(folder.path());
    let nodes = BTreeMap::from([("n1".parse().expect("name"), node("n1"))]);
    state
        .keep_snapshot(&nodes, &Incumbents::new())
        .expect("kept");
    drop(state);
    let good = fs::read_to_string(&path).expect("text");
    let cidr = good.replace("10.244.1.0/24", "10.244.1.0/99");
    let future = good.replace("\"version\":1", "\"version\":2");
    for bad in ["", "garbage", &good[..good.len() / 2], &cidr, &future] {
        fs::write(&path, bad).expect("write");
        let state = open(folder.path());
        assert_eq!(state.snapshot(), Snapshot::default());
        assert_eq!(state.public_keys(), keys);
    }
}

#[test]
fn keys_made_anew_are_a_later_generation_than_the_published_ones() {
    let (folder, _) = used();
    // A record of these very keys.
    let mut state = open(folder.path());
    state.continue_key_generation(1).expect("kept");
    assert_eq!(state.key_generation(), 1);
    // A record of keys that came after those on disk: a backup was restored.
    state.continue_key_generation(4).expect("kept");
    assert_eq!(state.key_generation(), 5);
    // The record that was published before is still what the registry tells.
    state.continue_key_generation(4).expect("kept");
    state.continue_key_generation(5).expect("kept");
    assert_eq!(state.own_keys().expect("keys").base.len(), LANES);
    drop(state);
    assert_eq!(open(folder.path()).key_generation(), 5);
    // The state was lost, and the record is of the keys that were.
    let folder = tempfile::tempdir().expect("folder");
    let mut state = open(folder.path());
    state.continue_key_generation(1).expect("kept");
    assert_eq!(state.key_generation(), 2);
    // A node that never published.
    let folder = tempfile::tempdir().expect("folder");
    let mut state = open(folder.path());
    state.continue_key_generation(0).expect("kept");
    state.continue_key_generation(1).expect("its own record");
    assert_eq!(state.key_generation(), 1);
}

#[test]
fn keys_that_somebody_else_replaced_are_not_used() {
    let (folder, _) = used();
    let (other, _) = used();
    let mut state = open(folder.path());
    fs::copy(other.path().join("keys"), folder.path().join("keys")).expect("copy");
    let read = state.own_keys().err();
    assert!(matches!(read, Some(StateError::Changed { .. })));
    let step = state.rotate(Step::Prepare, at(2000)).err();
    assert!(matches!(step, Some(StateError::Changed { .. })));
}

/// Runs this very test again in a mount namespace of its own, where it may mount.
fn in_mount_namespace(test: &str) {
    let root = rustix::process::geteuid().is_root();
    let namespaces: &[&str] = if root {
        &["--mount"]
    } else {
        &["--mount", "--map-root-user"]
    };
    let output = Command::new("unshare")
        .args(namespaces)
        .arg(std::env::current_exe().expect("own path"))
        .args(["--exact", test, "--nocapture"])
        .env(IN_NAMESPACE, "1")
        .output()
        .expect("unshare(1) of util-linux");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

const IN_NAMESPACE: &str = "PODWIRE_TEST_IN_NAMESPACE";

fn mount(arguments: &[&str]) {
    let output = Command::new("mount")
        .args(arguments)
        .output()
        .expect("mount(8)");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_full_or_read_only_disk_is_a_clear_error_and_harms_nothing() {
    if std::env::var_os(IN_NAMESPACE).is_none() {
        let this = "state::tests::a_full_or_read_only_disk_is_a_clear_error_and_harms_nothing";
        return in_mount_namespace(this);
    }
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path();
    let mount_point = path.to_str().expect("text");
    mount(&[
        "-t",
        "tmpfs",
        "-o",
        "size=128k,mode=700",
        "podwire-test",
        mount_point,
    ]);
    let mut state = open(path);
    let keys = state.public_keys();
    let filler = path.join("filler");
    let error = fs::write(&filler, vec![0; 1 << 20]).expect_err("the disk is full");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);

    let error = state.keep_ever_encrypted().expect_err("no room");
    let text = chain(error);
    assert!(
        text.contains("history.json") && text.contains("No space left"),
        "{text}"
    );
    assert!(
        !state.ever_encrypted(),
        "what is not on disk does not count"
    );
    drop(state);
    let text = chain(refused(path));
    assert!(
        text.contains("history.json") && text.contains("No space left"),
        "{text}"
    );
    fs::remove_file(&filler).expect("remove");
    let state = open(path);
    assert_eq!((state.public_keys(), state.process_generation()), (keys, 2));
    drop(state);

    mount(&["-o", "remount,ro,bind", mount_point]);
    let error = refused(path);
    assert!(matches!(error, StateError::Folder { .. }), "{error:?}");
    assert!(chain(error).contains("Read-only file system"));
    let status = Command::new("umount")
        .arg(mount_point)
        .status()
        .expect("umount(8)");
    assert!(status.success());
}

mod rotation;
