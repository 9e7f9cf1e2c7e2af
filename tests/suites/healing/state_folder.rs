//! A state folder that cannot be used keeps the node closed and is told with its remedy; one that
//! fails a running agent costs no packet.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, status, wait_whole};
use podwire_testbed::kernel_state::{KernelState, guard_table};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{IpVersion, Node, Protocol, Scratch, Testbed, Topology, matrix, until};

use crate::reboot::{reboot, start_pods};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_state_folder_that_cannot_be_used_keeps_the_node_closed_and_names_the_remedy",
        unusable,
    ),
    (
        "a_state_folder_that_becomes_full_or_read_only_costs_no_packet_and_is_told",
        fails_a_running_agent,
    ),
];

/// Room for an agent's files and their successors, and little more.
const DISK_BYTES: u32 = 256 << 10;

/// The files of a node, by name.
type Files = BTreeMap<String, Vec<u8>>;

fn read_files(folder: &Path) -> Result<Files> {
    let mut files = Files::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        files.insert(name, fs::read(entry.path())?);
    }
    Ok(files)
}

/// Writes files as an agent does: for nobody else to read.
fn write_files(folder: &Path, files: &Files) -> Result<()> {
    for (name, contents) in files {
        let path = folder.join(name);
        fs::write(&path, contents).with_context(|| format!("writing {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// Puts another folder in the place of the node's own, at once.
fn put_in_place(node: &Node, folder: &Path) -> Result<()> {
    let (own, next) = (node.state_dir(), node.state_dir().with_extension("next"));
    symlink(folder, &next)?;
    if own.is_symlink() {
        return Ok(fs::rename(&next, own)?);
    }
    fs::remove_dir_all(own)?;
    Ok(fs::rename(&next, own)?)
}

/// Writes until there is no room left.
fn fill(folder: &Path) -> Result<()> {
    let block = vec![0; 4096];
    for number in 0..DISK_BYTES / 4096 + 1 {
        if fs::write(folder.join(format!("ballast{number}")), &block).is_err() {
            return Ok(());
        }
    }
    bail!("the disk has more room than it should")
}

fn make_room(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.to_string_lossy().contains("ballast") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// What is done to a good folder, and what the agent says of it.
struct Case {
    what: &'static str,
    spoil: fn(&Path) -> Result<()>,
    said: &'static [&'static str],
}

fn cut(path: &Path) -> Result<()> {
    let whole = fs::read(path)?;
    Ok(fs::write(path, &whole[..whole.len() / 2])?)
}

fn garbage(path: &Path) -> Result<()> {
    Ok(fs::write(path, b"\xff\x00garbage")?)
}

const DAMAGED: &[&str] = &[
    "is damaged: restore it from a backup",
    "to begin with new keys",
];
const NEWER: &[&str] = &["newer podwire-agent (version 99", "start that one"];
const MISSING: &[&str] = &["is missing", "restore it from a backup"];

const CASES: [(&str, Case); 9] = [
    (
        "keys",
        Case {
            what: "truncated",
            spoil: cut,
            said: DAMAGED,
        },
    ),
    (
        "keys",
        Case {
            what: "garbage",
            spoil: garbage,
            said: DAMAGED,
        },
    ),
    (
        "keys",
        Case {
            what: "of a future version",
            spoil: |path| Ok(fs::write(path, "podwire-keys 99\n")?),
            said: NEWER,
        },
    ),
    (
        "keys",
        Case {
            what: "readable by others",
            spoil: |path| Ok(fs::set_permissions(path, Permissions::from_mode(0o644))?),
            said: &["others may read", "with mode 600"],
        },
    ),
    (
        "keys",
        Case {
            what: "missing",
            spoil: |path| Ok(fs::remove_file(path)?),
            said: MISSING,
        },
    ),
    (
        "history.json",
        Case {
            what: "truncated",
            spoil: cut,
            said: DAMAGED,
        },
    ),
    (
        "history.json",
        Case {
            what: "garbage",
            spoil: garbage,
            said: DAMAGED,
        },
    ),
    (
        "history.json",
        Case {
            what: "of a future version",
            spoil: |path| Ok(fs::write(path, "{\"version\": 99}")?),
            said: NEWER,
        },
    ),
    (
        "history.json",
        Case {
            what: "missing",
            spoil: |path| Ok(fs::remove_file(path)?),
            said: MISSING,
        },
    ),
];

fn mesh(context: &Context) -> Result<std::sync::Arc<Testbed>> {
    let bed = context.mesh(&Topology::new().nodes(2).pods_per_node(1))?;
    wait_whole(&bed)?;
    Ok(bed)
}

fn unusable(context: &Context) -> Result<()> {
    let bed = mesh(context)?;
    let node = bed.node(1);
    let whole = KernelState::of(node)?;
    let key = status(node)?.public_key;
    until(CONVERGENCE, "the last known mesh to be kept", || {
        let kept = node.state_dir().join("snapshot.json").exists();
        ensure!(kept, "no snapshot");
        Ok(())
    })?;
    node.kill_agent()?;
    let good = read_files(node.state_dir())?;
    for (file, case) in &CASES {
        let what = format!("{file} {}", case.what);
        node.forget_state()?;
        write_files(node.state_dir(), &good)?;
        let path = node.state_dir().join(file);
        (case.spoil)(&path)?;
        refused(&bed, &path, case.said, 2).context(what)?;
    }

    let full = Scratch::of_size(DISK_BYTES)?;
    write_files(&full.path(), &good)?;
    fill(&full.path())?;
    put_in_place(node, &full.path())?;
    let history = node.state_dir().join("history.json");
    refused(&bed, &history, &["cannot write", "have room"], 1).context("a full disk")?;

    let locked = Scratch::new()?;
    write_files(&locked.path(), &good)?;
    locked.make_read_only()?;
    put_in_place(node, &locked.path())?;
    let said = ["cannot use the state folder", "see --state-dir"];
    refused(&bed, node.state_dir(), &said, 1).context("a read-only disk")?;

    // A damaged snapshot costs time only, and a folder open to others is closed to them.
    let spoilt = Scratch::new()?;
    write_files(&spoilt.path(), &good)?;
    fs::set_permissions(spoilt.path(), Permissions::from_mode(0o755))?;
    cut(&spoilt.path().join("snapshot.json"))?;
    put_in_place(node, &spoilt.path())?;
    node.start_agent()?;
    node.wait_ready()?;
    ensure!(
        node.log().contains("snapshot.json is damaged"),
        "not told: {}",
        node.log()
    );
    let mode = fs::metadata(node.state_dir())?.permissions().mode() & 0o777;
    ensure!(mode == 0o700, "the folder has mode {mode:o}");
    until(CONVERGENCE, "the node to be whole", || {
        whole.is_that_of(node)
    })?;
    ensure!(status(node)?.public_key == key, "another key");
    until(CONVERGENCE, "the mesh to be whole again", || {
        matrix::all_reached(&bed.matrix().run())
    })
}

/// A start after a reboot fails, says all this of `path`, and leaves the node closed. A file that
/// is no good is a bad value, which 2 stands for; a disk that fails is not.
fn refused(bed: &Testbed, path: &Path, said: &[&str], code: i32) -> Result<()> {
    let node = bed.node(1);
    reboot(node)?;
    node.start_agent()?;
    let ended = node.wait_agent_end(CONVERGENCE)?;
    ensure!(ended.code() == Some(code), "it ended with {ended}");
    let log = node.log();
    let path = path.display().to_string();
    for expected in said.iter().copied().chain([path.as_str()]) {
        ensure!(log.contains(expected), "{expected:?} is not said:\n{log}");
    }
    guard_table(node).context("no guard")?;
    // Closed for pods, too, that somebody starts all the same.
    start_pods(node)?;
    for version in [IpVersion::V4, IpVersion::V6] {
        let target = bed.pod(2, 1).host().address(version)?;
        let probe = bed.probe(bed.pod(1, 1).host(), Protocol::Udp, target);
        let answer = probe.timeout(Duration::from_millis(300)).ask();
        ensure!(answer.is_err(), "{target} was reached: {answer:?}");
    }
    Ok(())
}

/// Waits until the status tells of trouble with the state, or no longer does.
fn wait_told(node: &Node, expected: Option<&str>) -> Result<()> {
    until(CONVERGENCE, "the state's trouble to be told", || {
        let problems = status(node)?.problems.join("; ");
        match expected {
            Some(text) => ensure!(
                problems.contains("cannot keep the state") && problems.contains(text),
                "{text:?} is not in {problems:?}"
            ),
            None => ensure!(problems.is_empty(), "{problems}"),
        }
        Ok(())
    })
}

/// Something that the snapshot has to keep.
fn change_something(bed: &Testbed, created: &str) -> Result<()> {
    bed.node(2)
        .edit_manifest(|manifest| manifest.created = created.to_owned())
}

fn fails_a_running_agent(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(1))?;
    let node = bed.node(1);
    let disk = Scratch::of_size(DISK_BYTES)?;
    put_in_place(node, &disk.path())?;
    bed.start_agents()?;
    wait_whole(&bed)?;
    let pods = [bed.pod(1, 1).host(), bed.pod(2, 1).host()];
    let target = pods[1].address(IpVersion::V4)?;
    let connection = bed.tcp_counter(pods[0], target, 50)?;

    fill(&disk.path())?;
    change_something(&bed, "2026-01-02T00:00:00Z")?;
    wait_told(node, Some("No space left")).context("a full disk")?;
    ensure!(status(node)?.ready, "not ready because of its disk");
    connection.wait_for_more(50, CONVERGENCE)?;
    make_room(&disk.path())?;
    wait_told(node, None).context("a disk with room again")?;

    let locked = Scratch::new()?;
    write_files(&locked.path(), &read_files(node.state_dir())?)?;
    locked.make_read_only()?;
    put_in_place(node, &locked.path())?;
    change_something(&bed, "2026-01-03T00:00:00Z")?;
    wait_told(node, Some("Read-only file system")).context("a read-only disk")?;
    connection.wait_for_more(50, CONVERGENCE)?;
    put_in_place(node, &disk.path())?;
    wait_told(node, None).context("a disk that may be written again")?;

    let count = connection.stop()?;
    ensure!(
        count.broken.is_none() && count.out_of_turn == 0 && count.echoed == count.sent,
        "{count:?}"
    );
    matrix::all_reached(&bed.matrix().run())
}
