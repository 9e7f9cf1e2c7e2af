use clap::Parser as _;

use super::*;
use crate::args::{Command, CommandLine};

/// The configuration of `podwire-agent run` with these flags, on four cores.
fn config(flags: &str) -> Result<Config, ConfigError> {
    configured(&format!("--directory /nodes {flags}"), false)
}

fn configured(flags: &str, is_in_pod: bool) -> Result<Config, ConfigError> {
    let words = ["podwire-agent", "run"];
    let line = CommandLine::parse_from(words.into_iter().chain(flags.split(' ')));
    let Command::Run(args) = line.command else {
        panic!("not run")
    };
    Config::new(*args, 4, is_in_pod)
}

#[test]
fn the_registry_is_the_one_that_is_named_or_that_of_the_pod() {
    let registry = |flags: &str, is_in_pod| {
        let flags = format!("--node-name node-1 --cluster-cidr 10.244.0.0/16{flags}");
        configured(&flags, is_in_pod).map(|config| config.registry)
    };
    let found = registry("", false);
    assert!(matches!(found, Err(ConfigError::NoRegistry)), "{found:?}");
    let own = Access::default();
    let found = registry("", true);
    assert!(
        matches!(&found, Ok(RegistryConfig::Kubernetes(access)) if *access == own),
        "{found:?}"
    );
    let found = registry(
        " --kubeconfig /k --api-server https://192.0.2.1:6443",
        false,
    );
    assert!(
        matches!(&found, Ok(RegistryConfig::Kubernetes(access))
            if access.kubeconfig.as_deref() == Some(Path::new("/k"))),
        "{found:?}"
    );
    let found = registry(" --api-server 192.0.2.1", true);
    let error = found.expect_err("no URL").to_string();
    assert!(
        error.contains("--api-server") && error.contains("https://"),
        "{error}"
    );
}

#[test]
fn a_cleanup_removes_the_record_of_a_node_that_is_named() {
    let cleanup = |flags: &[&str], is_in_pod| {
        let words = ["podwire-agent", "cleanup"].iter().chain(flags);
        let Command::Cleanup(args) = CommandLine::parse_from(words).command else {
            panic!("not cleanup")
        };
        CleanupConfig::new(args, is_in_pod)
    };
    let config = cleanup(&[], true).expect("valid");
    assert!(config.record.is_none() && !config.remove_state);
    let config = cleanup(&["--node-name", "node-1", "--remove-state"], true).expect("valid");
    let (name, registry) = config.record.expect("a record");
    assert_eq!(name.as_str(), "node-1");
    assert!(matches!(registry, RegistryConfig::Kubernetes(access) if access == Access::default()));
    assert!(config.remove_state);
    let found = cleanup(&["--node-name", "node-1"], false);
    assert!(matches!(found, Err(ConfigError::NoRegistry)), "{found:?}");
}

#[test]
fn the_defaults_are_those_of_the_design() {
    let config =
        config("--node-name node-1 --cluster-cidr 10.244.0.0/16,fd00:10:244::/48").expect("valid");
    assert_eq!(config.listen_port, 51880);
    assert_eq!(config.device, "podwire0");
    assert_eq!(config.lanes, 2);
    assert_eq!(config.policy.cluster_cidrs.len(), 2);
    assert_eq!(config.policy.host_network_peers, HostNetworkPeers::Allow);
}

#[test]
fn a_node_that_must_encrypt_refuses_plaintext_peers_unless_it_is_told_to_allow_them() {
    let peers = |flags: &str| {
        let config = config(&format!(
            "--node-name node-1 --cluster-cidr 10.244.0.0/16 {flags}"
        ));
        config.expect("valid").policy.host_network_peers
    };
    assert_eq!(peers("--mode encrypted"), HostNetworkPeers::Refuse);
    assert_eq!(peers("--mode auto"), HostNetworkPeers::Allow);
    assert_eq!(peers("--mode host-network"), HostNetworkPeers::Allow);
    for (given, meant) in [
        ("allow", HostNetworkPeers::Allow),
        ("refuse", HostNetworkPeers::Refuse),
    ] {
        for mode in ["encrypted", "auto"] {
            let flags = format!("--mode {mode} --host-network-peers {given}");
            assert_eq!(peers(&flags), meant, "{flags}");
        }
    }
}

#[test]
fn lanes_are_half_the_cores_within_bounds() {
    let lanes: Vec<usize> = [1, 2, 3, 4, 8, 64].into_iter().map(lanes_for).collect();
    assert_eq!(lanes, [1, 2, 2, 2, 4, 8]);
}

#[test]
fn each_bad_value_is_named_with_what_is_allowed() {
    let cases = [
        (
            "--cluster-cidr 10.244.1.0/16",
            "10.244.0.0/16 is the prefix",
        ),
        ("--cluster-cidr 0.0.0.0/0", "default route"),
        ("--cluster-cidr 10.244.0.0/16,10.244.3.0/24", "overlap"),
        ("--cluster-cidr 127.0.0.0/16", "loopback"),
        ("--cluster-cidr 128.0.0.0/1", "link-local"),
        ("--cluster-cidr 240.0.0.0/8", "multicast"),
        ("--cluster-cidr ::/1", "loopback"),
        ("--cluster-cidr ::ffff:10.244.0.0/112", "IPv4-mapped"),
        (
            "--cluster-cidr 10.244.0.0/16 --lanes 8 --listen-port 65530",
            "1 to 65528",
        ),
        ("--cluster-cidr 10.244.0.0/16 --device a/b", "letters"),
        ("--cluster-cidr 10.244.0.0/16 --device all", "\"all\""),
        (
            "--cluster-cidr 10.244.0.0/16 --device sixteen-letters0",
            "15",
        ),
        (
            "--cluster-cidr 10.244.0.0/16 --allow-endpoint 192.0.2.1/24",
            "192.0.2.0/24 is the prefix",
        ),
        (
            "--cluster-cidr 10.244.0.0/16 --allow-endpoint 10.244.7.0/24",
            "where nodes are",
        ),
        (
            "--cluster-cidr 10.244.0.0/16 --state-dir /nodes/state",
            "private keys",
        ),
        (
            "--cluster-cidr 10.244.0.0/16 --state-dir /a --run-dir /a",
            "reboot",
        ),
        (
            "--cluster-cidr 10.244.0.0/16 --run-dir /a --cni-configuration-directory /a",
            "/etc/cni/net.d",
        ),
    ];
    for (flags, expected) in cases {
        let error = config(&format!("--node-name node-1 {flags}")).expect_err("refused");
        assert!(error.to_string().contains(expected), "{flags}: {error}");
    }
    let long = format!("/{}", "x".repeat(200));
    let flags = format!("--node-name node-1 --cluster-cidr 10.244.0.0/16 --run-dir {long}");
    let error = config(&flags).expect_err("refused");
    assert!(error.to_string().contains("96 bytes"), "{error}");
    let error = config("--node-name Node_1 --cluster-cidr 10.244.0.0/16").expect_err("refused");
    assert!(error.to_string().contains("--node-name"), "{error}");
}
