use super::super::folder::{ReadFile, Stamp};
use super::*;

/// A folder as text: `n1` is a manifest, `n1!` a broken one.
fn listing(names: &[&str], base: &Files) -> Listing {
    let mut files = Files::new();
    for name in names {
        let stem = name.trim_end_matches('!');
        let key = |part| FileKey {
            node: stem.parse().expect("a node name"),
            part,
        };
        let mut insert = |part, content: Result<Document, ManifestError>| {
            let read = ReadFile {
                stamp: Stamp::default(),
                content: content.map(Arc::new).map_err(Arc::new),
            };
            let known = base.get(&key(part));
            let unchanged = known.filter(|known| known.content.is_ok() == read.content.is_ok());
            files.insert(key(part), unchanged.cloned().unwrap_or(read));
        };
        if name.ends_with('!') {
            insert(Part::Manifest, Err(ManifestError::NotAFile));
            continue;
        }
        let name: NodeName = stem.parse().expect("a node name");
        insert(
            Part::Manifest,
            Ok(Document::Manifest(Node {
                name,
                uid: "a".to_owned(),
                created: 0,
                pod_cidrs: Vec::new(),
                addresses: Vec::new(),
                annotations: BTreeMap::new(),
                is_record_unread: false,
            })),
        );
    }
    Listing {
        files,
        misnamed: BTreeSet::new(),
    }
}

struct Folder {
    contents: Contents,
    now: Instant,
}

impl Folder {
    /// Before the first look.
    fn starting() -> Self {
        Self {
            contents: Contents::default(),
            now: Instant::now(),
        }
    }

    /// The folder with these manifests, in force.
    fn with(names: &[&str]) -> Self {
        let mut folder = Self::starting();
        folder.look(1, names);
        assert_eq!(folder.after(RETURN_SETTLE).look(1, names), None);
        folder
    }

    fn look(&mut self, generation: Generation, names: &[&str]) -> Option<Duration> {
        let listing = listing(names, self.contents.known());
        self.contents.listed(generation, listing, self.now)
    }

    fn after(&mut self, time: Duration) -> &mut Self {
        self.now += time;
        self
    }

    fn names(&self) -> Vec<&str> {
        self.contents
            .nodes()
            .nodes
            .keys()
            .map(NodeName::as_str)
            .collect()
    }

    fn state(&self) -> &Synchronisation {
        &self.contents.nodes().state
    }
}

const TICK: Duration = Duration::from_millis(100);

#[test]
fn what_is_there_counts_at_once() {
    let mut folder = Folder::with(&["n1"]);
    assert_eq!(*folder.state(), Synchronisation::Synchronised);
    assert_eq!(folder.look(1, &["n1", "n2"]), None);
    assert_eq!(folder.names(), ["n1", "n2"]);
}

#[test]
fn what_is_missing_counts_once_it_stays_missing() {
    let mut folder = Folder::with(&["n1", "n2"]);
    assert_eq!(folder.look(1, &["n1"]), Some(DOUBT_SETTLE));
    assert_eq!(folder.names(), ["n1", "n2"]);
    assert_eq!(
        folder.after(TICK).look(1, &["n1", "n3"]),
        Some(DOUBT_SETTLE - TICK)
    );
    assert_eq!(
        folder.names(),
        ["n1", "n2", "n3"],
        "what is new does not wait for what is missing"
    );
    assert_eq!(
        folder.after(DOUBT_SETTLE - TICK).look(1, &["n1", "n3"]),
        None
    );
    assert_eq!(folder.names(), ["n1", "n3"]);
}

#[test]
fn a_file_that_comes_back_in_time_never_was_away() {
    let mut folder = Folder::with(&["n1", "n2"]);
    let before = Arc::clone(folder.contents.nodes());
    folder.look(1, &["n1"]);
    assert_eq!(folder.after(TICK).look(1, &["n1", "n2"]), None);
    assert!(Arc::ptr_eq(&before, folder.contents.nodes()));
}

#[test]
fn a_folder_that_is_being_emptied_loses_no_node() {
    let all = ["n1", "n2", "n3", "n4", "n5"];
    let mut folder = Folder::with(&all);
    for left in (1..all.len()).rev() {
        // Slowly, but each file within the time that a doubt takes to settle.
        let wait = folder.after(DOUBT_SETTLE - TICK).look(1, &all[..left]);
        assert_eq!(wait, Some(DOUBT_SETTLE));
        assert_eq!(folder.names(), all);
    }
    folder.look(1, &[]);
    assert_eq!(*folder.state(), Synchronisation::Lost(Loss::Empty));
    assert_eq!(folder.names(), all);
}

