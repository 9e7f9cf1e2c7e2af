//! What a node may say about itself and be refused for, one by one.

use crate::attack::{Attack, Record};

/// What a node does, the reason for which it is refused, and what the sentence says.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) edit: fn(&mut Attack),
    pub(crate) reason: &'static str,
    pub(crate) says: &'static str,
}

const fn case(
    name: &'static str,
    edit: fn(&mut Attack),
    reason: &'static str,
    says: &'static str,
) -> Case {
    Case {
        name,
        edit,
        reason,
        says,
    }
}

/// The all-zero key.
const ZERO: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// The point of order 4 with the coordinate one.
const LOW_ORDER: &str = "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// A key's text with the high bit of its last byte set: X25519 computes the same with it. The last
/// character before the padding holds that byte's four low bits, the one before its four high ones.
fn with_high_bit(key: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = key.as_bytes().to_vec();
    let value = ALPHABET.iter().position(|letter| *letter == bytes[41]);
    // Six bits: the two low ones of byte 30, then the four high ones of byte 31.
    bytes[41] = ALPHABET[value.unwrap_or_default() | 0b00_1000];
    String::from_utf8_lossy(&bytes).into_owned()
}

fn key_of_lane_1(lanes: &str) -> &str {
    lanes.split_once('=').map_or("", |(_, key)| key)
}

/// Claims to pods' addresses.
pub(crate) const POD_CIDRS: &[Case] = &[
    case(
        "an IPv4 default route",
        |a| a.be_given(&["0.0.0.0/0"]),
        "default-route",
        "0.0.0.0/0",
    ),
    case(
        "an IPv6 default route beside its own",
        |a| a.set("pod-cidrs", "10.244.3.0/24,::/0"),
        "default-route",
        "::/0",
    ),
    case(
        "another node's pods",
        |a| a.be_given(&["10.244.2.0/24", "fd00:10:244:2::/64"]),
        "pod-cidrs-taken",
        "10.244.2.0/24",
    ),
    case(
        "a part of another node's pods",
        |a| a.be_given(&["10.244.2.128/25"]),
        "pod-cidrs-taken",
        "10.244.2.128/25",
    ),
    case(
        "more than another node's pods",
        |a| a.be_given(&["10.244.2.0/23"]),
        "pod-cidrs-taken",
        "10.244.2.0/23",
    ),
    case(
        "the observer's own pods",
        |a| a.be_given(&["fd00:10:244:1::/64"]),
        "pod-cidrs-taken",
        "node-1",
    ),
    case(
        "pods that the cluster gave to nobody",
        |a| a.set("pod-cidrs", "10.244.77.0/24"),
        "not-its-pod-cidrs",
        "10.244.77.0/24",
    ),
    case(
        "another node's pods against the cluster's word",
        |a| a.set("pod-cidrs", "10.244.2.0/24,fd00:10:244:2::/64"),
        "not-its-pod-cidrs",
        "10.244.2.0/24",
    ),
    case(
        "one family of the two that it was given",
        |a| a.set("pod-cidrs", "10.244.3.0/24"),
        "not-its-pod-cidrs",
        "claims 10.244.3.0/24 but",
    ),
    case(
        "a network with nodes in it",
        |a| a.be_given(&["192.0.2.0/24"]),
        "contains-node-address",
        "192.0.2.13",
    ),
    case(
        "addresses outside the cluster",
        |a| a.be_given(&["10.250.0.0/24"]),
        "outside-cluster-cidrs",
        "10.250.0.0/24",
    ),
    case(
        "no pod CIDR given by the cluster",
        |a| a.manifest.pod_cidrs.clear(),
        "no-pod-cidrs",
        "spec.podCIDRs",
    ),
    case(
        "host bits",
        |a| a.set("pod-cidrs", "10.244.3.7/24,fd00:10:244:3::/64"),
        "unreadable-record",
        "host bits",
    ),
    case(
        "a length of the wrong family",
        |a| a.set("pod-cidrs", "10.244.3.0/64,fd00:10:244:3::/64"),
        "unreadable-record",
        "10.244.3.0/64",
    ),
    case(
        "garbage for a CIDR",
        |a| a.set("pod-cidrs", "all of them\u{1b}[2J"),
        "unreadable-record",
        "all of them",
    ),
    case(
        "an empty list of CIDRs",
        |a| a.set("pod-cidrs", ""),
        "unreadable-record",
        "pod-cidrs holds \"\"",
    ),
    case(
        "seventeen CIDRs",
        |a| {
            let many: Vec<_> = (0..17).map(|n| format!("10.244.3.{n}/32")).collect();
            a.set("pod-cidrs", many.join(","));
        },
        "unreadable-record",
        "17 items",
    ),
    case(
        "overlapping CIDRs of its own",
        |a| a.set("pod-cidrs", "10.244.3.0/24,10.244.3.0/25"),
        "unreadable-record",
        "which overlap",
    ),
];

