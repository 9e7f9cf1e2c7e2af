//! Real files, real inotify; conditions with a generous deadline.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use podwire_core::node::Node;
use tokio::task::JoinHandle;

use super::*;
use crate::nodes::Synchronisation;

const DEADLINE: Duration = Duration::from_secs(60);

/// A registry on a folder of its own, and the task that follows it.
struct Fixture {
    folder: tempfile::TempDir,
    directory: Directory,
    nodes: watch::Receiver<Arc<Nodes>>,
    task: JoinHandle<std::convert::Infallible>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn manifest(name: &str, uid: &str, octet: usize) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {name}, uid: {uid}, \
         creationTimestamp: \"2026-01-01T00:00:00Z\"}}\n\
         spec: {{podCIDRs: [10.244.{octet}.0/24]}}\n\
         status: {{addresses: [{{type: InternalIP, address: 192.0.2.{octet}}}]}}\n"
    )
}

fn record(name: &str, uid: &str, mode: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Node, metadata: {{name: {name}, uid: {uid}, \
         annotations: {{podwire.dev/mode: {mode}}}}}}}"
    )
}

fn name(text: &str) -> NodeName {
    text.parse().expect("a node name")
}

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

impl Fixture {
    /// The folder with these manifests, read.
    async fn with(names: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut fixture = Self::over(folder, |path| {
            for (octet, name) in (1..).zip(names) {
                fs::write(
                    path.join(format!("{name}.yaml")),
                    manifest(name, "a", octet),
                )
                .expect("write");
            }
        });
        fixture.until(Nodes::is_synchronised).await;
        fixture
    }

    /// The registry's folder is one below, so that it can be removed.
    fn over(folder: tempfile::TempDir, fill: impl FnOnce(&Path)) -> Self {
        let path = folder.path().join("nodes");
        fs::create_dir(&path).expect("folder");
        fill(&path);
        let (directory, watcher) = Directory::open(path).expect("open");
        let nodes = directory.nodes();
        Self {
            folder,
            directory,
            nodes,
            task: tokio::spawn(watcher.run()),
        }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    fn write(&self, file: &str, text: &str) {
        atomic_file::replace(&self.path(file), text.as_bytes(), 0o644).expect("write");
    }

    async fn until(&mut self, condition: impl Fn(&Nodes) -> bool) -> Arc<Nodes> {
        let met = tokio::time::timeout(DEADLINE, self.nodes.wait_for(|nodes| condition(nodes)));
        match met.await {
            Ok(nodes) => Arc::clone(&nodes.expect("the watcher runs")),
            Err(_) => panic!(
                "not met; the last snapshot: {:?}",
                self.directory.nodes().borrow()
            ),
        }
    }

    async fn until_node(&mut self, node: &str, condition: impl Fn(&Node) -> bool) -> Arc<Nodes> {
        let node = name(node);
        self.until(|nodes| nodes.nodes.get(&node).is_some_and(|node| condition(node)))
            .await
    }

    fn get(nodes: &Nodes, node: &str) -> Arc<Node> {
        Arc::clone(&nodes.nodes[&name(node)])
    }

    /// What the registry's folder holds, temporary files too.
    fn listed(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.directory.path())
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
        names
    }
}

fn mode_is(mode: &str) -> impl Fn(&Node) -> bool {
    move |node| {
        node.annotations
            .get("podwire.dev/mode")
            .is_some_and(|value| value == mode)
    }
}

#[tokio::test]
async fn a_node_added_changed_or_removed_is_seen() {
    let mut f = Fixture::with(&["n1"]).await;
    f.write("n2.yaml", &manifest("n2", "b", 2));
    f.until_node("n2", |node| node.uid == "b").await;
    f.write("n2.yaml", &manifest("n2", "c", 3));
    let nodes = f.until_node("n2", |node| node.uid == "c").await;
    assert_eq!(
        Fixture::get(&nodes, "n2").pod_cidrs[0].to_string(),
        "10.244.3.0/24"
    );
    fs::remove_file(f.path("n2.yaml")).expect("remove");
    let nodes = f
        .until(|nodes| !nodes.nodes.contains_key(&name("n2")))
        .await;
    assert!(nodes.is_synchronised() && nodes.nodes.contains_key(&name("n1")));
}

