//! The agent's process, with a script in its place.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::suite::Context;
use podwire_testbed::{Scratch, Testbed, Topology, until};

/// A script in the agent's place.
fn script(folder: &Scratch, text: &str) -> Result<PathBuf> {
    let path = folder.path().join("agent");
    fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

pub(crate) fn hidden_tun(context: &Context) -> Result<()> {
    let folder = Scratch::new()?;
    let topology = Topology::new().nodes(2).pods_per_node(0).without_tun(1);
    let topology = topology.agent(script(&folder, "test -e /dev/net/tun && echo there")?);
    let bed = context.testbed(&topology)?;
    for node in bed.nodes() {
        node.start_agent()?;
        let status = node.wait_agent_end(Duration::from_secs(20))?;
        ensure!(
            status.success() == (node.number() == 2),
            "{}: {status}",
            node.name()
        );
    }
    ensure!(bed.node(2).log().trim() == "there", "{}", bed.node(2).log());
    Ok(())
}

pub(crate) fn agent_process(context: &Context) -> Result<()> {
    let folder = Scratch::new()?;
    let program = script(
        &folder,
        "case $1 in\n\
         healthz) test -e $3/ready;;\n\
         status) echo '{\"from\": \"status\"}';;\n\
         run) while [ $# -gt 0 ]; do [ $1 = --run-dir ] && touch $2/ready; shift; done\n\
              echo 2026-01-01T00:00:00Z ERROR a declared one >&2; exec sleep 1000;;\n\
         esac",
    )?;
    let topology = Topology::new().nodes(2).pods_per_node(0).agent(program);
    let bed = context.mesh(&topology)?;
    let node = bed.node(1);
    ensure!(node.status_json()?["from"] == "status", "another status");
    let manifest = fs::read_to_string(bed.directory().manifest_path("node-1"))?;
    ensure!(manifest.contains("podCIDRs: [\"10.244.1.0/24\", \"fd00:10:244:1::/64\"]"));
    let error = bed
        .check()
        .err()
        .context("an ERROR passed the check")?
        .to_string();
    ensure!(
        error.contains("node-2 logged: 2026-01-01T00:00:00Z ERROR a declared one"),
        "{error}"
    );
    explains_itself(&bed)?;
    bed.expect_error("a declared one");
    bed.check()?;
    let first = node.agent_pid()?;
    ensure!(node.stop_agent()?.signal() == Some(15), "SIGTERM");
    ensure!(
        node.start_agent().is_ok() && node.agent_pid()? != first,
        "started again"
    );
    ensure!(node.start_agent().is_err(), "two agents on one node");
    ensure!(node.kill_agent()?.signal() == Some(9), "SIGKILL");
    bed.check()?;
    // One that ends by itself is a fault.
    node.start_agent()?;
    Command::new("kill")
        .arg(node.agent_pid()?.to_string())
        .status()?;
    until(Duration::from_secs(20), "its end", || {
        ensure!(node.agent_pid().is_err(), "it runs");
        Ok(())
    })?;
    let error = bed
        .check()
        .err()
        .context("a dead agent passed the check")?
        .to_string();
    ensure!(
        error.contains("the agent of node-1 ended: killed by signal 15"),
        "{error}"
    );
    node.wait_agent_end(Duration::ZERO)?;
    Ok(())
}

/// A failure message says where the logs are, what they end with, and how to look inside.
fn explains_itself(bed: &Testbed) -> Result<()> {
    let text = bed.explain();
    let folder = text
        .lines()
        .find_map(|line| line.strip_prefix("logs are kept in "));
    let folder = PathBuf::from(folder.context("no folder")?);
    let log = fs::read_to_string(folder.join("logs/node-2.1.log"))?;
    ensure!(log.contains("ERROR a declared one"), "{log}");
    ensure!(
        folder.join("registry/node-1.yaml").is_file(),
        "no manifest in {}",
        folder.display()
    );
    fs::remove_dir_all(folder)?;
    ensure!(
        text.contains("ERROR a declared one"),
        "no log lines in {text}"
    );
    let path = bed.node(2).namespace().path();
    ensure!(
        text.contains(&format!("--net={}", path.display())),
        "no way in: {text}"
    );
    Ok(())
}
