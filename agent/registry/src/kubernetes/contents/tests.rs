use podwire_core::annotations::ENDPOINTS;
use serde_json::json;

use super::*;

const KEY: &str = "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=";

fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

/// A Node whose record claims what it has.
#[derive(Clone)]
struct Told {
    name: &'static str,
    uid: &'static str,
    version: u64,
    address: &'static str,
    claimed: Option<&'static str>,
    key: &'static str,
}

fn node(name: &'static str) -> Told {
    Told {
        name,
        uid: "a",
        version: 10,
        address: "192.0.2.1",
        claimed: Some("192.0.2.1"),
        key: KEY,
    }
}

impl Told {
    fn json(&self) -> serde_json::Value {
        let mut annotations = json!({ "foreign": "x" });
        if let Some(address) = self.claimed {
            annotations = json!({
                "foreign": "x",
                "podwire.dev/mode": "encrypted",
                "podwire.dev/pod-cidrs": "10.244.1.0/24",
                "podwire.dev/public-key": self.key,
                "podwire.dev/endpoints": format!("{address}:51880"),
            });
        }
        json!({
            "metadata": {
                "name": self.name,
                "uid": self.uid,
                "resourceVersion": self.version.to_string(),
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "annotations": annotations,
                "managedFields": [{ "manager": "kubelet", "fieldsV1": { "f:x": {} } }],
            },
        })
    }

    fn metadata(&self) -> Manifest {
        serde_json::from_value(self.json()).expect("metadata")
    }

    fn whole(&self) -> Manifest {
        let mut json = self.json();
        json["spec"] = json!({ "podCIDRs": ["10.244.1.0/24"] });
        json["status"] = json!({
            "addresses": [{ "type": "InternalIP", "address": self.address }],
        });
        serde_json::from_value(json).expect("a Node")
    }
}

/// Followed after a whole list.
/// Long enough for any pace.
fn later() -> Instant {
    Instant::now() + std::time::Duration::from_secs(3600)
}

fn followed(nodes: &[Told]) -> Contents {
    let mut contents = Contents::new(name("own"), BTreeMap::new());
    contents.begin();
    let now = Instant::now();
    for node in nodes {
        contents.fetched(node.whole(), Source::List, now);
    }
    assert!(contents.complete(true));
    contents.changed();
    contents
}

fn told(contents: &mut Contents) -> Arc<Nodes> {
    contents.is_changed = true;
    contents.changed().expect("asked for")
}

fn endpoints(contents: &mut Contents, of: &str) -> Option<String> {
    let nodes = told(contents);
    nodes
        .nodes
        .get(&name(of))?
        .annotations
        .get(ENDPOINTS)
        .cloned()
}

fn due(contents: &mut Contents) -> Option<String> {
    let due = contents.due(later());
    due.map(|(name, _)| name.to_string())
}

#[test]
fn a_whole_list_tells_nodes_with_what_they_are_checked_against() {
    let mut contents = followed(&[node("n1")]);
    assert_eq!(due(&mut contents), None);
    let nodes = told(&mut contents);
    assert!(nodes.is_synchronised());
    let n1 = &nodes.nodes[&name("n1")];
    assert_eq!(n1.pod_cidrs.len(), 1);
    assert_eq!(n1.addresses.len(), 1);
    assert!(!n1.annotations.contains_key("foreign"));
}

#[test]
fn a_heartbeat_changes_nothing_and_asks_for_nothing() {
    let mut contents = followed(&[node("n1")]);
    let heartbeat = Told {
        version: 11,
        ..node("n1")
    };
    contents.told(heartbeat.metadata(), Source::News, Instant::now());
    assert!(contents.changed().is_none());
    assert_eq!(due(&mut contents), None);
}

#[test]
fn another_key_of_the_same_claim_counts_at_once() {
    let mut contents = followed(&[node("n1")]);
    let key = "YmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmJiYmI=";
    let rotated = Told {
        version: 11,
        key,
        ..node("n1")
    };
    contents.told(rotated.metadata(), Source::News, Instant::now());
    assert_eq!(due(&mut contents), None);
    let nodes = contents.changed().expect("news");
    assert_eq!(
        nodes.nodes[&name("n1")].annotations["podwire.dev/public-key"],
        key
    );
}

