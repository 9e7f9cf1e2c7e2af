use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use proptest::prelude::*;

use super::*;

const KEY_1: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
const KEY_2: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";
const KEY_ZERO: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

/// A whole record, with one annotation set to something else (or removed).
fn changed(name: &str, value: Option<&str>) -> BTreeMap<String, String> {
    let mut annotations = annotations(&[
        (MODE, "encrypted"),
        (POD_CIDRS, "10.244.1.0/24,fd00:10:244:1::/64"),
        (ENDPOINTS, "192.0.2.11:51880,[2001:db8::11]:51880"),
        (PUBLIC_KEY, KEY_1),
        (LANES, &format!("51881={KEY_2}")),
        (KEY_GENERATION, "4"),
        (EPOCH, "2"),
    ]);
    match value {
        Some(value) => annotations.insert(name.to_owned(), value.to_owned()),
        None => annotations.remove(name),
    };
    annotations
}

fn refusal(name: &str, value: Option<&str>) -> RecordError {
    parse(&changed(name, value)).expect_err("the record is refused")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("cidr")
}

#[test]
fn a_record_has_what_its_annotations_say() {
    let record = parse(&changed("other", Some("")))
        .expect("valid")
        .expect("a record");
    assert_eq!(record.mode, Mode::Encrypted);
    assert_eq!(
        record.pod_cidrs,
        [net("10.244.1.0/24"), net("fd00:10:244:1::/64")]
    );
    let endpoints: Vec<String> = record.endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(endpoints, ["192.0.2.11:51880", "[2001:db8::11]:51880"]);
    let current = record.current.expect("encrypted");
    assert_eq!(current.public_key.to_string(), KEY_1);
    assert_eq!(current.lanes.len(), 1);
    assert_eq!(
        (current.lanes[0].port, current.lanes[0].key.to_string()),
        (51881, KEY_2.into())
    );
    assert_eq!((record.key_generation, record.epoch), (4, 2));
}

#[test]
fn a_plain_wireguard_peer_needs_three_annotations() {
    let plain = annotations(&[
        (MODE, "encrypted"),
        (POD_CIDRS, "10.244.1.0/24"),
        (PUBLIC_KEY, KEY_1),
    ]);
    let record = parse(&plain).expect("valid").expect("a record");
    assert!(record.endpoints.is_empty());
    assert_eq!((record.key_generation, record.epoch), (1, 0));
}

#[test]
fn annotations_that_are_not_ours_are_no_record() {
    assert_eq!(parse(&BTreeMap::new()), Ok(None));
    let others = annotations(&[
        ("podwire.dev/later-version", "x"),
        ("request.podwire.dev/rotate", "if-key-generation=4,by=alice"),
    ]);
    assert_eq!(parse(&others), Ok(None));
}

#[test]
fn ten_thousand_unknown_annotations_change_nothing() {
    let mut many = changed("other", Some(""));
    let before = parse(&many);
    many.extend((0..10_000).map(|n| (format!("podwire.dev/unknown-{n}"), "x".repeat(100))));
    assert_eq!(parse(&many), before);
}

#[test]
fn the_mode_is_never_inferred() {
    assert!(matches!(refusal(MODE, None), RecordError::Missing(MODE, _)));
    for wrong in ["", "Encrypted", "none", "encrypted "] {
        assert_eq!(
            refusal(MODE, Some(wrong)),
            RecordError::NotAMode(wrong.to_owned())
        );
    }
    // Half-written: the key alone says nothing about the mode.
    let half = annotations(&[(PUBLIC_KEY, KEY_1)]);
    assert!(matches!(parse(&half), Err(RecordError::Missing(MODE, _))));
}

#[test]
fn encrypted_without_a_key_is_refused_and_never_host_network() {
    let mut annotations = changed(LANES, None);
    annotations.remove(PUBLIC_KEY);
    assert!(matches!(
        parse(&annotations),
        Err(RecordError::Missing(PUBLIC_KEY, _))
    ));
    annotations.insert(MODE.to_owned(), "host-network".to_owned());
    let record = parse(&annotations).expect("valid").expect("a record");
    assert_eq!((record.mode, record.current), (Mode::HostNetwork, None));
}

#[test]
fn pod_cidrs_that_are_none_are_refused() {
    assert!(matches!(
        refusal(POD_CIDRS, None),
        RecordError::Missing(POD_CIDRS, _)
    ));
    for wrong in [
        "",
        "10.244.1.0",
        "10.244.1.0/33",
        "10.244.1.0/24,",
        "10.244.1.0/24, fd00::/64",
    ] {
        let item = wrong.split(',').next_back().expect("an item");
        assert_eq!(
            refusal(POD_CIDRS, Some(wrong)),
            RecordError::NotACidr(item.to_owned())
        );
    }
    let error = refusal(POD_CIDRS, Some("10.244.1.7/24"));
    assert_eq!(error, RecordError::HostBits(net("10.244.1.7/24")));
    assert!(
        error.to_string().ends_with("write 10.244.1.0/24"),
        "{error}"
    );
    assert_eq!(
        refusal(POD_CIDRS, Some("10.244.1.0/24,10.244.0.0/16")),
        RecordError::PodCidrsOverlap(net("10.244.1.0/24"), net("10.244.0.0/16"))
    );
    let many: Vec<String> = (0..17).map(|n| format!("10.244.{n}.0/24")).collect();
    assert_eq!(
        refusal(POD_CIDRS, Some(&many.join(","))),
        RecordError::TooMany {
            annotation: POD_CIDRS,
            count: 17,
            allowed: POD_CIDRS_MAX
        }
    );
}

