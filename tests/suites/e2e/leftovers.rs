//! What is left of a cluster: nothing.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{ClusterPlan, until};

use crate::plain_network;
use crate::scene::{self, DEADLINE};

pub(crate) const TESTS: &[Test] = &[
    (
        "everything_of_a_cluster_is_gone_after_its_end",
        everything_of_a_cluster_is_gone_after_its_end,
    ),
    (
        "a_killed_cluster_leaves_nothing_but_groups_that_the_next_one_removes",
        a_killed_cluster_leaves_nothing_but_groups_that_the_next_one_removes,
    ),
];

fn everything_of_a_cluster_is_gone_after_its_end(context: &Context) -> Result<()> {
    let own = std::process::id();
    let mounts = mounts()?;
    let (bed, cluster) = scene::cluster(context, 1, &ClusterPlan::default())?;
    plain_network::connect(&bed, &cluster)?;
    cluster.wait_ready()?;
    scene::pods_everywhere(&cluster)?;
    ensure!(processes_of(own)? > 0, "the check sees no processes");
    ensure!(!groups_of(own)?.is_empty(), "the check sees no groups");
    let folders = entries("/run/podwire-cluster")?;
    ensure!(!folders.is_empty(), "the check sees no disk");
    drop(cluster);
    ensure!(processes_of(own)? == 0, "processes are left");
    let groups = groups_of(own)?;
    ensure!(groups.is_empty(), "groups are left: {groups:?}");
    let left = entries("/run/podwire-cluster")?;
    ensure!(left.is_empty(), "disks are left: {left:?}");
    ensure!(self::mounts()? == mounts, "mounts are left");
    Ok(())
}

fn a_killed_cluster_leaves_nothing_but_groups_that_the_next_one_removes(
    context: &Context,
) -> Result<()> {
    let mut killed = Command::new(env!("CARGO_BIN_EXE_cluster"))
        .args(["--nodes", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .context("starting make cluster's program")?;
    let of = killed.id();
    let output = killed.stdout.take().context("it was asked for")?;
    let mut lines = BufReader::new(output).lines();
    let is_up = lines.any(|line| line.is_ok_and(|line| line.contains("Ctrl-C")));
    let running = processes_of(of)?;
    killed.kill()?;
    killed.wait()?;
    ensure!(is_up, "the cluster did not come up");
    ensure!(running > 0, "the check sees no processes");
    until(DEADLINE, "every process to be gone", || {
        ensure!(processes_of(of)? == 0, "some are left");
        Ok(())
    })?;
    ensure!(!groups_of(of)?.is_empty(), "the check sees no groups");
    let (_bed, _cluster) = scene::cluster(context, 0, &ClusterPlan::default())?;
    let groups = groups_of(of)?;
    ensure!(groups.is_empty(), "groups are left: {groups:?}");
    Ok(())
}

/// What the groups of a process's clusters are called.
fn prefix(process: u32) -> String {
    format!("podwire-cluster-{process}-")
}

/// How many processes are in the groups of a process's clusters.
fn processes_of(process: u32) -> Result<usize> {
    let prefix = prefix(process);
    let processes = fs::read_dir("/proc")?.flatten();
    let groups = processes.map(|one| fs::read_to_string(one.path().join("cgroup")));
    Ok(groups
        .flatten()
        .filter(|groups| groups.contains(&prefix))
        .count())
}

/// The groups of a process's clusters that are there, in every hierarchy.
fn groups_of(process: u32) -> Result<Vec<String>> {
    let prefix = prefix(process);
    let mut found = Vec::new();
    let mut folders = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        // Others' groups come and go.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().starts_with(&prefix) {
                    found.push(entry.path().display().to_string());
                } else {
                    folders.push(entry.path());
                }
            }
        }
    }
    Ok(found)
}

fn entries(folder: &str) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder)?.flatten();
    Ok(entries
        .map(|entry| entry.path().display().to_string())
        .collect())
}

fn mounts() -> Result<usize> {
    Ok(fs::read_to_string("/proc/self/mountinfo")?.lines().count())
}