#[tokio::test]
async fn a_file_written_in_place_or_moved_or_linked_in_is_seen() {
    let mut f = Fixture::with(&["n1"]).await;
    fs::write(f.path("n2.yaml"), manifest("n2", "b", 2)).expect("write");
    f.until_node("n2", |_| true).await;
    let aside = f.folder.path().join("aside");
    fs::write(&aside, manifest("n3", "b", 3)).expect("write");
    fs::hard_link(&aside, f.path("n3.yaml")).expect("link");
    f.until_node("n3", |_| true).await;
    // Renaming one link of a file over another does nothing.
    fs::remove_file(&aside).expect("remove");
    fs::rename(f.path("n3.yaml"), &aside).expect("move out");
    f.until(|nodes| !nodes.nodes.contains_key(&name("n3")))
        .await;
    std::os::unix::fs::symlink(&aside, f.path("n3.yaml")).expect("link");
    f.until_node("n3", |_| true).await;
}

#[tokio::test]
async fn two_changes_within_one_tick_of_the_file_systems_clock_are_both_seen() {
    let mut f = Fixture::with(&["n1"]).await;
    for round in 0..20 {
        fs::write(f.path("n1.yaml"), manifest("n1", "x", 1)).expect("write");
        fs::write(f.path("n1.yaml"), manifest("n1", &format!("u{round}"), 1)).expect("write");
        f.until_node("n1", |node| node.uid == format!("u{round}"))
            .await;
    }
}

#[tokio::test]
async fn an_agents_file_counts_only_for_its_own_uid() {
    let mut f = Fixture::with(&["n1", "n2"]).await;
    f.write("n1.podwire.yaml", &record("n1", "other", "encrypted"));
    f.write("n2.podwire.yaml", &record("n2", "a", "encrypted"));
    let nodes = f.until_node("n2", mode_is("encrypted")).await;
    assert!(Fixture::get(&nodes, "n1").annotations.is_empty());
    // Created again under the uid that the file names.
    f.write("n1.yaml", &manifest("n1", "other", 1));
    f.until_node("n1", mode_is("encrypted")).await;
}

#[tokio::test]
async fn operators_requests_reach_the_node() {
    let mut f = Fixture::with(&["n1"]).await;
    let request =
        record("n1", "a", "by=alice").replace("podwire.dev/mode", "request.podwire.dev/mode");
    f.write("n1.request.yaml", &request);
    let nodes = f
        .until_node("n1", |node| !node.annotations.is_empty())
        .await;
    let annotations = &Fixture::get(&nodes, "n1").annotations;
    assert_eq!(
        *annotations,
        texts(&[("request.podwire.dev/mode", "by=alice")])
    );
}

#[tokio::test]
async fn a_garbage_file_rejects_its_node_and_no_other() {
    let mut f = Fixture::with(&["n1", "n2", "n3"]).await;
    f.write("n2.yaml", "\0garbage: [");
    let nodes = f
        .until(|nodes| nodes.rejected.contains_key(&name("n2")))
        .await;
    let names: Vec<String> = nodes.nodes.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["n1", "n3"]);
    let rejection = &nodes.rejected[&name("n2")];
    assert_eq!(rejection.part, Part::Manifest);
    assert!(
        matches!(*rejection.error, manifest::ManifestError::Syntax(_)),
        "{rejection}"
    );
    assert!(nodes.is_synchronised());
    f.write("n2.yaml", &manifest("n2", "a", 2));
    let nodes = f.until_node("n2", |_| true).await;
    assert!(nodes.rejected.is_empty());
}

