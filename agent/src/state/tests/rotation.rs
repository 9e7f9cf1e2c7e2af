use podwire_core::rotation::{Confirmations, Phase, Rotation, Told};

use super::*;

const CONFIRMATIONS: Confirmations = Confirmations {
    confirmed: 2,
    live: 3,
};

/// Every way through the phases.
const WAYS: [&[Step]; 4] = [
    &[Step::Prepare, Step::Promote(CONFIRMATIONS), Step::Retire],
    &[Step::Prepare, Step::Withdraw, Step::Forget],
    &[Step::Prepare, Step::Replace],
    &[Step::Prepare, Step::Promote(CONFIRMATIONS), Step::Replace],
];

fn publics(keys: &[PrivateKey]) -> Vec<PublicKey> {
    keys.iter().map(PrivateKey::public_key).collect()
}

/// Base, newer and fading keys of the data plane.
fn own(state: &mut State) -> [Vec<PublicKey>; 3] {
    let own = state.own_keys().expect("keys");
    let list = |keys: Option<Vec<PrivateKey>>| publics(&keys.unwrap_or_default());
    [publics(&own.base), list(own.newer), list(own.fading)]
}

fn make(state: &mut State, step: Step) {
    let expected = state.rotation().after(step);
    state.rotate(step, at(2000)).expect("on disk");
    assert_eq!(state.rotation(), expected);
}

#[test]
fn a_rotation_hands_each_key_to_record_and_data_plane_as_the_phase_says() {
    let (folder, old) = used();
    let none = Vec::new();
    let mut state = open(folder.path());
    make(&mut state, Step::Prepare);
    let next = state.told_keys().next.expect("announced");
    assert_eq!(next.len(), LANES);
    assert_eq!(state.told_keys().current, old);
    assert_eq!(state.key_created(), "1970-01-01T00:16:40Z");
    assert_eq!(own(&mut state), [old.clone(), next.clone(), none.clone()]);
    make(&mut state, Step::Promote(CONFIRMATIONS));
    assert_eq!(state.key_created(), "1970-01-01T00:33:20Z");
    let told = state.told_keys();
    assert_eq!((&told.current, &told.previous), (&next, &Some(old.clone())));
    assert_eq!(own(&mut state), [old, next.clone(), none.clone()]);
    assert_eq!(state.public_keys().len(), 2 * LANES);
    make(&mut state, Step::Retire);
    assert_eq!(own(&mut state), [next.clone(), none.clone(), none]);
    assert_eq!(state.public_keys(), next);
    assert_eq!(state.key_generation(), 2);
}

#[test]
fn withdrawn_keys_still_receive_and_are_not_told() {
    let (folder, old) = used();
    let mut state = open(folder.path());
    make(&mut state, Step::Prepare);
    let next = state.told_keys().next.expect("announced");
    make(&mut state, Step::Withdraw);
    let told = Told {
        current: old.clone(),
        next: None,
        previous: None,
    };
    assert_eq!(state.told_keys(), told);
    assert_eq!(own(&mut state), [old.clone(), Vec::new(), next]);
    make(&mut state, Step::Forget);
    assert_eq!(own(&mut state), [old.clone(), Vec::new(), Vec::new()]);
    assert_eq!((state.public_keys(), state.key_generation()), (old, 1));
}

#[test]
fn a_revocation_leaves_no_key_of_before_anywhere() {
    for way in [&WAYS[2], &WAYS[3]] {
        let (folder, _) = used();
        let mut state = open(folder.path());
        let mut known = state.public_keys();
        for step in *way {
            make(&mut state, *step);
            if *step != Step::Replace {
                known.extend(state.public_keys());
            }
        }
        let now = state.public_keys();
        assert_eq!(now.len(), LANES);
        assert!(now.iter().all(|key| !known.contains(key)));
        let file = fs::read_to_string(folder.path().join("keys")).expect("text");
        assert!(known.iter().all(|key| !file.contains(&key.to_string())));
    }
}

#[test]
fn a_process_that_is_killed_between_two_steps_goes_on_where_it_was() {
    for way in WAYS {
        let (folder, _) = used();
        let mut state = open(folder.path());
        for step in way {
            make(&mut state, *step);
            let before = (state.rotation(), state.told_keys(), own(&mut state));
            drop(state);
            state = open(folder.path());
            let after = (state.rotation(), state.told_keys(), own(&mut state));
            assert_eq!(after, before);
        }
    }
}

