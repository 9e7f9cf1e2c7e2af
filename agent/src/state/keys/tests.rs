use podwire_core::key::InvalidKey;
use podwire_core::rotation::{Confirmations, Phase};

use super::form::{parse, text, version};
use super::*;

const CREATED: &str = "2026-01-01T00:00:00Z";

const CONFIRMATIONS: Confirmations = Confirmations {
    confirmed: usize::MAX,
    live: usize::MAX,
};

fn created() -> String {
    CREATED.to_owned()
}

/// Keys that have gone these steps.
fn keys(lanes: usize, steps: &[Step]) -> Keys {
    let first = super::generate(lanes, created()).expect("keys");
    let next = |keys: Keys, step: &Step| after(keys, *step, created()).expect("keys");
    steps.iter().fold(first, next)
}

/// The texts of every phase.
fn texts(lanes: usize) -> Vec<String> {
    let (prepare, promote) = (Step::Prepare, Step::Promote(CONFIRMATIONS));
    let ways: [&[Step]; 5] = [
        &[],
        &[prepare],
        &[prepare, promote],
        &[prepare, Step::Withdraw],
        &[Step::Replace],
    ];
    let all = ways.map(|steps| text(&keys(lanes, steps)).to_string());
    all.to_vec()
}

fn announced(lanes: usize) -> String {
    text(&keys(lanes, &[Step::Prepare])).to_string()
}

fn parsed(text: &str) -> Keys {
    parse(VERSION, text).unwrap_or_else(|damage| panic!("{damage}"))
}

fn all_keys(keys: &Keys) -> Vec<PublicKey> {
    keys.all().flat_map(KeySet::public_keys).collect()
}

fn damage(text: &str) -> Option<KeyFileDamage> {
    parse(VERSION, text).err()
}

#[test]
fn keys_written_are_keys_read() {
    for lanes in [1, 2, 8, LANES_MAX] {
        for steps in [&[][..], &[Step::Prepare], &[Step::Prepare, Step::Withdraw]] {
            let keys = keys(lanes, steps);
            let text = text(&keys);
            assert!(
                text.len() <= SIZE_MAX && text.capacity() == SIZE_MAX,
                "the buffer never grew"
            );
            let read = parsed(&text);
            assert_eq!(all_keys(&read), all_keys(&keys));
            assert_eq!(read.rotation, keys.rotation);
            assert_eq!(read.current.created, CREATED);
            assert_eq!(version(&text), Ok(VERSION));
        }
    }
    for text in texts(2) {
        let again = super::form::text(&parsed(&text));
        assert_eq!(*again, text);
    }
}

#[test]
fn every_lane_has_a_key_of_its_own_in_each_generation() {
    let keys = all_keys(&keys(8, &[Step::Prepare]));
    let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
    assert_eq!(distinct.len(), 16);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    for text in texts(2) {
        for cut in 0..text.len() {
            let cut = &text[..cut];
            assert!(
                version(cut).is_err() || damage(cut).is_some(),
                "{} bytes",
                cut.len()
            );
        }
    }
}

#[test]
fn a_damaged_character_never_makes_another_key() {
    let text = announced(2);
    let keys = all_keys(&parsed(&text));
    let lanes = text.find("current=").expect("keys");
    for at in lanes..text.len() {
        for other in ['A', 'z', '7', '+', ' ', '\n', '\0'] {
            let mut damaged = text.clone();
            damaged.replace_range(at..=at, other.encode_utf8(&mut [0; 4]));
            // Curve25519 ignores some bits of a private key: then it is the same key.
            assert!(
                parse(VERSION, &damaged).map_or(true, |read| all_keys(&read) == keys),
                "byte {at}"
            );
        }
    }
}

#[test]
fn a_phase_that_does_not_fit_the_keys_is_damage() {
    use KeyFileDamage as D;
    let text = announced(1);
    let with = |phase: &str| damage(&text.replace("phase=announced", phase));
    for phase in ["settled", "revoked"] {
        assert_eq!(with(&format!("phase={phase}")), Some(D::TrailingText));
    }
    let promoted = "phase=promoted confirmed=1/1";
    assert_eq!(with(promoted), Some(D::Invalid("previous")));
    assert_eq!(with("phase=withdrawn"), Some(D::Invalid("withdrawn")));
    assert_eq!(with("phase=annoanced"), Some(D::Invalid("phase")));
    let settled = texts(1).swap_remove(0);
    let announced = settled.replace("phase=settled", "phase=announced");
    assert_eq!(damage(&announced), Some(D::Truncated("next")));
    assert_eq!(parsed(&text).rotation.phase, Phase::Announced);
}

#[test]
fn each_damage_has_its_own_reason() {
    use KeyFileDamage as D;
    let text = texts(2).swap_remove(0);
    let with = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        damage(&text.replace(from, to))
    };
    assert_eq!(
        with("generation=1", "generation=0"),
        Some(D::Invalid("generation"))
    );
    assert_eq!(
        with("generation=1", "generation=x"),
        Some(D::Invalid("generation"))
    );
    assert_eq!(
        with("current=2026", "current=soon"),
        Some(D::Invalid("current"))
    );
    assert_eq!(with("lanes=2", "lanes=0"), Some(D::Invalid("lanes")));
    assert_eq!(with("lanes=2", "lanes=65"), Some(D::Invalid("lanes")));
    assert_eq!(
        with("lanes=2", "lanes=3"),
        Some(D::Truncated("the last lane"))
    );
    assert_eq!(with("lanes=2", "lanes=1"), Some(D::TrailingText));
    assert_eq!(
        with("current-1=", "current-7="),
        Some(D::Invalid("the line of a lane"))
    );
    assert_eq!(damage(&format!("{text}x")), Some(D::TrailingText));
    let lines: Vec<&str> = text.lines().collect();
    let (private, public) = lines[5].split_once(' ').expect("two keys");
    let (_, other) = lines[6].split_once(' ').expect("two keys");
    assert_eq!(with(public, other), Some(D::Mismatch { lane: 0 }));
    assert_eq!(
        with(private, "current-0=none"),
        Some(D::PrivateKey {
            lane: 0,
            source: InvalidKey::NotBase64
        })
    );
    assert_eq!(
        version("podwire-keys x\n"),
        Err(D::Invalid("the first line"))
    );
    assert_eq!(
        version("podwire-keys 0\n"),
        Err(D::Invalid("the first line"))
    );
    assert_eq!(version("-----BEGIN\n"), Err(D::Invalid("the first line")));
    assert_eq!(version("podwire-keys 2\n"), Ok(2));
}