/// Claims to keys.
pub(crate) const KEYS: &[Case] = &[
    case(
        "another node's key",
        |a| a.set("public-key", a.victim["public-key"].clone()),
        "key-taken",
        "node-2",
    ),
    case(
        "the observer's key as the next one",
        |a| a.set("next-public-key", a.observer["public-key"].clone()),
        "key-taken",
        "node-1",
    ),
    case(
        "another node's key as the next one",
        |a| a.set("next-public-key", a.victim["public-key"].clone()),
        "key-taken",
        "node-2",
    ),
    case(
        "the observer's key as the previous one",
        |a| a.set("previous-public-key", a.observer["public-key"].clone()),
        "key-taken",
        "node-1",
    ),
    case(
        "another node's key as that of lane 1",
        |a| a.set("lanes", format!("51881={}", a.victim["public-key"])),
        "key-taken",
        "node-2",
    ),
    case(
        "the observer's lane 1 as its lane 1",
        |a| a.set("lanes", a.observer["lanes"].clone()),
        "key-taken",
        "node-1",
    ),
    case(
        "another node's lane 1 as its lane 1",
        |a| a.set("lanes", a.victim["lanes"].clone()),
        "key-taken",
        "node-2",
    ),
    case(
        "the observer's lane 1 as its next lane 1",
        |a| {
            a.set("next-public-key", a.annotations["public-key"].clone());
            a.set("next-lanes", a.observer["lanes"].clone());
        },
        "key-taken",
        "node-1",
    ),
    case(
        "another node's lane 1 as its previous key",
        |a| {
            let key = key_of_lane_1(&a.victim["lanes"]).to_owned();
            a.set("previous-public-key", key);
        },
        "key-taken",
        "node-2",
    ),
    case(
        "one key for two lanes",
        |a| a.set("lanes", format!("51881={}", a.annotations["public-key"])),
        "unreadable-record",
        "named for two lanes",
    ),
    case(
        "the all-zero key",
        |a| a.set("public-key", ZERO),
        "unreadable-record",
        "all-zero",
    ),
    case(
        "a point of low order",
        |a| a.set("next-public-key", LOW_ORDER),
        "unreadable-record",
        "low order",
    ),
    case(
        "another node's key in other bytes",
        |a| a.set("public-key", with_high_bit(&a.victim["public-key"])),
        "unreadable-record",
        "canonical",
    ),
    case(
        "no key",
        |a| drop(a.annotations.remove("public-key")),
        "unreadable-record",
        "lanes is there without",
    ),
    case(
        "an empty key",
        |a| a.set("public-key", ""),
        "unreadable-record",
        "44 characters",
    ),
    case(
        "a lane without a port",
        |a| a.set("lanes", "51881"),
        "unreadable-record",
        "PORT=KEY",
    ),
    case(
        "a port for two lanes",
        |a| {
            let lanes = a.annotations["lanes"].replace("51881", "51880");
            a.set("lanes", lanes);
        },
        "unreadable-record",
        "port 51880 twice",
    ),
];