#[test]
fn a_file_that_comes_and_goes_holds_back_no_other_that_is_missing() {
    for away in [&["n1", "n3!"][..], &["n1"]] {
        let mut folder = Folder::with(&["n1", "n2", "n3"]);
        let mut waited = Duration::ZERO;
        while folder.names().contains(&"n2") {
            let is_away = (waited.as_millis() / TICK.as_millis()) % 2 == 1;
            folder.look(1, if is_away { away } else { &["n1", "n3"] });
            assert!(folder.names().contains(&"n3"), "never away for long");
            assert!(waited <= 2 * DOUBT_SETTLE, "n2 is in force with {away:?}");
            folder.after(TICK);
            waited += TICK;
        }
        assert!(waited >= DOUBT_SETTLE);
        // It still waits its own time when it goes for good.
        folder.look(1, &["n1", "n3"]);
        assert_eq!(folder.look(1, &["n1"]), Some(DOUBT_SETTLE));
        assert_eq!(folder.names(), ["n1", "n3"]);
        assert_eq!(folder.after(DOUBT_SETTLE).look(1, &["n1"]), None);
        assert_eq!(folder.names(), ["n1"]);
    }
}

#[test]
fn many_files_that_come_and_go_hold_back_a_missing_one_once_each() {
    let all = ["n1", "n2", "n3", "n4", "n5"];
    let mut folder = Folder::with(&all);
    let mut looks = 0;
    while folder.names().contains(&"n5") {
        // Each is away for one look in four, and never two at once.
        let away = all[looks % 4];
        let there: Vec<&str> = all[..4].iter().copied().filter(|it| *it != away).collect();
        folder.look(1, &there);
        assert!(all[..4].iter().all(|it| folder.names().contains(it)));
        folder.after(DOUBT_SETTLE - TICK);
        looks += 1;
        assert!(looks <= 8, "n5 is in force");
    }
}

#[test]
fn a_manifest_that_became_garbage_is_rejected_alone_once_it_stays_so() {
    let mut folder = Folder::with(&["n1", "n2"]);
    assert_eq!(folder.look(1, &["n1!", "n2"]), Some(DOUBT_SETTLE));
    assert_eq!(
        folder.names(),
        ["n1", "n2"],
        "it may be an editor in the middle of writing"
    );
    assert_eq!(folder.after(DOUBT_SETTLE).look(1, &["n1!", "n2"]), None);
    assert_eq!(folder.names(), ["n2"]);
    let rejected: Vec<&str> = folder
        .contents
        .nodes()
        .rejected
        .keys()
        .map(NodeName::as_str)
        .collect();
    assert_eq!(rejected, ["n1"]);
    assert_eq!(folder.look(1, &["n1", "n2"]), None);
    assert_eq!(folder.names(), ["n1", "n2"]);
    assert!(folder.contents.nodes().rejected.is_empty());
}

#[test]
fn a_garbage_manifest_that_never_was_good_is_rejected_at_once() {
    let folder = Folder::with(&["n1!", "n2"]);
    assert_eq!(folder.names(), ["n2"]);
    assert_eq!(folder.contents.nodes().rejected.len(), 1);
}

#[test]
fn losing_the_folder_changes_the_state_and_nothing_else() {
    let mut folder = Folder::with(&["n1", "n2"]);
    let before = Arc::clone(folder.contents.nodes());
    folder.contents.lost(Loss::Missing);
    assert_eq!(*folder.state(), Synchronisation::Lost(Loss::Missing));
    assert_eq!(folder.contents.nodes().nodes, before.nodes);
    let lost = Arc::clone(folder.contents.nodes());
    folder.contents.lost(Loss::Missing);
    assert!(
        Arc::ptr_eq(&lost, folder.contents.nodes()),
        "no snapshot without a change"
    );
}

