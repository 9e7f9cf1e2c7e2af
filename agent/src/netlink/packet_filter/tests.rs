//! Rules as nft(8) makes them, read from the kernel, in network namespaces of their own.

use podwire_core::packet_filter::{Protocol, Sample, dropping};

use super::super::tests::namespace::{Namespace, nft};
use super::*;

fn sample() -> Sample {
    Sample {
        hooks: vec![Hook::Prerouting, Hook::Forward, Hook::Postrouting],
        incoming: Some("cni0".to_owned()),
        outgoing: Some("podwire0".to_owned()),
        source: "10.244.1.254".parse().expect("address"),
        destination: "10.244.2.254".parse().expect("address"),
        protocol: Protocol::Tcp,
        source_port: 32768,
        destination_port: 9,
    }
}

/// The same for texts beyond what a command line takes.
fn nft_file(text: &str) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&file, text).expect("written");
    nft(&format!("include \"{}\"", file.path().display()));
}

/// What drops the sample.
fn found() -> Vec<String> {
    found_for(&sample())
}

fn found_for(sample: &Sample) -> Vec<String> {
    let ruleset = read().expect("read").expect("within bounds");
    let dropped = dropping(&ruleset, sample).into_iter();
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
        nft("add counter inet other seen");
        nft("add quota inet other much { over 1 mbytes }");
        nft("add limit inet other often { rate 10/second }");
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
        "meta mark & 0x4000 == 0x4000 accept",
        "ct mark 7 accept",
        "quota name much accept",
        "limit name often accept",
        "synproxy mss 1460 wscale 7",
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
        "counter name seen ct mark set 7",
        "quota name much drop",
        "limit name often drop",
        "meta mark 7 drop",
        "counter log prefix \"seen \"",
        "limit rate 10/second drop",
        "meta mark set 7 return",
        "notrack",
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
        "meta mark 7 drop",
        "limit name often drop",
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
        chain("inet podwire_standby", "filter", "forward");
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

#[test]
fn what_this_node_sends_meets_its_own_hook_also_where_routes_are_looked_up_again() {
    let sample = Sample {
        hooks: vec![Hook::Output, Hook::Postrouting],
        incoming: None,
        ..sample()
    };
    Namespace::new().run(|| {
        nft("add table ip other");
        let chain = |name: &str, kind: &str| {
            let hook = format!("{{ type {kind} hook output priority 0; policy drop; }}");
            nft(&format!("add chain ip other {name} {hook}"));
        };
        chain("first", "filter");
        chain("second", "route");
        let expected = ["ip other first by policy", "ip other second by policy"];
        assert_eq!(found_for(&sample), expected);
        nft("add rule ip other second oifname \"podwire0\" accept");
        assert_eq!(found_for(&sample), expected[..1]);
        assert_eq!(found(), [""; 0]);
    });
}

#[test]
fn a_table_that_is_switched_off_drops_nothing() {
    Namespace::new().run(|| {
        nft("add table ip other");
        nft("add chain ip other forward { type filter hook forward priority 0; policy drop; }");
        assert_eq!(found(), ["ip other forward by policy"]);
        nft("add table ip other { flags dormant; }");
        assert_eq!(found(), [""; 0]);
        nft("add table ip other");
        assert_eq!(found(), ["ip other forward by policy"]);
    });
}

#[test]
fn the_state_of_a_connection_is_not_known_after_a_rule_that_may_switch_tracking_off() {
    let with = |priority: i32, rule: &str| {
        Namespace::new().run(|| {
            nft("add table ip other");
            nft(&format!(
                "add chain ip other raw {{ type filter hook prerouting priority {priority}; }}"
            ));
            nft(&format!("add rule ip other raw {rule}"));
            nft("add chain ip other forward { type filter hook forward priority 0; policy drop; }");
            nft("add rule ip other forward ct state established accept");
            found()
        })
    };
    let policy = ["ip other forward by policy"];
    assert_eq!(with(-300, "notrack"), [""; 0]);
    assert_eq!(with(-300, "fib daddr type unicast notrack"), [""; 0]);
    assert_eq!(with(-300, "tcp dport 53 notrack"), policy);
    assert_eq!(with(-300, "counter"), policy);
    assert_eq!(with(-150, "notrack"), policy);
}

#[test]
fn of_more_than_is_read_nothing_is_said() {
    let too_much = || read().expect("read").expect_err("too much").to_string();
    let forward = "add table ip other\n\
                   add chain ip other forward { type filter hook forward priority 0; }\n";
    let rules = |count| "add rule ip other forward counter\n".repeat(count);
    Namespace::new().run(|| {
        nft_file(&(forward.to_owned() + &rules(RULES_MAX)));
        assert_eq!(read().expect("read").expect("within").len(), 1);
        nft_file(&rules(1));
        assert_eq!(too_much(), "more than 5000 rules");
    });
    Namespace::new().run(|| {
        let elements = |count: u32| {
            let element = |n: u32| std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string();
            let elements: Vec<String> = (0..count).map(element).collect();
            let elements = elements.join(",");
            nft_file(&format!(
                "add rule ip other forward ip saddr {{ {elements} }} drop"
            ));
        };
        nft_file(forward);
        elements(9_000);
        read().expect("read").expect("within");
        elements(1_001);
        assert_eq!(too_much(), "more than 10000 elements of sets");
    });
    Namespace::new().run(|| {
        let rule = "add rule ip other forward tcp dport { 1, 2 } drop\n";
        nft_file(&(forward.to_owned() + &rule.repeat(SETS_MAX + 1)));
        assert_eq!(too_much(), "more than 1000 sets");
    });
    Namespace::new().run(|| {
        let others = (1..CHAINS_MAX).map(|n| format!("add chain ip other c{n}\n"));
        nft_file(&(forward.to_owned() + &others.collect::<String>()));
        assert_eq!(read().expect("read").expect("within").len(), 1);
        nft("add chain ip other one_more");
        assert_eq!(too_much(), "more than 20000 chains");
    });
}

#[test]
fn chains_that_translate_are_not_read_however_many() {
    let many = (0..2_000).map(|n| format!("add chain ip nat c{n}\n"));
    let jumps = (0..2_000).map(|n| {
        let port = n + 1;
        format!("add rule ip nat prerouting tcp dport {port} jump c{n}\n")
    });
    let rules = (0..6_000).map(|n| format!("add rule ip nat c{} counter\n", n % 2_000));
    let base = "add table ip nat\n\
                add chain ip nat prerouting { type nat hook prerouting priority -100; }\n";
    let text: String = many.chain(jumps).chain(rules).collect();
    Namespace::new().run(|| {
        nft_file(&(base.to_owned() + &text));
        assert!(read().expect("read").expect("within").is_empty());
    });
}