#[tokio::test]
async fn a_garbage_record_leaves_a_node_without_a_record_and_a_reason() {
    let mut f = Fixture::with(&["n1", "n2"]).await;
    let operators = manifest("n1", "a", 1).replace(
        "uid: a",
        "uid: a, annotations: {podwire.dev/mode: host-network}",
    );
    f.write("n1.yaml", &operators);
    f.until_node("n1", mode_is("host-network")).await;
    f.write("n1.podwire.yaml", "garbage: [");
    let nodes = f
        .until(|nodes| nodes.rejected.contains_key(&name("n1")))
        .await;
    assert_eq!(nodes.rejected[&name("n1")].part, Part::Record);
    assert!(Fixture::get(&nodes, "n1").is_record_unread);
    // Nobody speaks in its place: that could be a downgrade.
    assert!(Fixture::get(&nodes, "n1").annotations.is_empty());
    // The agent itself mends it.
    let own = texts(&[("podwire.dev/mode", "encrypted")]);
    let published = f
        .directory
        .publish(&name("n1"), "a", &own)
        .await
        .expect("published");
    assert_eq!(published, Published::Written);
    let nodes = f.until_node("n1", mode_is("encrypted")).await;
    assert!(!Fixture::get(&nodes, "n1").is_record_unread);
}

#[tokio::test]
async fn what_is_not_a_file_of_a_node_is_ignored_or_refused_without_harm() {
    let mut f = Fixture::with(&["n1"]).await;
    fs::write(f.path(".n2.yaml.half"), "half: [").expect("write");
    fs::write(f.path(".n2.yaml"), manifest("n2", "a", 2)).expect("write");
    fs::write(f.path("README.md"), "text").expect("write");
    fs::write(f.path("n9.podwire.yaml"), record("n9", "a", "encrypted")).expect("write");
    fs::create_dir(f.path("n3.yaml")).expect("a folder");
    fs::write(f.path("Not_A_Node.yaml"), "text").expect("write");
    rustix::fs::mkfifoat(rustix::fs::CWD, f.path("n4.yaml"), 0o644.into()).expect("a pipe");
    std::os::unix::fs::symlink("nowhere", f.path("n5.yaml")).expect("a dangling link");
    fs::write(
        f.path("n6.yaml"),
        vec![b'#'; manifest::MANIFEST_SIZE_MAX + 1],
    )
    .expect("write");
    // Written last: when it is seen, so is all before it.
    f.write("n7.yaml", &manifest("n7", "a", 7));
    let nodes = f.until_node("n7", |_| true).await;
    let names: Vec<String> = nodes.nodes.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["n1", "n7"]);
    let rejected: Vec<String> = nodes.rejected.keys().map(ToString::to_string).collect();
    assert_eq!(rejected, ["n3", "n4", "n6"]);
    let misnamed: Vec<&str> = nodes.misnamed.iter().map(String::as_str).collect();
    assert_eq!(misnamed, ["Not_A_Node.yaml"]);
}

#[tokio::test]
async fn a_link_that_leads_nowhere_harms_its_node_alone() {
    let mut f = Fixture::with(&["n1", "n2"]).await;
    let link = |target: &str, file: &str| {
        std::os::unix::fs::symlink(target, f.path(file)).expect("a link");
    };
    link("n3.yaml", "n3.yaml");
    link("n1.yaml/inside", "n4.yaml");
    link(&"x".repeat(300), "n5.yaml");
    link("n2.podwire.yaml", "n2.podwire.yaml");
    f.write("n7.yaml", &manifest("n7", "a", 7));
    let nodes = f.until_node("n7", |_| true).await;
    assert!(nodes.is_synchronised());
    let names: Vec<String> = nodes.nodes.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["n1", "n2", "n7"]);
    let rejected: Vec<(&str, Part)> = nodes
        .rejected
        .iter()
        .map(|(name, rejection)| (name.as_str(), rejection.part))
        .collect();
    let manifests = ["n3", "n4", "n5"].map(|name| (name, Part::Manifest));
    assert_eq!(rejected, [&[("n2", Part::Record)], &manifests[..]].concat());
    // Another look finds the same, which is no change.
    f.write("n8.yaml", &manifest("n8", "a", 8));
    let after = f.until_node("n8", |_| true).await;
    assert_eq!(after.rejected, nodes.rejected);
}