#[test]
fn endpoints_that_are_none_are_refused() {
    for wrong in [
        "",
        "192.0.2.11",
        "192.0.2.11:0",
        "node-1:51880",
        "[fe80::1%2]:51880",
        "::1:5",
    ] {
        assert_eq!(
            refusal(ENDPOINTS, Some(wrong)),
            RecordError::NotAnEndpoint(wrong.to_owned()),
            "{wrong}"
        );
    }
    assert!(matches!(
        refusal(ENDPOINTS, Some("192.0.2.11:51880,192.0.2.12:51880")),
        RecordError::EndpointFamilyTwice(..)
    ));
    assert!(matches!(
        refusal(ENDPOINTS, Some("192.0.2.11:51880,[2001:db8::11]:51890")),
        RecordError::EndpointPortsDiffer(..)
    ));
}

#[test]
fn keys_that_are_none_are_refused_and_not_repeated() {
    let error = refusal(PUBLIC_KEY, Some(KEY_ZERO));
    assert_eq!(
        error,
        RecordError::NotAKey {
            annotation: PUBLIC_KEY,
            source: InvalidKey::Zero
        }
    );
    let pasted = "PRIVATEPRIVATE";
    for (name, value) in [
        (PUBLIC_KEY, pasted.to_owned()),
        (LANES, format!("51881={pasted}")),
    ] {
        let error = refusal(name, Some(&value));
        assert!(matches!(error, RecordError::NotAKey { annotation, .. } if annotation == name));
        assert!(!format!("{error} {error:?}").contains(pasted));
    }
    assert_eq!(
        refusal(LANES, Some(pasted)),
        RecordError::NotALane {
            annotation: LANES,
            item: 1
        }
    );
}

#[test]
fn lanes_that_are_none_or_not_each_its_own_are_refused() {
    for wrong in [
        "",
        "51881",
        "0=KEY",
        "65536=KEY",
        "+51881=KEY",
        "51881=KEY,",
    ] {
        let value = wrong.replace("KEY", KEY_2);
        assert!(
            matches!(refusal(LANES, Some(&value)), RecordError::NotALane { .. }),
            "{wrong}"
        );
    }
    let key_3 = PublicKey::from_bytes([3; 32]).expect("not zero");
    for port in [51880, 51881] {
        let value = format!("51881={KEY_2},{port}={key_3}");
        let expected = RecordError::PortTwice {
            annotation: LANES,
            port,
        };
        assert_eq!(refusal(LANES, Some(&value)), expected);
    }
    let key_1: PublicKey = KEY_1.parse().expect("key");
    let value = format!("51881={KEY_1}");
    assert_eq!(refusal(LANES, Some(&value)), RecordError::KeyTwice(key_1));
    // Lane 1's next key is lane 0's current one.
    let mut annotations = changed(NEXT_PUBLIC_KEY, Some(&key_3.to_string()));
    annotations.insert(NEXT_LANES.to_owned(), format!("51881={KEY_1}"));
    assert_eq!(parse(&annotations), Err(RecordError::KeyTwice(key_1)));
    let eight: Vec<String> = (1..=8).map(|n| format!("{}={KEY_2}", 51880 + n)).collect();
    assert_eq!(
        refusal(LANES, Some(&eight.join(","))),
        RecordError::TooMany {
            annotation: LANES,
            count: 8,
            allowed: LANES_MAX - 1
        }
    );
    assert_eq!(
        refusal(NEXT_LANES, Some("x")),
        RecordError::LanesWithoutKey {
            lanes: NEXT_LANES,
            public_key: NEXT_PUBLIC_KEY
        }
    );
}

#[test]
fn numbers_that_are_none_are_refused() {
    for name in [KEY_GENERATION, EPOCH] {
        for wrong in ["", "-1", "+1", "1.0", "18446744073709551616", "four"] {
            let value = wrong.to_owned();
            assert_eq!(
                refusal(name, Some(wrong)),
                RecordError::NotANumber {
                    annotation: name,
                    value
                }
            );
        }
    }
}

#[test]
fn a_value_of_a_mebibyte_is_refused_before_it_is_read() {
    let long = "1".repeat(1 << 20);
    for name in KNOWN {
        let expected = RecordError::TooLong {
            annotation: name,
            length: 1 << 20,
        };
        let error = refusal(name, Some(&long));
        assert_eq!(error, expected);
        assert!(error.to_string().len() < 200);
    }
}

