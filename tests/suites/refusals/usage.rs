//! Flags and variables that cannot be meant: named, with what is allowed, before anything is done.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::CONVERGENCE;
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Node, Topology, until};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_flag_or_variable_that_cannot_be_meant_is_named_and_nothing_is_done",
        bad_values,
    ),
    (
        "a_variable_that_is_no_setting_is_named_in_the_log",
        unknown_variables,
    ),
];

/// Exit code of a command line that cannot be meant.
const USAGE: i32 = 2;

/// A flag without its dashes, a value, and what is allowed in its place.
const BAD_VALUES: [(&str, &str, &str); 39] = [
    ("node-name", "", "lower-case letters"),
    ("node-name", "Node_1", "lower-case letters"),
    ("node-name", "node 1", "lower-case letters"),
    ("directory", "", "value is required"),
    ("cluster-cidr", "", "ADDRESS/LENGTH"),
    ("cluster-cidr", "pods", "ADDRESS/LENGTH"),
    ("cluster-cidr", "10.244.0.0/33", "ADDRESS/LENGTH"),
    ("cluster-cidr", "10.244.0.0/16,", "ADDRESS/LENGTH"),
    (
        "cluster-cidr",
        "10.244.1.0/16",
        "10.244.0.0/16 is the prefix",
    ),
    ("cluster-cidr", "0.0.0.0/0", "default route"),
    ("cluster-cidr", "::/0", "default route"),
    ("cluster-cidr", "10.244.0.0/16,10.244.0.0/16", "once"),
    ("cluster-cidr", "127.0.0.0/8", "loopback"),
    ("cluster-cidr", "fe80::/10", "link-local"),
    ("mode", "plaintext", "host-network"),
    ("mode", "", "host-network"),
    ("host-network-peers", "no", "refuse"),
    ("allow-endpoint", "192.0.2.12", "ADDRESS/LENGTH"),
    (
        "allow-endpoint",
        "192.0.2.12/24",
        "192.0.2.0/24 is the prefix",
    ),
    ("allow-endpoint", "10.244.9.0/24", "--cluster-cidr"),
    ("lanes", "0", "1 to 8"),
    ("lanes", "9", "1 to 8"),
    ("lanes", "", "1 to 8"),
    ("lanes", "18446744073709551616", "1 to 8"),
    ("listen-port", "0", "1 to 65535"),
    ("listen-port", "65536", "1 to 65535"),
    ("listen-port", "65535", "1 to 65534"),
    ("device", "", "1 to 15"),
    ("device", "podwire/0", "1 to 15"),
    ("device", "podwire%d", "1 to 15"),
    ("device", "sixteen-letters0", "1 to 15"),
    ("device", "all", "\"all\""),
    ("metrics-address", "127.0.0.1", "ADDRESS:PORT"),
    ("metrics-address", "localhost:9587", "ADDRESS:PORT"),
    ("metrics-address", "127.0.0.1:0", "port above 0"),
    ("log", "inof", "error, warn, info, debug, trace"),
    ("log", "", "TARGET=LEVEL"),
    ("log-format", "xml", "json"),
    ("cni-plugin", "macvlan", "ptp"),
];

/// Command lines whose words are wrong, and what is said.
const BAD_WORDS: [(&[&str], &str); 14] = [
    (&[], "Usage"),
    (&["start"], "start"),
    (&["run"], "--node-name"),
    (
        &["run", "--node-name", "a", "--directory", "/d"],
        "--cluster-cidr",
    ),
    (&["run", "--verbose"], "--verbose"),
    (&["run", "now"], "now"),
    (&["status", "--output", "xml"], "json"),
    (&["status", "podwire0"], "podwire0"),
    (&["peers", "-o"], "--output"),
    (&["healthz", "--mode", "auto"], "--mode"),
    (&["cleanup", "--device", "a/b"], "1 to 15"),
    (&["cleanup", "--force"], "--force"),
    (&["cleanup", "--node-name", "A"], "--node-name"),
    (&["cleanup", "--node-name", "a"], "no registry"),
];

/// What a usable command line consists of; nothing of it is there yet.
fn usable(node: &Node, folder: &Path) -> BTreeMap<String, String> {
    let path = |name: &str| folder.join(name).display().to_string();
    [
        ("node-name", node.name().to_owned()),
        ("directory", path("nodes")),
        ("cluster-cidr", "10.244.0.0/16,fd00:10:244::/48".to_owned()),
        ("state-dir", path("state")),
        ("run-dir", path("run")),
        ("lanes", "2".to_owned()),
    ]
    .map(|(flag, value)| (flag.to_owned(), value))
    .into()
}