#[tokio::test]
async fn a_folder_of_links_none_of_which_can_be_followed_is_a_lost_folder() {
    let folder = tempfile::tempdir().expect("folder");
    let behind = folder.path().join("behind");
    fs::create_dir(&behind).expect("folder");
    let mut f = Fixture::over(folder, |path| {
        for (octet, name) in (1..).zip(["n1", "n2"]) {
            let file = format!("{name}.yaml");
            fs::write(behind.join(&file), manifest(name, "a", octet)).expect("write");
            let target = Path::new("../behind").join(&file);
            std::os::unix::fs::symlink(target, path.join(&file)).expect("a link");
        }
    });
    let before = f.until(Nodes::is_synchronised).await;
    fs::rename(&behind, f.folder.path().join("away")).expect("move");
    fs::write(&behind, "a file in the folder's place").expect("write");
    // A file that is nobody's makes the folder be looked at.
    fs::write(f.path("look.txt"), "").expect("write");
    let lost = f
        .until(|nodes| matches!(nodes.state, Synchronisation::Lost(Loss::Unreadable(_))))
        .await;
    assert_eq!(lost.nodes, before.nodes);
}

#[tokio::test]
async fn a_thousand_manifests_are_read_and_one_change_is_one_changed_node() {
    let mut f = Fixture::over(tempfile::tempdir().expect("folder"), |path| {
        for i in 0..1000 {
            let name = format!("n{i}");
            fs::write(
                path.join(format!("{name}.yaml")),
                manifest(&name, "a", i % 250),
            )
            .expect("write");
            fs::write(
                path.join(format!("{name}.podwire.yaml")),
                record(&name, "a", "encrypted"),
            )
            .expect("write");
        }
    });
    let before = f.until(Nodes::is_synchronised).await;
    assert_eq!(before.nodes.len(), 1000);
    assert!(before.nodes.values().all(|node| mode_is("encrypted")(node)));
    f.write("n500.podwire.yaml", &record("n500", "a", "host-network"));
    let after = f.until_node("n500", mode_is("host-network")).await;
    let changed: Vec<&NodeName> = after
        .nodes
        .iter()
        .filter(|(name, node)| !Arc::ptr_eq(node, &before.nodes[*name]))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(changed, [&name("n500")]);
}

#[tokio::test]
async fn a_folder_that_vanishes_and_returns_loses_no_node_on_the_way() {
    let mut f = Fixture::with(&["n1", "n2", "n3"]).await;
    let before = Arc::clone(&f.nodes.borrow_and_update());
    fs::remove_dir_all(f.directory.path()).expect("remove");
    let lost = f
        .until(|nodes| nodes.state == Synchronisation::Lost(Loss::Missing))
        .await;
    assert_eq!(lost.nodes, before.nodes);

    fs::create_dir(f.directory.path()).expect("return");
    let lost = f
        .until(|nodes| nodes.state == Synchronisation::Lost(Loss::Empty))
        .await;
    assert_eq!(lost.nodes, before.nodes);

    f.write("n1.yaml", &manifest("n1", "a", 1));
    let lost = f
        .until(|nodes| nodes.state == Synchronisation::Lost(Loss::Returning))
        .await;
    assert_eq!(lost.nodes, before.nodes);
    f.write("n4.yaml", &manifest("n4", "a", 4));
    let after = f.until(Nodes::is_synchronised).await;
    let names: Vec<String> = after.nodes.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["n1", "n4"]);
    assert!(Arc::ptr_eq(
        &Fixture::get(&after, "n1"),
        &Fixture::get(&before, "n1")
    ));
    // And it is followed again.
    f.write("n5.yaml", &manifest("n5", "a", 5));
    f.until_node("n5", |_| true).await;
}

