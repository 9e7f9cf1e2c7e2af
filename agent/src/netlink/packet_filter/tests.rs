//! Rules as nft(8) makes them, read from the kernel, in network namespaces of their own.

use podwire_core::packet_filter::{Protocol, Sample, dropping};

use super::super::tests::namespace::{Namespace, nft};
use super::*;

fn sample() -> Sample {
    Sample {
        hooks: vec![Hook::Prerouting, Hook::Forward, Hook::Postrouting],
        incoming: "cni0".to_owned(),
        outgoing: Some("podwire0".to_owned()),
        source: "10.244.1.254".parse().expect("address"),
        destination: "10.244.2.254".parse().expect("address"),
        protocol: Protocol::Tcp,
        source_port: 32768,
        destination_port: 9,
    }
}

/// What drops the sample.
fn found() -> Vec<String> {
    let ruleset = read().expect("read");
    let dropped = dropping(&ruleset, &sample()).into_iter();
    let words = |dropped: podwire_core::packet_filter::Dropped| match dropped.rule {
        Some((chain, number)) => format!("{} by {chain} {number}", dropped.base),
        None => format!("{} by policy", dropped.base),
    };
    dropped.map(words).collect()
}

/// The same with these rules in a chain of that policy.
fn found_with(policy: &str, rules: &[&str]) -> Vec<String> {
    let namespace = Namespace::new();
    namespace.run(|| {
        nft("add table inet other");
        nft("add set inet other named { type ipv4_addr; }");
        nft("add chain inet other zone");
        nft("add rule inet other zone ct state established accept");
        nft("add rule inet other zone counter reject");
        nft(&format!(
            "add chain inet other forward {{ type filter hook forward priority 0; policy {policy}; }}"
        ));
        for rule in rules {
            nft(&format!("add rule inet other forward {rule}"));
        }
        found()
    })
}

const POLICY: &str = "inet other forward by policy";

#[test]
fn a_policy_that_drops_is_found_unless_a_rule_surely_or_maybe_accepts() {
    for rule in [
        "iifname \"cni0\" accept",
        "iifname \"cni*\" oifname \"podwire0\" accept",
        "ip saddr 10.244.0.0/16 accept",
        "ip daddr 10.244.2.0/23 counter accept",
        "ip saddr { 10.244.0.0/16, 192.0.2.0/24 } accept",
        "meta l4proto tcp ct state new accept",
        "tcp dport 1-1023 accept",
        "tcp dport { 9, 80 } accept",
        "iifname vmap { \"cni0\" : accept, \"eth0\" : drop }",
        // What cannot be told, may be.
        "fib daddr type unicast accept",
        "ip saddr @named accept",
        "limit rate 10/second accept",
        "ip saddr . tcp dport { 10.244.1.254 . 9 } accept",
        "ip saddr . tcp dport { 10.244.0.0/16 . 1-1023 } accept",
    ] {
        assert_eq!(found_with("drop", &[rule]), [""; 0], "{rule}");
    }
    for rule in [
        "ct state established,related accept",
        "ct state { established, related } accept",
        "ct state vmap { established : accept, related : accept, invalid : drop }",
        "ct status dnat accept",
        "iifname \"eth0\" accept",
        "oifname \"docker0\" accept",
        "ip saddr != 10.244.0.0/16 accept",
        "ip saddr { 10.245.0.0/16, 192.0.2.0/24 } accept",
        "ip saddr 10.245.0.0/16 fib daddr type local accept",
        "udp dport 9 accept",
        "meta nfproto ipv6 accept",
        "meta mark & 0x4000 == 0x4000 accept",
        "counter log prefix \"seen \"",
        "limit rate 10/second drop",
        "meta mark set 7 return",
    ] {
        assert_eq!(found_with("drop", &[rule]), [POLICY], "{rule}");
    }
}

#[test]
fn a_rule_that_drops_is_found_by_its_chain_and_number() {
    for (rule, expected) in [
        (
            "ip saddr 10.244.0.0/16 drop",
            "inet other forward by forward 2",
        ),
        (
            "oifname \"podwire0\" reject",
            "inet other forward by forward 2",
        ),
        ("iifname \"cni0\" goto zone", "inet other forward by zone 2"),
        (
            "iifname vmap { \"cni0\" : jump zone }",
            "inet other forward by zone 2",
        ),
        (
            "ip saddr & 255.255.254.0 == 10.244.0.0 drop",
            "inet other forward by forward 2",
        ),
    ] {
        let rules = ["ct state established accept", rule];
        assert_eq!(found_with("accept", &rules), [expected], "{rule}");
    }
    for rule in [
        "ip saddr 10.245.0.0/16 drop",
        "ip saddr @named drop",
        "tcp dport 80 drop",
    ] {
        assert_eq!(found_with("accept", &[rule]), [""; 0], "{rule}");
    }
}

#[test]
fn our_own_table_and_chains_that_translate_are_not_looked_at_and_other_hooks_are() {
    Namespace::new().run(|| {
        let chain = |table: &str, kind: &str, hook: &str| {
            nft(&format!("add table {table}"));
            nft(&format!(
                "add chain {table} {hook} {{ type {kind} hook {hook} priority 0; policy drop; }}"
            ));
        };
        chain("inet podwire", "filter", "forward");
        chain("ip other", "nat", "postrouting");
        chain("ip6 other", "filter", "forward");
        chain("ip other", "filter", "input");
        assert_eq!(found(), [""; 0]);
        chain("ip podwire", "filter", "forward");
        chain("ip other", "filter", "prerouting");
        let expected = [
            "ip other prerouting by policy",
            "ip podwire forward by policy",
        ];
        assert_eq!(found(), expected);
        let before = generation().expect("asked");
        assert_eq!(generation().expect("asked"), before);
        nft("flush ruleset");
        assert_ne!(generation().expect("asked"), before);
        assert_eq!(found(), [""; 0]);
    });
}