#[test]
fn a_folder_that_came_back_counts_as_a_whole_once_its_manifests_stay_the_same() {
    let mut folder = Folder::with(&["n1", "n2", "n3"]);
    let before = Arc::clone(&folder.contents.nodes().nodes[&"n1".parse().expect("name")]);
    folder.contents.lost(Loss::Missing);
    assert_eq!(folder.look(2, &[]), None);
    assert_eq!(*folder.state(), Synchronisation::Lost(Loss::Empty));
    assert_eq!(folder.after(TICK).look(2, &["n1"]), Some(RETURN_SETTLE));
    assert_eq!(
        folder.after(TICK).look(2, &["n1", "n4"]),
        Some(RETURN_SETTLE)
    );
    assert_eq!(
        folder.names(),
        ["n1", "n2", "n3"],
        "half of a folder counts for nothing"
    );
    assert_eq!(*folder.state(), Synchronisation::Lost(Loss::Returning));
    let wait = folder.after(TICK).look(2, &["n1", "n4"]);
    assert_eq!(wait, Some(RETURN_SETTLE - TICK));
    assert_eq!(folder.after(RETURN_SETTLE).look(2, &["n1", "n4"]), None);
    assert_eq!(folder.names(), ["n1", "n4"]);
    assert_eq!(*folder.state(), Synchronisation::Synchronised);
    let after = &folder.contents.nodes().nodes[&"n1".parse().expect("name")];
    assert!(
        Arc::ptr_eq(&before, after),
        "an unchanged Node is the same one"
    );
}

#[test]
fn another_folder_in_the_same_place_is_a_folder_that_came_back() {
    let mut folder = Folder::with(&["n1", "n2"]);
    assert_eq!(folder.look(2, &["n1"]), Some(RETURN_SETTLE));
    assert_eq!(folder.names(), ["n1", "n2"]);
    // Yet another one, with the same names: the time begins anew.
    folder.after(RETURN_SETTLE);
    assert_eq!(folder.look(3, &["n1"]), Some(RETURN_SETTLE));
    assert_eq!(folder.after(RETURN_SETTLE).look(3, &["n1"]), None);
    assert_eq!(folder.names(), ["n1"]);
}

#[test]
fn a_folder_that_is_half_filled_at_the_start_is_no_mesh_yet() {
    let all = ["n1", "n2", "n3", "n4"];
    let mut folder = Folder::starting();
    let before = Arc::clone(folder.contents.nodes());
    assert_eq!(folder.look(1, &all[..2]), Some(RETURN_SETTLE));
    let wait = folder.after(RETURN_SETTLE - TICK).look(1, &all[..3]);
    assert_eq!(wait, Some(RETURN_SETTLE));
    let wait = folder.after(RETURN_SETTLE - TICK).look(1, &all);
    assert_eq!(wait, Some(RETURN_SETTLE));
    assert_eq!(
        folder.after(TICK).look(1, &all),
        Some(RETURN_SETTLE - TICK),
        "a look that finds the same manifests does not begin the time anew"
    );
    assert_eq!(*folder.state(), Synchronisation::Starting);
    assert!(
        Arc::ptr_eq(&before, folder.contents.nodes()),
        "nothing is told before the whole is"
    );
    assert_eq!(folder.after(RETURN_SETTLE - TICK).look(1, &all), None);
    assert_eq!(*folder.state(), Synchronisation::Synchronised);
    assert_eq!(folder.names(), all);
}

#[test]
fn a_folder_that_vanishes_or_is_replaced_at_the_start_begins_the_time_anew() {
    let mut folder = Folder::starting();
    folder.look(1, &["n1"]);
    assert_eq!(
        folder.after(RETURN_SETTLE).look(2, &["n1"]),
        Some(RETURN_SETTLE)
    );
    assert_eq!(*folder.state(), Synchronisation::Starting);
    folder.contents.lost(Loss::Missing);
    assert_eq!(
        folder.after(RETURN_SETTLE).look(3, &["n1"]),
        Some(RETURN_SETTLE)
    );
    assert_eq!(*folder.state(), Synchronisation::Lost(Loss::Returning));
    assert!(folder.names().is_empty());
    assert_eq!(folder.after(RETURN_SETTLE).look(3, &["n1"]), None);
    assert_eq!(folder.names(), ["n1"]);
}

#[test]
fn a_folder_that_is_empty_at_the_start_is_no_mesh() {
    let mut folder = Folder::starting();
    assert_eq!(folder.look(1, &[]), None);
    assert_eq!(*folder.state(), Synchronisation::Lost(Loss::Empty));
    assert_eq!(folder.look(1, &["n1"]), Some(RETURN_SETTLE));
    assert_eq!(folder.after(RETURN_SETTLE).look(1, &["n1"]), None);
    assert_eq!(folder.names(), ["n1"]);
}

#[test]
fn a_look_without_a_change_makes_no_snapshot() {
    let mut folder = Folder::with(&["n1!", "n2"]);
    let before = Arc::clone(folder.contents.nodes());
    assert_eq!(folder.after(TICK).look(1, &["n1!", "n2"]), None);
    assert!(Arc::ptr_eq(&before, folder.contents.nodes()));
}