#[tokio::test]
async fn a_folder_moved_away_is_lost_and_the_one_in_its_place_is_followed() {
    let mut f = Fixture::with(&["n1", "n2"]).await;
    let next = f.folder.path().join("next");
    fs::create_dir(&next).expect("folder");
    fs::write(next.join("n3.yaml"), manifest("n3", "a", 3)).expect("write");
    fs::rename(f.directory.path(), f.folder.path().join("old")).expect("move");
    f.until(|nodes| matches!(nodes.state, Synchronisation::Lost(_)))
        .await;
    fs::rename(&next, f.directory.path()).expect("move");
    let nodes = f.until(Nodes::is_synchronised).await;
    let names: Vec<String> = nodes.nodes.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["n3"]);
    f.write("n4.yaml", &manifest("n4", "a", 4));
    f.until_node("n4", |_| true).await;
}

#[tokio::test]
async fn a_folder_that_is_not_there_yet_is_read_when_it_comes() {
    let folder = tempfile::tempdir().expect("folder");
    let mut f = Fixture::over(folder, |path| fs::remove_dir(path).expect("not there"));
    f.until(|nodes| nodes.state == Synchronisation::Lost(Loss::Missing))
        .await;
    fs::create_dir(f.directory.path()).expect("folder");
    f.write("n1.yaml", &manifest("n1", "a", 1));
    assert_eq!(f.until(Nodes::is_synchronised).await.nodes.len(), 1);
}

#[tokio::test]
async fn publishing_what_is_published_writes_nothing() {
    let mut f = Fixture::with(&["n1"]).await;
    let own = texts(&[
        ("podwire.dev/mode", "encrypted"),
        ("podwire.dev/public-key", "k"),
    ]);
    let publish = |own: BTreeMap<String, String>| {
        let directory = f.directory.clone();
        async move {
            directory
                .publish(&name("n1"), "a", &own)
                .await
                .expect("published")
        }
    };
    let stat = |f: &Fixture| {
        let stat = fs::metadata(f.path("n1.podwire.yaml")).expect("stat");
        assert_eq!(stat.permissions().mode() & 0o777, 0o644);
        (
            stat.ino(),
            stat.mtime(),
            stat.mtime_nsec(),
            stat.ctime(),
            stat.ctime_nsec(),
        )
    };
    assert_eq!(publish(own.clone()).await, Published::Written);
    let first = stat(&f);
    assert_eq!(publish(own.clone()).await, Published::Unchanged);
    assert_eq!(stat(&f), first);
    assert_eq!(
        publish(texts(&[("podwire.dev/mode", "encrypted")])).await,
        Published::Written
    );
    assert_ne!(stat(&f), first);
    let nodes = f.until_node("n1", |node| node.annotations.len() == 1).await;
    assert!(nodes.rejected.is_empty());
    assert_eq!(f.listed(), ["n1.podwire.yaml", "n1.yaml"]);
}

#[tokio::test]
async fn an_annotation_that_is_not_the_agents_is_not_published() {
    let f = Fixture::with(&["n1"]).await;
    let own = texts(&[("request.podwire.dev/mode", "host-network")]);
    let error = f
        .directory
        .publish(&name("n1"), "a", &own)
        .await
        .expect_err("refused");
    assert!(
        matches!(error, PublishError::ForeignAnnotation(_)),
        "{error}"
    );
    assert_eq!(f.listed(), ["n1.yaml"]);
}