fn run(
    node: &Node,
    arguments: impl IntoIterator<Item = String>,
    variables: &[(String, String)],
) -> Result<Output> {
    let mut command = Command::new(node.agent_program()?);
    command
        .args(arguments)
        .env_clear()
        .envs(variables.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(node.namespace().spawn(command)?.wait_with_output()?)
}

fn arguments(flags: &BTreeMap<String, String>) -> Vec<String> {
    let flags = flags
        .iter()
        .map(|(flag, value)| format!("--{flag}={value}"));
    std::iter::once("run".to_owned()).chain(flags).collect()
}

/// It has said what is wrong, in the words that count, and has ended as such a thing does.
fn is_refused(output: &Output, words: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(USAGE),
        "it ended with {}: {said}",
        output.status
    );
    for word in words {
        ensure!(
            said.contains(word),
            "{word:?} is not in what it says: {said}"
        );
    }
    Ok(())
}

fn bad_values(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(1).pods_per_node(0))?;
    let node = bed.node(1);
    let folder = bed.folder().join("usage");
    std::fs::create_dir(&folder)?;
    let before = kernel(node)?;
    let usable = usable(node, &folder);
    for (flag, value, allowed) in BAD_VALUES {
        let what = format!("--{flag}={value:?}");
        let dashed = format!("--{flag}");
        let mut flags = usable.clone();
        flags.insert(flag.to_owned(), value.to_owned());
        let output = run(node, arguments(&flags), &[])?;
        is_refused(&output, &[&dashed, allowed]).context(what)?;

        flags.remove(flag);
        let name = format!("PODWIRE_{}", flag.to_uppercase().replace('-', "_"));
        let output = run(node, arguments(&flags), &[(name.clone(), value.to_owned())])?;
        is_refused(&output, &[&dashed, allowed, &name])
            .with_context(|| format!("{name}={value:?}"))?;
    }
    for (words, said) in BAD_WORDS {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let output = run(node, words.clone(), &[])?;
        is_refused(&output, &[said]).with_context(|| format!("{words:?}"))?;
    }
    contradictions(node, &usable)?;
    let made: Vec<_> = std::fs::read_dir(&folder)?.collect();
    ensure!(made.is_empty(), "something was made: {made:?}");
    let after = kernel(node)?;
    ensure!(before == after, "the kernel was changed: {before}\n{after}");
    Ok(())
}

/// Values that are each fine and not together.
fn contradictions(node: &Node, usable: &BTreeMap<String, String>) -> Result<()> {
    let inside = |flag: &str, name: &str| format!("{}{name}", usable[flag]);
    for (flag, value, says) in [
        ("state-dir", inside("directory", ""), "private keys"),
        ("state-dir", inside("directory", "/state"), "private keys"),
        ("run-dir", inside("state-dir", ""), "reboot"),
        (
            "run-dir",
            format!("/{}", "x".repeat(120)),
            "too long for a socket",
        ),
    ] {
        let mut flags = usable.clone();
        flags.insert(flag.to_owned(), value);
        let output = run(node, arguments(&flags), &[])?;
        is_refused(&output, &["--state-dir", says])
            .or_else(|_| is_refused(&output, &["--run-dir", says]))
            .with_context(|| format!("{flags:?}"))?;
    }
    let mut twice = arguments(usable);
    twice.push("--lanes=3".to_owned());
    is_refused(&run(node, twice, &[])?, &["--lanes", "multiple times"])?;
    // A flag has the last word over its variable, which is then not even read.
    let variable = ("PODWIRE_LANES".to_owned(), "nine".to_owned());
    let mut flags = usable.clone();
    flags.insert("device".to_owned(), "a/b".to_owned());
    is_refused(&run(node, arguments(&flags), &[variable])?, &["--device"])
}

/// Everything in the kernel that an agent could have changed.
fn kernel(node: &Node) -> Result<String> {
    let mut text = String::new();
    for (program, arguments) in [
        ("ip", &["-o", "link", "show"][..]),
        ("ip", &["-o", "address", "show"]),
        ("ip", &["-4", "route", "show", "table", "all"]),
        ("ip", &["-6", "route", "show", "table", "all"]),
        ("nft", &["list", "ruleset"]),
    ] {
        text += &node.namespace().output(program, arguments, "")?;
    }
    // A bridge is in an unknown state for its first moments.
    Ok(text.replace("state UNKNOWN", "state UP"))
}

fn unknown_variables(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(1).pods_per_node(0))?;
    let node = bed.node(1);
    node.set_agent_environment("PODWIRE_HOST_NETWORK_PEER", "refuse");
    node.set_agent_environment("PODWIRE_METRICS_SERVICE_HOST", "10.96.0.7");
    node.edit_manifest(|_| ())?;
    node.start_agent()?;
    until(CONVERGENCE, "the variable to be named", || {
        let log = node.log();
        ensure!(
            log.contains("PODWIRE_HOST_NETWORK_PEER") && log.contains("no settings"),
            "{log}"
        );
        ensure!(
            !log.contains("SERVICE_HOST"),
            "a Service is no setting: {log}"
        );
        Ok(())
    })?;
    node.wait_ready()
}
