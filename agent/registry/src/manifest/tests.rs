use super::*;

const NODE: &str = r#"
apiVersion: v1
kind: Node
metadata:
  name: node-1
  uid: 5f1c
  creationTimestamp: "2026-01-01T00:00:00Z"
  labels: {kubernetes.io/os: linux}
  annotations:
    podwire.dev/mode: encrypted
    podwire.dev/key-generation: 4
    request.podwire.dev/rotate: if-key-generation=4
    example.com/note: not ours
spec:
  podCIDR: 10.244.1.0/24
  podCIDRs: [10.244.1.0/24, "fd00:10:244:1::/64"]
  taints: []
status:
  addresses:
  - {type: Hostname, address: node-1}
  - {type: ExternalIP, address: 198.51.100.11}
  - {type: InternalIP, address: 192.0.2.11}
  - {type: InternalIP, address: "2001:db8::11"}
  nodeInfo: {kernelVersion: 6.1.0}
"#;

fn name(text: &str) -> NodeName {
    text.parse().expect("a node name")
}

fn refused(text: &str) -> ManifestError {
    parse_node(&name("node-1"), text.as_bytes()).expect_err("refused")
}

#[test]
fn a_kubernetes_node_is_read_and_what_podwire_does_not_know_is_ignored() {
    let node = parse_node(&name("node-1"), NODE.as_bytes()).expect("a Node");
    assert_eq!(node.uid, "5f1c");
    assert_eq!(node.created, 1_767_225_600);
    let cidrs: Vec<String> = node.pod_cidrs.iter().map(ToString::to_string).collect();
    assert_eq!(cidrs, ["10.244.1.0/24", "fd00:10:244:1::/64"]);
    let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.0.2.11", "2001:db8::11", "198.51.100.11"]);
    let annotations: Vec<(&str, &str)> = node
        .annotations
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    assert_eq!(
        annotations,
        [
            ("podwire.dev/key-generation", "4"),
            ("podwire.dev/mode", "encrypted"),
            ("request.podwire.dev/rotate", "if-key-generation=4"),
        ]
    );
}

#[test]
fn a_node_that_has_no_pod_cidr_and_no_address_yet_is_a_node() {
    let text = "{apiVersion: v1, kind: Node, metadata: {name: node-1, uid: a, \
                creationTimestamp: 2026-01-01T01:00:00+01:00}}";
    let node = parse_node(&name("node-1"), text.as_bytes()).expect("a Node");
    assert_eq!(node.created, 1_767_225_600);
    assert!(node.pod_cidrs.is_empty() && node.addresses.is_empty() && node.annotations.is_empty());
}

#[test]
fn each_fault_has_its_own_reason() {
    use ManifestError as E;
    let with = |from: &str, to: &str| {
        assert!(NODE.contains(from), "{from}");
        refused(&NODE.replace(from, to))
    };
    assert!(matches!(refused(""), E::Syntax(_)));
    assert!(matches!(refused("\0\u{1}garbage: ["), E::Syntax(_)));
    assert!(matches!(refused("just text"), E::Syntax(_)));
    assert!(matches!(
        refused(&NODE[..NODE.len() / 3]),
        E::Missing(_) | E::Syntax(_)
    ));
    assert!(matches!(
        refused(&format!("{NODE}---\n{NODE}")),
        E::Syntax(_)
    ));
    assert!(matches!(
        with("uid: 5f1c", "uid: a\n  uid: b"),
        E::Syntax(_)
    ));
    assert!(matches!(
        with("podwire.dev/mode: encrypted", "podwire.dev/mode: [a]"),
        E::Syntax(_)
    ));
    assert!(matches!(
        with("kind: Node", "kind: Pod"),
        E::NotANode { .. }
    ));
    assert!(matches!(
        with("apiVersion: v1", "apiVersion: v2"),
        E::NotANode { .. }
    ));
    assert!(matches!(
        with("name: node-1\n", "name: node-2\n"),
        E::WrongName { .. }
    ));
    assert!(matches!(
        with("uid: 5f1c", "uid: ''"),
        E::Missing("metadata.uid")
    ));
    assert!(matches!(
        with(
            "creationTimestamp: \"2026-01-01T00:00:00Z\"",
            "creationTimestamp: null"
        ),
        E::Missing("metadata.creationTimestamp")
    ));
    assert!(matches!(
        with("2026-01-01T", "2026-13-01T"),
        E::InvalidCreationTimestamp { .. }
    ));
    assert!(matches!(
        with("[10.244.1.0/24", "[10.244.1.0/33"),
        E::InvalidPodCidr { .. }
    ));
    assert!(matches!(
        with("[10.244.1.0/24", "[10.244.1.7/24"),
        E::PodCidrHostBits(_)
    ));
    assert!(matches!(
        with("192.0.2.11", "192.0.2.256"),
        E::InvalidAddress { .. }
    ));
    let not_text = parse_node(&name("node-1"), b"\xff\xfe").expect_err("not UTF-8");
    assert!(matches!(not_text, E::NotText(_)));
}