#[tokio::test]
async fn a_reader_never_sees_half_a_record() {
    let f = Fixture::with(&["n1"]).await;
    let path = f.path("n1.podwire.yaml");
    let stop = Arc::new(AtomicBool::new(false));
    let value = |round: usize| round.to_string().repeat(20_000);
    f.directory
        .publish(&name("n1"), "a", &texts(&[("podwire.dev/x", "0")]))
        .await
        .expect("publish");
    let reader = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut reads = 0_usize;
            while !stop.load(Ordering::Relaxed) || reads == 0 {
                let text = fs::read(&path).expect("always there");
                let record = manifest::parse_annotated(&name("n1"), &text).expect("always whole");
                assert_eq!((record.uid.as_str(), record.annotations.len()), ("a", 1));
                reads += 1;
            }
        }
    });
    for round in 1..100 {
        let own = texts(&[("podwire.dev/x", &value(round % 10))]);
        assert_eq!(
            f.directory
                .publish(&name("n1"), "a", &own)
                .await
                .expect("publish"),
            Published::Written
        );
    }
    stop.store(true, Ordering::Relaxed);
    reader.join().expect("the reader saw whole records only");
}

#[tokio::test]
async fn publishing_into_a_missing_folder_is_a_typed_error_and_works_later() {
    let f = Fixture::with(&["n1"]).await;
    let own = texts(&[("podwire.dev/mode", "encrypted")]);
    let aside = f.folder.path().join("aside");
    fs::rename(f.directory.path(), &aside).expect("move away");
    let error = f
        .directory
        .publish(&name("n1"), "a", &own)
        .await
        .expect_err("no folder");
    assert!(matches!(error, PublishError::NoFolder(_)), "{error}");
    assert!(!f.directory.path().exists(), "a missing folder is not made");
    fs::rename(&aside, f.directory.path()).expect("return");
    let published = f
        .directory
        .publish(&name("n1"), "a", &own)
        .await
        .expect("published");
    assert_eq!(published, Published::Written);
}

#[tokio::test]
async fn a_storm_of_temporary_files_makes_no_snapshot() {
    let mut f = Fixture::with(&["n1"]).await;
    let before = Arc::clone(&f.nodes.borrow_and_update());
    for i in 0..1000 {
        let path = f.path(&format!(".n1.yaml.{i}"));
        fs::write(&path, "half").expect("write");
        fs::remove_file(&path).expect("remove");
    }
    f.write("n2.yaml", &manifest("n2", "a", 2));
    let after = f.until_node("n2", |_| true).await;
    assert!(Arc::ptr_eq(
        &Fixture::get(&before, "n1"),
        &Fixture::get(&after, "n1")
    ));
}

#[test]
fn a_folder_that_is_looked_at_once_tells_all_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).expect("write");
    assert_eq!(read(folder.path()), Err(Loss::Empty));
    write("n1.yaml", &manifest("n1", "a", 1));
    write("n1.podwire.yaml", &record("n1", "a", "encrypted"));
    write("n2.yaml", "no manifest");
    write("N3.yaml", "");
    let nodes = read(folder.path()).expect("nodes");
    assert!(nodes.is_synchronised());
    assert!(mode_is("encrypted")(&Fixture::get(&nodes, "n1")));
    assert_eq!(nodes.rejected[&name("n2")].part, Part::Manifest);
    assert!(nodes.misnamed.contains("N3.yaml"));
    assert_eq!(read(&folder.path().join("gone")), Err(Loss::Missing));
}

#[test]
fn a_record_that_is_withdrawn_is_gone_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |file: &str, text: &str| fs::write(folder.path().join(file), text).expect("write");
    write("n1.yaml", &manifest("n1", "a", 1));
    write("n1.podwire.yaml", &record("n1", "a", "encrypted"));
    write("n2.podwire.yaml", &record("n2", "b", "encrypted"));
    assert!(withdraw(folder.path(), &name("n1")).expect("withdrawn"));
    assert!(!withdraw(folder.path(), &name("n1")).expect("nothing to withdraw"));
    let left = fs::read_dir(folder.path()).expect("read");
    let mut left: Vec<_> = left.map(|entry| entry.expect("one").file_name()).collect();
    left.sort();
    assert_eq!(left, ["n1.yaml", "n2.podwire.yaml"]);
}
