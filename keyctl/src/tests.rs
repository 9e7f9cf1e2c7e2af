//! Reports on the mesh in `tests/mesh`, as they look. It has a node for each thing that can be
//! said: 1 has rotated, 2 is about to, 3 is plain WireGuard behind NAT, 4 is plaintext by request
//! and 5 without one, 6 has no record, 7 claims another's pods, 8 cannot be read, 9 has 1's key.

use std::path::Path;
use std::sync::Arc;

use clap::Parser as _;
use jiff::Timestamp;
use podwire_core::annotations::{ENDPOINTS, NEXT_PUBLIC_KEY};
use podwire_core::node::NodeName;
use podwire_registry::directory;
use podwire_registry::nodes::Nodes;

use crate::args::{Command, CommandLine, ReadArgs};
use crate::outcome::Outcome;
use crate::output::{Report, Row, render};
use crate::policies::Policies;
use crate::{peers, rules, status, verify};

fn mesh() -> Nodes {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mesh");
    directory::read(&folder).expect("a folder of Nodes")
}

fn name(text: &str) -> NodeName {
    text.parse().expect("a node name")
}

/// The flags that a user would type.
fn flags(words: &[&str]) -> ReadArgs {
    let line = CommandLine::parse_from(["keyctl", "verify"].iter().chain(words));
    let Command::Verify(args) = line.command else {
        panic!("not verify");
    };
    args
}

/// A report as text: half an hour after node 1 made its key.
#[track_caller]
fn shows<R: Row>(report: &Report<R>, words: &[&str], expected: &str) {
    let now: Timestamp = "2026-03-01T11:45:00Z".parse().expect("a time");
    let text = render(&report.rows, &flags(words), now).expect("text");
    assert!(text == expected, "{text}");
}

fn status(nodes: &Nodes, words: &[&str]) -> Report<status::NodeRow> {
    let policy = rules::policy(&flags(words).rules, nodes);
    status::report(nodes, None, &policy, None).expect("nodes")
}

fn peers(nodes: &Nodes, own: &str, words: &[&str]) -> Report<peers::PeerRow> {
    let policy = rules::policy(&flags(words).rules, nodes);
    peers::report(nodes, &policy, &name(own)).expect("a node")
}

fn verify(nodes: &Nodes, policies: &Policies, words: &[&str]) -> Report<verify::Finding> {
    let rules = flags(words).rules;
    let policy = rules::policy(&rules, nodes);
    verify::report(nodes, policies, &policy, !rules.cluster_cidr.is_empty())
}

/// The nodes of the mesh of which nothing is wrong.
fn healthy() -> Nodes {
    let mut nodes = mesh();
    nodes.nodes.retain(|name, _| name.as_str() < "node-5");
    nodes
}

#[test]
fn status_tells_each_node_with_its_key() {
    let report = status(&mesh(), &[]);
    shows(&report, &[], include_str!("../tests/expected/status.txt"));
    let wide = include_str!("../tests/expected/status-wide.txt");
    shows(&report, &["-o", "wide"], wide);
    let json = include_str!("../tests/expected/status.json");
    shows(&report, &["-o", "json"], json);
    assert_eq!(report.outcome, Outcome::Degraded);
    let note = report.note.expect("a note");
    assert!(note.starts_with("5 of 9 nodes are not"), "{note}");
}

#[test]
fn names_come_alone_and_headers_can_be_left_out() {
    let report = status(&healthy(), &[]);
    let names = "node/node-1\nnode/node-2\nnode/node-3\nnode/node-4\n";
    shows(&report, &["-o", "name"], names);
    assert_eq!((report.outcome, &report.note), (Outcome::Ok, &None));
    let table = include_str!("../tests/expected/status.txt");
    let (_, rows) = table.split_once('\n').expect("headers");
    let first_words = |text: &str| -> Vec<String> {
        let lines = text.lines().map(|line| line.split_whitespace());
        lines
            .map(|words| words.take(2).collect::<Vec<_>>().join(" "))
            .collect()
    };
    let now = "2026-03-01T11:45:00Z".parse().expect("a time");
    let text = render(&report.rows, &flags(&["--no-headers"]), now).expect("text");
    assert_eq!(first_words(&text), first_words(rows)[..4]);
}

#[test]
fn status_of_one_node_tells_why_it_does_not_count() {
    let nodes = mesh();
    let policy = rules::policy(&flags(&[]).rules, &nodes);
    let one = status::report(&nodes, None, &policy, Some(&name("node-2"))).expect("a node");
    let yaml = include_str!("../tests/expected/status-node-2.yaml");
    shows(&one, &["-o", "yaml"], yaml);
    assert_eq!(one.outcome, Outcome::Ok);
    let refused = status::report(&nodes, None, &policy, Some(&name("node-9"))).expect("a node");
    let note = refused.note.expect("a note");
    assert!(
        note.contains("node-9: it claims the public key AQEB"),
        "{note}"
    );
    let missing = status::report(&nodes, None, &policy, Some(&name("node-10")));
    let error = missing.expect_err("no such node").to_string();
    assert!(error.contains("no Node node-10"), "{error}");
}