#[test]
fn a_changed_claim_counts_together_with_what_proves_it() {
    let mut contents = followed(&[node("n1")]);
    let moved = Told {
        version: 11,
        address: "192.0.2.9",
        claimed: Some("192.0.2.9"),
        ..node("n1")
    };
    contents.told(moved.metadata(), Source::News, Instant::now());
    assert_eq!(due(&mut contents).as_deref(), Some("n1"));
    assert_eq!(
        endpoints(&mut contents, "n1").as_deref(),
        Some("192.0.2.1:51880")
    );
    contents.fetched(moved.whole(), Source::News, Instant::now());
    assert_eq!(due(&mut contents), None);
    assert_eq!(
        endpoints(&mut contents, "n1").as_deref(),
        Some("192.0.2.9:51880")
    );
}

#[test]
fn what_was_read_before_the_latest_event_does_not_count() {
    let mut contents = followed(&[node("n1")]);
    let moved = |version, claimed| Told {
        version,
        address: claimed,
        claimed: Some(claimed),
        ..node("n1")
    };
    contents.told(
        moved(12, "192.0.2.9").metadata(),
        Source::News,
        Instant::now(),
    );
    contents.fetched(moved(11, "192.0.2.8").whole(), Source::News, Instant::now());
    assert_eq!(due(&mut contents).as_deref(), Some("n1"));
    assert_eq!(
        endpoints(&mut contents, "n1").as_deref(),
        Some("192.0.2.1:51880")
    );
    contents.told(
        moved(11, "192.0.2.7").metadata(),
        Source::News,
        Instant::now(),
    );
    contents.fetched(moved(12, "192.0.2.9").whole(), Source::News, Instant::now());
    assert_eq!(
        endpoints(&mut contents, "n1").as_deref(),
        Some("192.0.2.9:51880")
    );
}

#[test]
fn a_claim_that_does_not_hold_is_looked_at_again_with_each_change_of_its_node() {
    let early = Told {
        address: "192.0.2.7",
        ..node("n1")
    };
    let mut contents = followed(std::slice::from_ref(&early));
    assert_eq!(due(&mut contents), None);
    contents.told(
        Told {
            version: 11,
            ..early
        }
        .metadata(),
        Source::News,
        Instant::now(),
    );
    assert_eq!(due(&mut contents).as_deref(), Some("n1"));
    contents.fetched(
        Told {
            version: 11,
            ..node("n1")
        }
        .whole(),
        Source::News,
        Instant::now(),
    );
    contents.told(
        Told {
            version: 12,
            ..node("n1")
        }
        .metadata(),
        Source::News,
        Instant::now(),
    );
    assert_eq!(due(&mut contents), None);
}

#[test]
fn the_own_node_is_read_with_each_of_its_changes_and_its_record_counts_at_once() {
    let mut contents = followed(&[node("own")]);
    let overwritten = Told {
        version: 11,
        claimed: None,
        ..node("own")
    };
    contents.told(overwritten.metadata(), Source::News, Instant::now());
    assert_eq!(contents.record_of(&name("own")), BTreeMap::new());
    assert_eq!(due(&mut contents).as_deref(), Some("own"));
}

#[test]
fn a_node_without_a_claim_is_told_and_one_with_a_claim_once_it_was_read() {
    let mut contents = followed(&[node("n1")]);
    contents.told(
        Told {
            claimed: None,
            ..node("n2")
        }
        .metadata(),
        Source::News,
        Instant::now(),
    );
    contents.told(node("n3").metadata(), Source::News, Instant::now());
    let nodes = told(&mut contents);
    assert!(nodes.nodes.contains_key(&name("n2")));
    assert!(!nodes.nodes.contains_key(&name("n3")));
    assert_eq!(due(&mut contents).as_deref(), Some("n3"));
    assert_eq!(due(&mut contents), None, "it is being read");
    contents.fetched(node("n3").whole(), Source::News, Instant::now());
    assert!(told(&mut contents).nodes.contains_key(&name("n3")));
    // One that is gone when it is asked for is not asked for for ever.
    contents.told(node("n4").metadata(), Source::News, Instant::now());
    contents.not_found(&name("n4"), "a");
    assert_eq!(due(&mut contents), None);
}

#[test]
fn a_node_created_again_inherits_nothing() {
    let mut contents = followed(&[node("n1")]);
    let again = Told {
        uid: "b",
        version: 20,
        ..node("n1")
    };
    contents.told(again.metadata(), Source::News, Instant::now());
    assert!(!told(&mut contents).nodes.contains_key(&name("n1")));
    // The end of the first one comes late and is not the second one's.
    contents.deleted(
        &Told {
            version: 19,
            ..node("n1")
        }
        .metadata(),
    );
    contents.fetched(again.whole(), Source::News, Instant::now());
    assert_eq!(told(&mut contents).nodes[&name("n1")].uid, "b");
    contents.deleted(
        &Told {
            version: 21,
            ..again
        }
        .metadata(),
    );
    assert!(told(&mut contents).nodes.is_empty());
}

