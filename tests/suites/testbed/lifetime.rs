//! Nothing is left of a testbed, however it ends.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::suite::Context;
use podwire_testbed::{Testbed, Topology, until};

/// The kernel's numbers of all network namespaces of a testbed.
fn namespaces(bed: &Testbed) -> Result<BTreeSet<u64>> {
    let mut spaces = vec![bed.underlay().namespace(), bed.underlay().outside()];
    for node in bed.nodes() {
        spaces.push(node.namespace());
        spaces.extend(node.pods().iter().map(|pod| pod.host().namespace()));
    }
    spaces
        .iter()
        .map(|space| Ok(fs::metadata(space.path())?.ino()))
        .collect()
}

/// Which of them any thread of the machine is in, or any descriptor of this process keeps.
fn still_held(namespaces: &BTreeSet<u64>) -> Result<BTreeSet<u64>> {
    let mut held = BTreeSet::new();
    let mut look = |path: PathBuf| {
        // Threads and descriptors may go while they are looked at.
        if let Ok(metadata) = fs::metadata(path)
            && namespaces.contains(&metadata.ino())
        {
            held.insert(metadata.ino());
        }
    };
    for process in fs::read_dir("/proc")?.flatten() {
        let threads = fs::read_dir(process.path().join("task"))
            .into_iter()
            .flatten()
            .flatten();
        threads.for_each(|thread| look(thread.path().join("ns/net")));
    }
    fs::read_dir("/proc/self/fd")?
        .flatten()
        .for_each(|descriptor| look(descriptor.path()));
    Ok(held)
}

fn all_gone(namespaces: &BTreeSet<u64>) -> Result<()> {
    until(
        Duration::from_secs(20),
        "every namespace to be gone",
        || {
            let held = still_held(namespaces)?;
            ensure!(
                held.is_empty(),
                "{} of {} are held",
                held.len(),
                namespaces.len()
            );
            Ok(())
        },
    )
}

pub(crate) fn gone_after_drop(_: &Context) -> Result<()> {
    // Not the context's: that would keep it.
    let bed = Topology::new().nodes(2).start("to be dropped")?;
    let mut sleep = Command::new("sleep");
    sleep.arg("1000");
    let mut child = bed.pod(1, 1).host().namespace().spawn(sleep)?;
    let namespaces = namespaces(&bed)?;
    ensure!(
        namespaces.len() == 2 + 2 * 3,
        "{} namespaces",
        namespaces.len()
    );
    ensure!(
        still_held(&namespaces)? == namespaces,
        "the search does not find what is there"
    );
    let folder = bed.folder();
    drop(bed);
    ensure!(
        child.wait()?.signal() == Some(9),
        "the child outlived its namespace"
    );
    ensure!(
        !folder.join("registry").exists(),
        "the folder is still there"
    );
    all_gone(&namespaces)
}

/// Set for a copy of this program that shall be killed.
pub(crate) const VICTIM_VARIABLE: &str = "TESTBED_VICTIM";

pub(crate) fn gone_after_a_kill(_: &Context) -> Result<()> {
    let mut victim = Command::new(std::env::current_exe()?)
        .env(VICTIM_VARIABLE, "1")
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(victim.stdout.take().context("a pipe")?).read_line(&mut line)?;
    let namespaces: BTreeSet<u64> = line
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    ensure!(namespaces.len() == 2 + 3 * 3, "the victim said {line:?}");
    ensure!(
        still_held(&namespaces)? == namespaces,
        "the victim holds nothing"
    );
    victim.kill()?;
    victim.wait()?;
    all_gone(&namespaces)
}

/// The victim: a testbed with a child in each pod, until it is killed.
pub(crate) fn victim() -> Result<()> {
    podwire_testbed::sandbox::enter()?;
    let bed = Topology::new().start("victim")?;
    let mut children = Vec::new();
    for pod in bed.pods() {
        let mut sleep = Command::new("sleep");
        sleep.arg("1000").stdout(Stdio::null());
        children.push(pod.host().namespace().spawn(sleep)?);
    }
    let numbers: Vec<_> = namespaces(&bed)?.iter().map(u64::to_string).collect();
    writeln!(std::io::stdout(), "{}", numbers.join(" "))?;
    children
        .iter_mut()
        .try_for_each(|child| child.wait().map(drop))?;
    Ok(())
}