#[test]
fn peers_are_told_as_the_node_sees_them() {
    let report = peers(&mesh(), "node-1", &[]);
    shows(
        &report,
        &[],
        include_str!("../tests/expected/peers-node-1.txt"),
    );
    let wide = include_str!("../tests/expected/peers-node-1-wide.txt");
    shows(&report, &["-o", "wide"], wide);
    let json = include_str!("../tests/expected/peers-node-1.json");
    shows(&report, &["-o", "json"], json);
    assert_eq!((report.outcome, report.note), (Outcome::Degraded, None));
}

#[test]
fn every_pair_of_a_host_network_node_is_plaintext_or_closed() {
    let report = peers(&healthy(), "node-4", &[]);
    shows(
        &report,
        &[],
        include_str!("../tests/expected/peers-node-4.txt"),
    );
    assert_eq!(report.outcome, Outcome::Ok, "it was asked for");
    let strict = ["--host-network-peers", "refuse"];
    let report = peers(&healthy(), "node-4", &strict);
    shows(
        &report,
        &[],
        include_str!("../tests/expected/peers-node-4-strict.txt"),
    );
    assert_eq!(report.outcome, Outcome::Degraded);
}

#[test]
fn a_node_that_others_refuse_is_told_so() {
    let report = peers(&mesh(), "node-7", &[]);
    let note = report.note.expect("a note");
    assert!(
        note.starts_with("the others refuse node-7: it claims 10.244.1.0/24"),
        "{note}"
    );
    assert_eq!(report.outcome, Outcome::Degraded);
    for (own, why) in [
        ("node-6", "no agent has published"),
        ("node-8", "cannot be read"),
    ] {
        let report = peers(&mesh(), own, &[]);
        let note = report.note.expect("a note");
        assert!(
            note.contains("is meshed with nobody") && note.contains(why),
            "{note}"
        );
        assert!(report.rows.is_empty() && report.outcome == Outcome::Degraded);
    }
}

#[test]
fn verify_tells_every_finding_by_check() {
    let report = verify(&mesh(), &Policies::NotInUse, &[]);
    shows(&report, &[], include_str!("../tests/expected/verify.txt"));
    let json = include_str!("../tests/expected/verify.json");
    shows(&report, &["-o", "json"], json);
    let names = "node/node-5\nnode/node-6\nnode/node-7\nnode/node-8\nnode/node-9\n";
    shows(&report, &["-o", "name"], names);
    assert_eq!(report.outcome, Outcome::Degraded);
}

#[test]
fn verify_of_a_mesh_without_fault_says_what_was_checked() {
    let cidrs = ["--cluster-cidr", "10.244.0.0/16,fd00:10:244::/48"];
    let report = verify(&healthy(), &Policies::Read(Vec::new()), &cidrs);
    shows(
        &report,
        &[],
        include_str!("../tests/expected/verify-healthy.txt"),
    );
    assert_eq!(report.outcome, Outcome::Ok);
}

#[test]
fn what_may_not_be_read_is_denied_unless_something_else_is_wrong() {
    let denied = Policies::Denied("forbidden: User \"u\"\ncannot get".to_owned());
    let report = verify(&healthy(), &denied, &[]);
    assert_eq!(report.outcome, Outcome::Denied);
    assert_eq!(verify(&mesh(), &denied, &[]).outcome, Outcome::Degraded);
}

#[test]
fn a_claim_outside_the_cluster_is_found_where_the_cluster_is_known() {
    let nodes = healthy();
    let cidrs = ["--cluster-cidr", "10.244.0.0/22,fd00:10:244::/48"];
    let report = verify(&nodes, &Policies::NotInUse, &cidrs);
    assert_eq!(report.outcome, Outcome::Degraded, "node 4 lies outside");
    shows(&report, &["-o", "name"], "node/node-4\n");
    assert_eq!(
        verify(&nodes, &Policies::NotInUse, &[]).outcome,
        Outcome::Ok
    );
}

/// A mesh in which one node's annotation says something else.
fn annotated(mut nodes: Nodes, of: &str, annotation: &str, value: &str) -> Nodes {
    let node = nodes.nodes.get_mut(&name(of)).expect("a node");
    let annotations = &mut Arc::make_mut(node).annotations;
    annotations.insert(annotation.to_owned(), value.to_owned());
    nodes
}

#[test]
fn an_endpoint_where_pods_are_is_found_without_knowing_the_cluster() {
    let nodes = annotated(healthy(), "node-2", ENDPOINTS, "10.244.1.7:51880");
    let report = verify(&nodes, &Policies::NotInUse, &["-o", "json"]);
    let findings = render(&report.rows, &flags(&["-o", "json"]), Timestamp::UNIX_EPOCH);
    let findings = findings.expect("text");
    assert!(findings.contains("endpoint-in-cluster-cidrs"), "{findings}");
}

#[test]
fn a_node_whose_next_key_is_contested_takes_part_without_it() {
    let key = "FhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhY=";
    let nodes = annotated(healthy(), "node-1", NEXT_PUBLIC_KEY, key);
    let report = status(&nodes, &[]);
    let now = "2026-03-01T11:45:00Z".parse().expect("a time");
    let text = render(&report.rows, &flags(&["--no-headers"]), now).expect("text");
    let states: Vec<&str> = text
        .lines()
        .filter_map(|it| it.split_whitespace().nth(1))
        .collect();
    let contested = "partial:key-contested";
    assert_eq!(states, [contested, contested, "ok", "plaintext"]);
    assert_eq!(report.outcome, Outcome::Degraded);
}
