use super::*;

const CREATED: &str = "2026-01-01T00:00:00Z";

fn text(lanes: usize) -> String {
    Keys::generate(lanes, CREATED.to_owned())
        .expect("keys")
        .to_text()
        .to_string()
}

fn damage(text: &str) -> Option<KeyFileDamage> {
    parse(text).err()
}

#[test]
fn keys_written_are_keys_read() {
    for lanes in [1, 2, 8, LANES_MAX] {
        let keys = Keys::generate(lanes, CREATED.to_owned()).expect("keys");
        let text = keys.to_text();
        assert!(
            text.len() <= SIZE_MAX && text.capacity() == SIZE_MAX,
            "the buffer never grew"
        );
        let read = parse(&text).unwrap_or_else(|damage| panic!("{damage}"));
        assert_eq!(read.public_keys(), keys.public_keys());
        assert_eq!((read.generation, read.created.as_str()), (1, CREATED));
        assert_eq!(version(&text), Ok(VERSION));
    }
}

#[test]
fn every_lane_has_a_key_of_its_own() {
    let keys = Keys::generate(8, CREATED.to_owned())
        .expect("keys")
        .public_keys();
    let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
    assert_eq!(distinct.len(), 8);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let text = text(2);
    for cut in 0..text.len() {
        let cut = &text[..cut];
        assert!(
            version(cut).is_err() || damage(cut).is_some(),
            "{} bytes",
            cut.len()
        );
    }
}

#[test]
fn a_damaged_character_never_makes_another_key() {
    let text = text(2);
    let keys = parse(&text)
        .unwrap_or_else(|damage| panic!("{damage}"))
        .public_keys();
    let lanes = text.find("lane-0").expect("a lane");
    for at in lanes..text.len() {
        for other in ['A', 'z', '7', '+', ' ', '\n', '\0'] {
            let mut damaged = text.clone();
            damaged.replace_range(at..=at, other.encode_utf8(&mut [0; 4]));
            // Curve25519 ignores some bits of a private key: then it is the same key.
            assert!(
                parse(&damaged).map_or(true, |read| read.public_keys() == keys),
                "byte {at}"
            );
        }
    }
}

#[test]
fn each_damage_has_its_own_reason() {
    use KeyFileDamage as D;
    let text = text(2);
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
        with("created=2026", "created=soon"),
        Some(D::Invalid("created"))
    );
    assert_eq!(with("lanes=2", "lanes=0"), Some(D::Invalid("lanes")));
    assert_eq!(with("lanes=2", "lanes=65"), Some(D::Invalid("lanes")));
    assert_eq!(
        with("lanes=2", "lanes=3"),
        Some(D::Truncated("the last lane"))
    );
    assert_eq!(with("lanes=2", "lanes=1"), Some(D::TrailingText));
    assert_eq!(
        with("lane-1=", "lane-7="),
        Some(D::Invalid("the line of a lane"))
    );
    assert_eq!(damage(&format!("{text}x")), Some(D::TrailingText));
    let lines: Vec<&str> = text.lines().collect();
    let (private, public) = lines[4].split_once(' ').expect("two keys");
    let (_, other) = lines[5].split_once(' ').expect("two keys");
    assert_eq!(with(public, other), Some(D::Mismatch { lane: 0 }));
    assert_eq!(
        with(private, "lane-0=none"),
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