/// Claims to places and numbers.
pub(crate) const PLACES: &[Case] = &[
    case(
        "another node's address",
        |a| a.set("endpoints", "192.0.2.12:51880"),
        "endpoint-foreign",
        "192.0.2.12",
    ),
    case(
        "a stranger's address",
        |a| a.set("endpoints", "203.0.113.1:51880"),
        "endpoint-foreign",
        "203.0.113.1",
    ),
    case(
        "a loopback address that its Node names too",
        |a| {
            a.be_at("127.0.0.1");
            a.set("endpoints", "127.0.0.1:51880");
        },
        "endpoint-unusable",
        "127.0.0.1",
    ),
    case(
        "a multicast address",
        |a| a.set("endpoints", "[ff02::1]:51880"),
        "endpoint-unusable",
        "ff02::1",
    ),
    case(
        "an unspecified address",
        |a| a.set("endpoints", "0.0.0.0:51880"),
        "endpoint-unusable",
        "0.0.0.0",
    ),
    case(
        "a broadcast address",
        |a| a.set("endpoints", "255.255.255.255:51880"),
        "endpoint-unusable",
        "255.255.255.255",
    ),
    case(
        "an IPv4-mapped address",
        |a| a.set("endpoints", "[::ffff:192.0.2.13]:51880"),
        "endpoint-unusable",
        "::ffff:192.0.2.13",
    ),
    case(
        "a pod's address",
        |a| a.set("endpoints", "10.244.2.2:51880"),
        "endpoint-in-cluster-cidrs",
        "10.244.2.2",
    ),
    case(
        "a pod's address as a node's",
        |a| a.be_at("10.244.2.2"),
        "address-in-pod-cidrs",
        "10.244.2.2",
    ),
    case(
        "port 0",
        |a| a.set("endpoints", "192.0.2.13:0"),
        "unreadable-record",
        "port above 0",
    ),
    case(
        "two endpoints of one family",
        |a| a.set("endpoints", "192.0.2.13:51880,192.0.2.14:51880"),
        "unreadable-record",
        "one per address family",
    ),
    case(
        "an empty list of endpoints",
        |a| a.set("endpoints", ""),
        "unreadable-record",
        "endpoints holds \"\"",
    ),
    case(
        "another mode",
        |a| a.set("mode", "plaintext"),
        "unreadable-record",
        "plaintext",
    ),
    case(
        "an empty mode",
        |a| a.set("mode", ""),
        "unreadable-record",
        "mode is \"\"",
    ),
    case(
        "a number above all",
        |a| a.set("key-generation", "18446744073709551616"),
        "unreadable-record",
        "18446744073709551616",
    ),
    case(
        "a negative number",
        |a| a.set("epoch", "-1"),
        "unreadable-record",
        "epoch is \"-1\"",
    ),
    case(
        "a value of 2,000 bytes",
        |a| a.set("lanes", "x".repeat(2_000)),
        "unreadable-record",
        "2000 bytes",
    ),
];

/// Files that hold no record.
pub(crate) const FILES: &[Case] = &[
    case(
        "a half-written file",
        |a| {
            let text = a.text();
            let end = text.find("podwire.dev/mode").unwrap_or_default();
            a.bytes(&text.as_bytes()[..end]);
        },
        "unreadable-record",
        "not one YAML document",
    ),
    case(
        "a half-written file that still reads as one",
        |a| {
            let text = a.text();
            let end = text.find("\"podwire.dev/pod-cidrs").unwrap_or_default();
            a.bytes(&text.as_bytes()[..end]);
        },
        "unreadable-record",
        "pod-cidrs is missing",
    ),
    case(
        "an empty file",
        |a| a.bytes(""),
        "unreadable-record",
        "not one YAML document",
    ),
    case(
        "a MiB and a byte",
        |a| a.bytes(vec![b'#'; (1 << 20) + 1]),
        "unreadable-record",
        "larger than 1048576",
    ),
    case(
        "a MiB of noughts",
        |a| a.bytes(vec![0; 1 << 20]),
        "unreadable-record",
        "not one YAML document",
    ),
    case(
        "bytes that are no text",
        |a| a.bytes([0xff, 0xfe, 0x80]),
        "unreadable-record",
        "UTF-8",
    ),
    case(
        "10,000 annotations",
        |a| {
            for number in 0..10_000 {
                a.set(&format!("x{number}"), "y");
            }
        },
        "unreadable-record",
        "annotations",
    ),
    case(
        "a folder in its place",
        |a| a.record = Record::Folder,
        "unreadable-record",
        "not a regular file",
    ),
    case(
        "references that grow without end",
        |a| a.bytes("a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\n"),
        "unreadable-record",
        "not one YAML document",
    ),
    case(
        "another kind of object",
        |a| a.bytes(a.text().replace("kind: Node", "kind: Pod")),
        "unreadable-record",
        "\"Pod\"",
    ),
    case(
        "another node's name",
        |a| a.bytes(a.text().replace("node-3", "node-2")),
        "unreadable-record",
        "\"node-2\"",
    ),
    case(
        "a Node that was before this one",
        |a| a.bytes(a.text().replace(&a.manifest.uid, "another")),
        "no-record",
        "no agent has published",
    ),
    case(
        "requests that are none",
        |a| a.requests = Some(b"{".to_vec()),
        "unreadable-requests",
        "requests",
    ),
    case(
        "a manifest that is none",
        |a| a.manifest_bytes = Some(b"kind: [Node\n".to_vec()),
        "unreadable-manifest",
        "manifest",
    ),
];