#[test]
fn a_process_that_is_killed_while_it_writes_is_before_the_step_or_after_it() {
    let (folder, old) = used();
    // What stands in the folder between the write and the rename.
    fs::write(folder.path().join(".keys.Ab3xYz"), "podwire-keys 2\n").expect("written");
    let state = open(folder.path());
    assert_eq!(
        (state.rotation(), state.public_keys()),
        (Rotation::FIRST, old)
    );
    assert!(!folder.path().join(".keys.Ab3xYz").exists());
}

#[test]
fn a_step_that_the_disk_refuses_changes_nothing_and_is_made_later() {
    let (folder, old) = used();
    let mut state = open(folder.path());
    // No file can be renamed over a folder, whoever asks.
    let (keys, aside) = (folder.path().join("keys"), folder.path().join("aside"));
    let written = fs::read(&keys).expect("keys");
    fs::rename(&keys, &aside).expect("moved");
    state.rotate(Step::Prepare, at(2000)).expect_err("no keys");
    assert_eq!(state.rotation(), Rotation::FIRST);
    fs::rename(&aside, &keys).expect("moved back");
    assert_eq!(fs::read(&keys).expect("keys"), written);
    make(&mut state, Step::Prepare);
    assert_eq!(state.told_keys().current, old);
}

/// The disk may say that it is not sure of a write which it keeps.
#[test]
fn a_write_that_was_told_to_have_failed_and_is_there_counts() {
    let (folder, _) = used();
    let mut state = open(folder.path());
    let before = state.keys.clone();
    make(&mut state, Step::Prepare);
    let next = state.told_keys().next.expect("announced");
    state.attempted = Some(std::mem::replace(&mut state.keys, before));
    state.rotate(Step::Prepare, at(3000)).expect("it is there");
    assert_eq!(state.rotation().phase, Phase::Announced);
    assert_eq!(state.told_keys().next, Some(next), "no other keys");
}

#[test]
fn a_lane_that_is_added_during_a_rotation_has_a_key_in_each_set() {
    let (folder, old) = used();
    let mut state = open(folder.path());
    make(&mut state, Step::Prepare);
    let next = state.told_keys().next.expect("announced");
    drop(state);
    let mut state = State::open(folder.path(), 4, at(1000)).expect("open");
    let told = state.told_keys();
    let longer = told.next.expect("announced");
    assert_eq!((told.current.len(), longer.len()), (4, 4));
    assert_eq!((&told.current[..2], &longer[..2]), (&old[..], &next[..]));
    make(&mut state, Step::Promote(CONFIRMATIONS));
    assert_eq!(own(&mut state).map(|keys| keys.len()), [4, 4, 0]);
    assert_eq!(state.told_keys().current, longer);
}

#[test]
fn a_key_file_of_the_first_version_is_read_and_then_written_as_the_present_one() {
    let (folder, old) = used();
    let path = folder.path().join("keys");
    let first = fs::read_to_string(&path).expect("text");
    let first = first
        .replace("podwire-keys 2", "podwire-keys 1")
        .replace("phase=settled\nlanes=2\ncurrent=", "created=")
        .replace("Z\ncurrent-0", "Z\nlanes=2\ncurrent-0")
        .replace("current-", "lane-");
    assert!(first.starts_with("podwire-keys 1\ngeneration=1\ncreated=19"));
    fs::write(&path, &first).expect("written");
    let mut state = open(folder.path());
    assert_eq!(
        (state.rotation(), state.public_keys()),
        (Rotation::FIRST, old.clone())
    );
    assert_eq!(fs::read_to_string(&path).expect("text"), first);
    make(&mut state, Step::Prepare);
    let second = fs::read_to_string(&path).expect("text");
    assert!(second.starts_with("podwire-keys 2\ngeneration=1\nphase=announced\n"));
    assert_eq!(open_again(state, folder.path()).told_keys().current, old);
}

fn open_again(state: State, path: &Path) -> State {
    drop(state);
    open(path)
}

#[test]
fn a_generation_that_is_continued_keeps_the_phase() {
    let (folder, _) = used();
    let mut state = open(folder.path());
    make(&mut state, Step::Prepare);
    let told = state.told_keys();
    state.continue_key_generation(7).expect("kept");
    let mut state = open_again(state, folder.path());
    let expected = Rotation {
        key_generation: 8,
        phase: Phase::Announced,
    };
    assert_eq!((state.rotation(), state.told_keys()), (expected, told));
    make(&mut state, Step::Promote(CONFIRMATIONS));
    assert_eq!(state.key_generation(), 9);
}