#[test]
fn what_is_too_much_is_refused() {
    let many = |line: &str, count: usize| -> String {
        (0..count)
            .map(|i| line.replace('#', &i.to_string()))
            .collect()
    };
    let annotated = |lines: &str| NODE.replace("    podwire.dev/mode: encrypted\n", lines);
    assert!(matches!(
        refused(&annotated(&many("    example.com/#: v\n", 10_000))),
        ManifestError::TooManyAnnotations(10_003)
    ));
    let large = format!(
        "    example.com/large: {}\n",
        "v".repeat(ANNOTATIONS_SIZE_MAX)
    );
    assert!(matches!(
        refused(&annotated(&large)),
        ManifestError::AnnotationsTooLarge(_)
    ));
    let padded = format!("{NODE}#{}", " ".repeat(MANIFEST_SIZE_MAX));
    assert!(matches!(refused(&padded), ManifestError::TooLarge));
    let cidrs = NODE.replace(
        "[10.244.1.0/24",
        &format!("[{}", many("10.244.#.0/24, ", 99)),
    );
    assert!(matches!(
        refused(&cidrs),
        ManifestError::TooManyPodCidrs(_) | ManifestError::Syntax(_)
    ));
    let first = "  - {type: Hostname";
    let more = many("  - {type: InternalIP, address: 192.0.2.#}\n", 99);
    let addresses = NODE.replace(first, &format!("{more}{first}"));
    assert!(matches!(
        refused(&addresses),
        ManifestError::TooManyAddresses(103)
    ));
}

#[test]
fn aliases_cannot_exhaust_the_reader() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let below = format!("*a{}", level - 1);
        bomb.push_str(&format!(
            "a{level}: &a{level} [{}]\n",
            [below.as_str(); 9].join(", ")
        ));
    }
    assert!(matches!(
        refused(&format!("{bomb}{NODE}")),
        ManifestError::Syntax(_)
    ));
    assert!(matches!(
        refused(&"[".repeat(100_000)),
        ManifestError::Syntax(_)
    ));
    assert!(matches!(
        refused(&"{a: ".repeat(100_000)),
        ManifestError::Syntax(_)
    ));
}

#[test]
fn a_message_does_not_repeat_a_whole_file() {
    let error = refused(&NODE.replace("192.0.2.11", &"x".repeat(100_000)));
    assert!(error.to_string().len() < 200, "{error}");
    let error = refused(&format!("kind: {}", "x".repeat(100_000)));
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    assert!(text.len() < 1000, "{} bytes", text.len());
}

#[test]
fn a_record_written_is_a_record_read() {
    let values = [
        "",
        "true",
        "null",
        "0x10",
        "1e3",
        "~",
        "a: b",
        "# c",
        "- d",
        "'",
        "\"",
        "\\",
        " e ",
        "51881=AAAA,51882=BBBB",
        "[2001:db8::11]:51880",
        "2026-01-01",
        "ä\n\t\u{1F512}",
        "*x",
        "&y",
        "!z",
        "%",
        "@",
        "`",
        "---",
        "...",
        "<<",
        "=",
    ];
    let long = "51881=4yaDkjV2oCTmzuNxGqXyWxw1v2oGv3VYw0J1uQzq2Vg=,".repeat(16);
    let annotations: BTreeMap<String, String> = values
        .iter()
        .copied()
        .chain([long.as_str()])
        .enumerate()
        .map(|(i, value)| (format!("podwire.dev/key-{i}"), value.to_owned()))
        .collect();
    let record = Annotated {
        uid: "1234".to_owned(),
        annotations,
    };
    let text = write_annotated(&name("node-1"), record.clone()).expect("written");
    assert_eq!(
        parse_annotated(&name("node-1"), text.as_bytes()).expect("read"),
        record,
        "{text}"
    );
}

fn node(uid: &str, annotations: &[(&str, &str)]) -> Node {
    let mut node = parse_node(&name("node-1"), NODE.as_bytes()).expect("a Node");
    node.uid = uid.to_owned();
    node.annotations = texts(annotations);
    node
}

fn texts(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn each_writer_speaks_for_its_own_prefix_only() {
    let manifest = node(
        "a",
        &[
            ("podwire.dev/mode", "host-network"),
            ("podwire.dev/x", "1"),
            ("request.podwire.dev/mode", "x"),
        ],
    );
    let record = Annotated {
        uid: "a".to_owned(),
        annotations: texts(&[
            ("podwire.dev/mode", "encrypted"),
            ("request.podwire.dev/mode", "host-network"),
            ("example.com/z", "1"),
        ]),
    };
    let requests = Annotated {
        uid: "a".to_owned(),
        annotations: texts(&[
            ("podwire.dev/mode", "x"),
            ("request.podwire.dev/rotate", "by=alice"),
        ]),
    };
    assert_eq!(
        join(&manifest, Some(&record), Some(&requests)).annotations,
        texts(&[
            ("podwire.dev/mode", "encrypted"),
            ("request.podwire.dev/rotate", "by=alice")
        ])
    );
}

#[test]
fn what_was_written_for_another_uid_does_not_count() {
    let manifest = node("a", &[("podwire.dev/mode", "host-network")]);
    let other = Annotated {
        uid: "b".to_owned(),
        annotations: texts(&[
            ("podwire.dev/mode", "encrypted"),
            ("request.podwire.dev/rotate", ""),
        ]),
    };
    assert_eq!(join(&manifest, Some(&other), Some(&other)), manifest);
    assert_eq!(join(&manifest, None, None), manifest);
}
