//! `podwire-agent cleanup` removes what is ours, and nothing else.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Output;

use anyhow::{Result, ensure};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Node, Topology, matrix};

use podwire_testbed::agent_view::{program, routes, run_program};

pub(crate) const TESTS: &[Test] = &[("cleanup_removes_what_is_ours_and_nothing_else", cleanup)];

/// What another program may have on a node, as like ours as can be.
const FOREIGN_LINES: [&str; 9] = [
    "link add podwire1 type veth peer name podwire2",
    "link set podwire2 up",
    "address add 10.250.0.1/32 dev podwire1",
    "link set podwire1 up",
    "route add 10.251.0.0/24 dev podwire1 proto 120 metric 1024",
    "route add unreachable 10.244.0.0/16 proto static metric 4000001",
    "route add fd00:10:251::/64 dev podwire1 proto 118",
    "route add 10.251.0.0/24 dev podwire1 table 119",
    "rule add priority 120 to 10.251.0.0/16 lookup 119 protocol 118",
];

const FOREIGN_TABLES: &str = "table ip podwire {\n  chain output {\n    \
    type filter hook output priority 10; policy accept;\n    counter accept\n  }\n}\n\
    table inet podwired {\n  set cluster { type ipv4_addr; }\n}\n";

/// Everything on a node that cleanup may change, one line each.
fn configuration(node: &Node) -> Result<BTreeSet<String>> {
    let mut lines = BTreeSet::new();
    let listings: [(&str, &[&str]); 7] = [
        ("ip", &["-o", "link", "show"]),
        ("ip", &["-o", "address", "show"]),
        ("ip", &["-4", "route", "show", "table", "all"]),
        ("ip", &["-6", "route", "show", "table", "all"]),
        ("ip", &["-4", "rule", "show"]),
        ("ip", &["-6", "rule", "show"]),
        ("nft", &["-s", "list", "ruleset"]),
    ];
    for (program, arguments) in listings {
        let text = node.namespace().output(program, arguments, "")?;
        lines.extend(text.lines().map(|line| {
            // A bridge is in an unknown state for its first moments.
            format!(
                "{program}: {}",
                line.trim().replace("state UNKNOWN", "state UP")
            )
        }));
    }
    Ok(lines)
}

fn run_cleanup(node: &Node, program: &PathBuf) -> Result<Output> {
    let state = node.state_dir().as_os_str();
    run_program(
        node,
        program,
        &[OsStr::new("cleanup"), OsStr::new("--state-dir"), state],
    )
}

fn cleanup(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(1))?;
    let node = bed.node(1);
    node.namespace().ip(&FOREIGN_LINES.map(str::to_owned))?;
    node.namespace().nft(FOREIGN_TABLES)?;
    let before = configuration(node)?;
    bed.start_agents()?;
    matrix::all_reached(&bed.matrix().run())?;
    ensure!(
        !routes(node)?.is_empty(),
        "no route of ours: there is nothing to clean up"
    );
    let program = program(node)?;

    let running = run_cleanup(node, &program)?;
    ensure!(
        !running.status.success(),
        "cleaned up under a running agent"
    );
    ensure!(
        !routes(node)?.is_empty(),
        "it refused, and removed routes all the same"
    );

    node.stop_agent()?;
    let key_files = files(node)?;
    ensure!(!key_files.is_empty(), "no file in the state folder");
    for run in ["first", "second"] {
        let output = run_cleanup(node, &program)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "the {run} cleanup ended with {}: {said}",
            output.status
        );
        let after = configuration(node)?;
        let missing: Vec<_> = before.difference(&after).collect();
        let left: Vec<_> = after.difference(&before).collect();
        ensure!(
            missing.is_empty(),
            "the {run} cleanup removed what is not ours: {missing:?}"
        );
        ensure!(left.is_empty(), "the {run} cleanup left behind: {left:?}");
    }
    ensure!(files(node)? == key_files, "the state folder changed");
    // The node comes back under its old key.
    node.start_agent()?;
    node.wait_ready()?;
    matrix::all_reached(&bed.matrix().run())
}

/// The files of the state folder and their contents, but for the lock: that names a process.
fn files(node: &Node) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(node.state_dir())? {
        let path = entry?.path();
        if path.is_file() && !path.ends_with("lock") {
            let contents = std::fs::read(&path)?;
            files.push((path, contents));
        }
    }
    files.sort();
    Ok(files)
}
