//! The files of the directory registry.
//!
//! A Node's manifest, its agent's record and its operator's requests, separated by a zero byte; the
//! last part is a Node's name.

use podwire_core::node::{NODE_NAME_LENGTH_MAX, NodeName};
use podwire_core::record::{ANNOTATION_PREFIX, REQUEST_PREFIX};
use podwire_registry::manifest::{
    self, ADDRESSES_MAX, ANNOTATIONS_MAX, Annotated, ManifestError, POD_CIDRS_MAX,
};

use crate::shown_text;

/// One input.
pub fn one(data: &[u8]) {
    let name: NodeName = "node-1".parse().expect("a name");
    let mut parts = data.splitn(4, |byte| *byte == 0);
    let mut next = || parts.next().unwrap_or_default();
    let node = checked(manifest::parse_node(&name, next()));
    let [record, requests] =
        [next(), next()].map(|part| checked(manifest::parse_annotated(&name, part)));
    for annotated in [&record, &requests].into_iter().flatten() {
        check_annotated(&name, annotated);
    }
    check_name(&String::from_utf8_lossy(next()));
    let Some(node) = node else { return };
    assert_eq!(node.name, name);
    assert!(!node.uid.is_empty());
    assert!(node.pod_cidrs.len() <= POD_CIDRS_MAX);
    assert!(node.pod_cidrs.iter().all(|cidr| *cidr == cidr.trunc()));
    assert!(node.addresses.len() <= ADDRESSES_MAX);
    let joined = manifest::join(&node, record.as_ref(), requests.as_ref());
    let is_ours = |key: &str| key.starts_with(ANNOTATION_PREFIX) || key.starts_with(REQUEST_PREFIX);
    assert!(joined.annotations.keys().all(|key| is_ours(key)));
    for (part, prefix) in [(&record, ANNOTATION_PREFIX), (&requests, REQUEST_PREFIX)] {
        let part = part.as_ref().filter(|part| part.uid == node.uid);
        let source = part.map_or(&node.annotations, |part| &part.annotations);
        let of = |(key, _): &(&String, &String)| key.starts_with(prefix);
        let (joined, source) = (joined.annotations.iter(), source.iter());
        assert!(joined.filter(of).eq(source.filter(of)), "{prefix}");
    }
}

fn checked<T>(parsed: Result<T, ManifestError>) -> Option<T> {
    match parsed {
        Ok(parsed) => Some(parsed),
        Err(error) => {
            shown_text::check(&error);
            None
        }
    }
}

fn check_annotated(name: &NodeName, annotated: &Annotated) {
    assert!(annotated.annotations.len() <= ANNOTATIONS_MAX);
    let written = manifest::write_annotated(name, annotated.clone()).expect("text can be written");
    let again = manifest::parse_annotated(name, written.as_bytes());
    let again = again.unwrap_or_else(|error| panic!("{error:?} in {written}"));
    assert_eq!(again, *annotated, "{written}");
}

fn check_name(text: &str) {
    match text.parse::<NodeName>() {
        Ok(name) => {
            assert_eq!(name.as_str(), text);
            assert!(text.len() <= NODE_NAME_LENGTH_MAX && !text.starts_with('.'));
            assert!(!text.contains(['/', '\\']), "a path");
        }
        Err(error) => shown_text::check(&error),
    }
}
