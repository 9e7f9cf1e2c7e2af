//! Records and parts of records: what is accepted of the agent of node-1, and what is not, and why.

use serde_json::Value;

use super::change::{annotation, annotations};

const KEY: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
const OTHER_KEY: &str = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=";
const THIRD_KEY: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";

/// A change, what it is, and where it is refused the words that say so.
type Accepted = (String, Value);
type Refused = (String, &'static str, Value);

/// The usual record of node-1.
pub(crate) fn record() -> Value {
    record_of(1)
}

/// The usual record of a node.
pub(crate) fn record_of(number: u8) -> Value {
    let last = 10 + number;
    let pod_cidrs = format!("10.244.{number}.0/24,fd00:10:244:{number}::/64");
    let endpoints = format!("192.0.2.{last}:51880,[2001:db8::{last:x}]:51880");
    annotations([
        ("podwire.dev/mode", Some("encrypted")),
        ("podwire.dev/pod-cidrs", Some(pod_cidrs.as_str())),
        ("podwire.dev/endpoints", Some(endpoints.as_str())),
        ("podwire.dev/public-key", Some(KEY)),
        ("podwire.dev/lanes", Some(&format!("51881={OTHER_KEY}"))),
        ("podwire.dev/key-generation", Some("1")),
        ("podwire.dev/key-created", Some("2026-07-01T12:00:00Z")),
    ])
}

/// Records that are accepted.
pub(crate) fn accepted() -> Vec<Accepted> {
    let rotating = annotations([
        ("podwire.dev/mode", Some("encrypted")),
        ("podwire.dev/public-key", Some(KEY)),
        ("podwire.dev/next-public-key", Some(OTHER_KEY)),
        ("podwire.dev/next-lanes", Some(&format!("51881={KEY}"))),
        ("podwire.dev/previous-public-key", Some(THIRD_KEY)),
        (
            "podwire.dev/previous-lanes",
            Some(&format!("51881={THIRD_KEY},65535={KEY}")),
        ),
        ("podwire.dev/key-generation", Some("18446744073709551615")),
        ("podwire.dev/epoch", Some("0")),
        (
            "podwire.dev/rotation-phase",
            Some("promoted confirmed=47/48"),
        ),
        (
            "podwire.dev/key-created",
            Some("2026-07-01T12:00:00.123456789+02:00"),
        ),
    ]);
    let host_network = annotations([
        ("podwire.dev/mode", Some("host-network")),
        (
            "podwire.dev/pod-cidrs",
            Some("10.244.1.0/24,fd00:10:244:1::/64"),
        ),
        (
            "podwire.dev/endpoints",
            Some("[2001:db8::b]:1,192.0.2.11:1"),
        ),
    ]);
    let seven: Vec<String> = (1..=7).map(|port| format!("{port}={KEY}")).collect();
    let mut all = vec![
        ("a record".to_owned(), record()),
        ("a record in a rotation".to_owned(), rotating),
        ("a record without keys".to_owned(), host_network),
        (
            "seven lanes".to_owned(),
            annotation("podwire.dev/lanes", &seven.join(",")),
        ),
        (
            "a name that a later version may have".to_owned(),
            annotation("podwire.dev/later", &"x".repeat(1_500)),
        ),
    ];
    for endpoints in [
        "192.0.2.11:51880",
        "[2001:db8::b]:65535",
        "198.51.100.11:51880",
    ] {
        let change = annotation("podwire.dev/endpoints", endpoints);
        all.push((format!("endpoints {endpoints}"), change));
    }
    all
}

/// Changes of a record that are refused.
pub(crate) fn refused() -> Vec<Refused> {
    let mut all = Vec::new();
    all.extend(pod_cidrs());
    all.extend(endpoints());
    all.extend(keys());
    all.extend(lanes());
    all.extend(the_rest());
    all
}

fn each(
    name: &str,
    words: &'static str,
    values: impl IntoIterator<Item = impl Into<String>>,
) -> Vec<Refused> {
    let values = values.into_iter().map(Into::into);
    let case = |value: String| (format!("{name}={value:?}"), words, annotation(name, &value));
    values.map(case).collect()
}

fn pod_cidrs() -> Vec<Refused> {
    let values = [
        "0.0.0.0/0",
        "::/0",
        // Another node's; its own and another's; a part of its own; what holds its own.
        "10.244.2.0/24",
        "10.244.1.0/24,fd00:10:244:1::/64,10.244.2.0/24",
        "10.244.1.0/24",
        "10.244.0.0/16,fd00:10:244:1::/64",
        "fd00:10:244:1::/64,10.244.1.0/24",
        "10.244.1.0/24, fd00:10:244:1::/64",
        "10.244.1.0/24,fd00:10:244:1::/64,",
        "",
    ];
    each(
        "podwire.dev/pod-cidrs",
        "must be the Node's spec.podCIDRs",
        values,
    )
}

fn endpoints() -> Vec<Refused> {
    let name = "podwire.dev/endpoints";
    let foreign = [
        // Another node's; a stranger's; one that begins like its own; one of another type.
        "192.0.2.12:51880",
        "203.0.113.1:51880",
        "192.0.2.1:51880",
        "192.0.2.111:51880",
        "203.0.113.11:51880",
        "[2001:db8::c]:51880",
        "192.0.2.11:51880,[2001:db8::c]:51880",
        "0.0.0.0:51880",
        "[::ffff:192.0.2.11]:51880",
    ];
    let malformed = [
        "192.0.2.11",
        "192.0.2.11:",
        "192.0.2.11:0",
        "192.0.2.11:051880",
        "192.0.2.11:65536",
        "192.0.2.11:51880,",
        "192.0.2.11:51880 ",
        "[192.0.2.11]:51880",
        "2001:db8::b:51880",
        "[2001:db8::b%eth0]:51880",
        "[2001:DB8::B]:51880",
        "node-1:51880",
        "192.0.2.11:51880:1",
        "",
    ];
    let mut all = each(name, "must have addresses that are", foreign);
    all.extend(each(name, "must be ADDRESS:PORT", malformed));
    all
}

/// Texts that are no key.
fn no_keys() -> Vec<String> {
    vec![
        String::new(),
        "none".to_owned(),
        KEY[1..].to_owned(),
        format!("A{KEY}"),
        KEY.trim_end_matches('=').to_owned(),
        // Two bits that 32 bytes do not have; another alphabet; another encoding; a line too many.
        KEY.replace("Dg=", "Dh="),
        KEY.replace('/', "_").replace("xT", "-T"),
        "c5".repeat(32),
        format!("{KEY} "),
    ]
}

fn keys() -> Vec<Refused> {
    let slots = ["public-key", "next-public-key", "previous-public-key"];
    slots
        .iter()
        .flat_map(|slot| {
            let name = format!("podwire.dev/{slot}");
            each(&name, "must be 32 bytes of base64", no_keys())
        })
        .collect()
}

fn lanes() -> Vec<Refused> {
    let mut values: Vec<String> = no_keys().iter().map(|key| format!("51881={key}")).collect();
    let good = format!("51881={KEY}");
    values.extend([
        String::new(),
        KEY.to_owned(),
        format!("={KEY}"),
        format!("0={KEY}"),
        format!("051881={KEY}"),
        format!("+51881={KEY}"),
        format!("65536={KEY}"),
        format!("51881:{KEY}"),
        format!("{good},"),
        format!("{good},51882=none"),
        (1..=8)
            .map(|port| format!("{port}={KEY}"))
            .collect::<Vec<_>>()
            .join(","),
    ]);
    let slots = ["lanes", "next-lanes", "previous-lanes"];
    slots
        .iter()
        .flat_map(|slot| {
            let name = format!("podwire.dev/{slot}");
            each(&name, "must be PORT=KEY", values.clone())
        })
        .collect()
}

fn the_rest() -> Vec<Refused> {
    let no_numbers = [
        "",
        "-1",
        "+1",
        "1.0",
        "01",
        "0x1",
        "1 ",
        "one",
        "184467440737095516150",
    ];
    let no_times = [
        "",
        "yesterday",
        "2026-07-01",
        "2026-07-01T12:00:00",
        "2026-07-01 12:00:00Z",
    ];
    let no_modes = [
        "",
        "plaintext",
        "Encrypted",
        "encrypted ",
        "auto",
        "encrypted,host-network",
    ];
    let long = "x".repeat(1_501);
    let mut all = Vec::new();
    for name in ["podwire.dev/key-generation", "podwire.dev/epoch"] {
        all.extend(each(name, "must be decimal numbers", no_numbers));
    }
    all.extend(each("podwire.dev/key-created", "must be a time", no_times));
    all.extend(each(
        "podwire.dev/mode",
        "must be encrypted or host-network",
        no_modes,
    ));
    for name in ["podwire.dev/rotation-phase", "podwire.dev/later"] {
        let values = [long.as_str(), "promoted\n", "\u{1b}[2J", "größer"];
        all.extend(each(name, "must be at most 1500 characters", values));
    }
    all
}