#[test]
fn only_a_list_that_came_to_its_end_removes_nodes() {
    let mut contents = followed(&[node("n1"), node("n2")]);
    contents.begin();
    contents.told(node("n1").metadata(), Source::List, Instant::now());
    assert_eq!(told(&mut contents).nodes.len(), 2);
    contents.lost(Loss::Unreachable("x".to_owned()));
    assert_eq!(told(&mut contents).nodes.len(), 2);
    contents.begin();
    contents.told(node("n2").metadata(), Source::List, Instant::now());
    assert!(contents.complete(false));
    let nodes = told(&mut contents);
    assert_eq!(nodes.nodes.keys().collect::<Vec<_>>(), [&name("n2")]);
    assert!(nodes.is_synchronised());
}

#[test]
fn a_list_counts_also_where_the_server_went_back() {
    let mut contents = followed(&[node("n1")]);
    let before = Told {
        version: 3,
        claimed: None,
        ..node("n1")
    };
    contents.begin();
    contents.told(before.metadata(), Source::List, Instant::now());
    assert!(contents.complete(false));
    assert_eq!(
        endpoints(&mut contents, "n1"),
        Some("192.0.2.1:51880".to_owned())
    );
    assert_eq!(due(&mut contents).as_deref(), Some("n1"));
    contents.fetched(before.whole(), Source::News, Instant::now());
    assert_eq!(endpoints(&mut contents, "n1"), None);
}

#[test]
fn what_was_known_before_the_start_proves_the_same_claim_of_the_same_node() {
    let known = node("n1").whole().into_node().expect("a Node");
    let known = BTreeMap::from([(name("n1"), Arc::new(known))]);
    let mut contents = Contents::new(name("own"), known);
    contents.lost(Loss::Unreachable("x".to_owned()));
    // Whoever kept them goes on with them.
    assert!(contents.changed().expect("lost").nodes.is_empty());
    contents.begin();
    contents.told(node("n1").metadata(), Source::List, Instant::now());
    contents.told(
        Told {
            uid: "b",
            ..node("own")
        }
        .metadata(),
        Source::List,
        Instant::now(),
    );
    assert!(contents.complete(false));
    assert_eq!(due(&mut contents).as_deref(), Some("own"));
    assert_eq!(told(&mut contents).nodes.len(), 1);
}

#[test]
fn an_unreadable_node_hurts_itself_and_nobody_else_until_it_is_readable() {
    let mut contents = followed(&[node("n1"), node("n2")]);
    let mut bad = Told {
        version: 11,
        ..node("n1")
    }
    .json();
    bad["metadata"]["creationTimestamp"] = json!("yesterday");
    contents.told(
        serde_json::from_value(bad).expect("metadata"),
        Source::News,
        Instant::now(),
    );
    let nodes = contents.changed().expect("news");
    assert_eq!(nodes.nodes.keys().collect::<Vec<_>>(), [&name("n2")]);
    assert!(nodes.rejected.contains_key(&name("n1")));
    let good = Told {
        version: 12,
        ..node("n1")
    };
    contents.told(good.metadata(), Source::News, Instant::now());
    assert_eq!(due(&mut contents).as_deref(), Some("n1"));
    contents.fetched(good.whole(), Source::News, Instant::now());
    let nodes = told(&mut contents);
    assert_eq!(nodes.nodes.len(), 2);
    assert!(nodes.rejected.is_empty());
}

#[test]
fn a_server_that_went_back_is_known_by_the_nodes_that_changed_last() {
    let changed = Told {
        version: 30,
        ..node("n2")
    };
    let contents = followed(&[node("n1"), changed.clone(), node("n3")]);
    let latest = contents.latest(1);
    assert_eq!(latest, [(name("n2"), "a".to_owned(), 30)]);
    assert_eq!(contents.latest(8).len(), 3);
    let is_back = |read: Option<&Manifest>| Contents::is_from_before(&latest[0], read);
    assert!(!is_back(Some(&changed.metadata())));
    let version = |version| {
        Told {
            version,
            ..node("n2")
        }
        .metadata()
    };
    assert!(!is_back(Some(&version(31))));
    assert!(is_back(Some(&version(29))));
    assert!(is_back(None));
}