#[test]
fn text_for_people_cannot_steer_a_terminal() {
    assert!(matches!(
        refusal(ROTATION_PHASE, Some("announced\u{1b}[2J")),
        RecordError::NotPrintable {
            annotation: ROTATION_PHASE,
            ..
        }
    ));
    let error = refusal(MODE, Some("\u{1b}[2J\nERROR"));
    assert!(!error.to_string().contains(['\u{1b}', '\n']), "{error}");
}

fn pod_cidr() -> impl Strategy<Value = IpNet> {
    let ipv4 = (any::<u32>(), 1_u8..=32)
        .prop_map(|(b, l)| IpNet::V4(Ipv4Net::new(Ipv4Addr::from(b), l).expect("length").trunc()));
    let ipv6 = (any::<u128>(), 1_u8..=128)
        .prop_map(|(b, l)| IpNet::V6(Ipv6Net::new(Ipv6Addr::from(b), l).expect("length").trunc()));
    prop_oneof![ipv4, ipv6]
}

fn disjoint(cidrs: Vec<IpNet>) -> Vec<IpNet> {
    let mut kept: Vec<IpNet> = Vec::new();
    for cidr in cidrs {
        if !kept.iter().any(|other| overlap(other, &cidr)) {
            kept.push(cidr);
        }
    }
    kept
}

fn endpoints_of_both_families() -> impl Strategy<Value = Vec<SocketAddr>> {
    (
        any::<Option<u32>>(),
        any::<Option<u128>>(),
        1_u16..1000,
        any::<bool>(),
    )
        .prop_map(|(ipv4, ipv6, port, swap)| {
            let ipv4 = ipv4.map(|b| SocketAddr::new(Ipv4Addr::from(b).into(), port));
            let ipv6 = ipv6.map(|b| SocketAddr::new(Ipv6Addr::from(b).into(), port));
            let ordered = if swap { [ipv6, ipv4] } else { [ipv4, ipv6] };
            ordered.into_iter().flatten().collect()
        })
}

/// Keys of one generation; the tag keeps generations and lanes apart.
fn lane_keys_tagged(tag: u8) -> impl Strategy<Value = LaneKeys> {
    (
        any::<[u8; 16]>(),
        proptest::collection::btree_set(1000_u16.., 0..LANES_MAX),
    )
        .prop_map(move |(random, ports)| {
            let key = |lane: u8| {
                let mut bytes = [tag; 32];
                bytes[..16].copy_from_slice(&random);
                bytes[16] = lane;
                PublicKey::from_bytes(bytes).expect("the tag is not zero")
            };
            let lanes = (1..).zip(ports).map(|(lane, port)| Lane {
                port,
                key: key(lane),
            });
            LaneKeys {
                public_key: key(0),
                lanes: lanes.collect(),
            }
        })
}

fn record() -> impl Strategy<Value = Record> {
    let keys = (
        proptest::option::of(lane_keys_tagged(1)),
        proptest::option::of(lane_keys_tagged(2)),
        proptest::option::of(lane_keys_tagged(3)),
    );
    let cidrs = proptest::collection::vec(pod_cidr(), 1..=POD_CIDRS_MAX).prop_map(disjoint);
    let text = || proptest::option::of("[ -~]{0,80}");
    (
        any::<bool>(),
        cidrs,
        endpoints_of_both_families(),
        keys,
        any::<(u64, u64)>(),
        (text(), text()),
    )
        .prop_map(
            |(encrypted, pod_cidrs, endpoints, keys, numbers, texts)| Record {
                mode: if encrypted && keys.0.is_some() {
                    Mode::Encrypted
                } else {
                    Mode::HostNetwork
                },
                pod_cidrs,
                endpoints,
                current: keys.0,
                next: keys.1,
                previous: keys.2,
                key_generation: numbers.0,
                key_created: texts.0,
                rotation_phase: texts.1,
                epoch: numbers.1,
            },
        )
}

/// What a stranger may write: pieces of valid values, cut, joined and mixed with anything.
fn garbage() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<String>(),
        "[0-9a-fA-F:./,=\\[\\]%+ -]{0,60}",
        Just(KEY_1.to_owned()),
        Just("encrypted".to_owned()),
        Just("10.244.1.0/24".to_owned()),
        Just("[2001:db8::11]:51880".to_owned()),
        Just("51881=".to_owned()),
        Just(",".to_owned()),
    ];
    proptest::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn a_record_written_is_a_record_read(record in record()) {
        let annotations = record.to_annotations();
        prop_assert!(annotations.values().all(|value| value.len() <= VALUE_LENGTH_MAX));
        prop_assert_eq!(parse(&annotations), Ok(Some(record)));
    }

    #[test]
    fn no_text_makes_the_parser_panic_and_what_it_takes_it_writes(
        garbage in proptest::collection::vec((0..KNOWN.len(), garbage()), 0..6),
        whole in any::<bool>(),
    ) {
        let mut annotations = if whole { changed("other", Some("")) } else { BTreeMap::new() };
        annotations.extend(garbage.into_iter().map(|(n, value)| (KNOWN[n].to_owned(), value)));
        if let Ok(Some(record)) = parse(&annotations) {
            prop_assert_eq!(parse(&record.to_annotations()), Ok(Some(record)));
        }
    }
}
