//! State files that cannot be used: named with the remedy; the node is closed and nothing is made
//! anew.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, routes, status};
use podwire_testbed::kernel_state::guard_table;
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Node, Topology};

pub(crate) const TESTS: &[Test] = &[(
    "a_state_file_that_cannot_be_used_is_named_and_the_node_stays_closed",
    state_files,
)];

/// What happens to a healthy state folder, and what the agent says of it.
struct Case {
    name: &'static str,
    damage: fn(&Path) -> Result<()>,
    says: [&'static str; 2],
}

const CASES: [Case; 9] = [
    Case {
        name: "keys that are garbage",
        damage: |folder| Ok(fs::write(folder.join("keys"), "garbage")?),
        says: ["/keys is damaged", "remove everything in"],
    },
    Case {
        name: "keys cut off in the middle",
        damage: |folder| {
            let keys = fs::read(folder.join("keys"))?;
            Ok(fs::write(folder.join("keys"), &keys[..keys.len() / 2])?)
        },
        says: ["/keys is damaged", "restore it from a backup"],
    },
    Case {
        name: "no bytes of keys",
        damage: |folder| Ok(fs::write(folder.join("keys"), "")?),
        says: ["/keys is damaged", "restore it from a backup"],
    },
    Case {
        name: "keys that others may read",
        damage: |folder| {
            let open = Permissions::from_mode(0o644);
            Ok(fs::set_permissions(folder.join("keys"), open)?)
        },
        says: ["others may read or write it", "mode 600"],
    },
    Case {
        name: "keys that are gone",
        damage: |folder| Ok(fs::remove_file(folder.join("keys"))?),
        says: ["/keys is missing", "restore it from a backup"],
    },
    Case {
        name: "a history that is garbage",
        damage: |folder| Ok(fs::write(folder.join("history.json"), "{\"version\":")?),
        says: ["/history.json is damaged", "restore it from a backup"],
    },
    Case {
        name: "a history from the future",
        damage: |folder| Ok(fs::write(folder.join("history.json"), "{\"version\":99}")?),
        says: ["/history.json was written by a newer", "version 99"],
    },
    Case {
        name: "a history that is gone",
        damage: |folder| Ok(fs::remove_file(folder.join("history.json"))?),
        says: ["/history.json is missing", "restore it from a backup"],
    },
    Case {
        name: "a history of two MiB",
        damage: |folder| Ok(fs::write(folder.join("history.json"), vec![b' '; 2 << 20])?),
        says: ["/history.json is damaged", "larger than"],
    },
];

type Files = BTreeMap<String, Vec<u8>>;

/// All files but the lock, which names a process.
fn files(folder: &Path) -> Result<Files> {
    let mut files = Files::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "lock" {
            files.insert(name, fs::read(entry.path())?);
        }
    }
    Ok(files)
}

fn restore(folder: &Path, healthy: &Files) -> Result<()> {
    for name in files(folder)?.keys() {
        fs::remove_file(folder.join(name))?;
    }
    for (name, bytes) in healthy {
        let path = folder.join(name);
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// As after a reboot: nothing of an agent's is in the kernel.
fn forget_kernel(node: &Node) -> Result<()> {
    let program = node.agent_program()?.to_owned();
    let state = node.state_dir().as_os_str();
    let arguments = ["cleanup".as_ref(), "--state-dir".as_ref(), state];
    let output = podwire_testbed::agent_view::run_program(node, &program, &arguments)?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

fn state_files(context: &Context) -> Result<()> {
    let bed = context.mesh(&Topology::new().nodes(1).pods_per_node(0))?;
    let (node, folder) = (bed.node(1), bed.node(1).state_dir());
    let key = status(node)?.public_key;
    node.stop_agent()?;
    let healthy = files(folder)?;
    for case in &CASES {
        refuses(node, case).context(case.name)?;
        restore(folder, &healthy)?;
    }
    // What only costs time is told and replaced.
    fs::write(folder.join("snapshot.json"), "garbage")?;
    node.start_agent()?;
    node.wait_ready()?;
    let log = node.log();
    ensure!(
        log.contains("the last known mesh is ignored") && log.contains("snapshot.json"),
        "{log}"
    );
    ensure!(status(node)?.public_key == key, "another key than before");
    Ok(())
}

fn refuses(node: &Node, case: &Case) -> Result<()> {
    forget_kernel(node)?;
    (case.damage)(node.state_dir())?;
    let before = files(node.state_dir())?;
    node.start_agent()?;
    let ended = node.wait_agent_end(CONVERGENCE)?;
    let log = node.log();
    ensure!(ended.code() == Some(2), "it ended with {ended}: {log}");
    for words in case.says {
        ensure!(
            log.contains(words),
            "{words:?} is not in what it says: {log}"
        );
    }
    ensure!(
        files(node.state_dir())? == before,
        "it changed the state folder"
    );
    let left = routes(node)?;
    ensure!(
        left.len() == 2 && left.iter().all(|route| route.starts_with("unreachable")),
        "not just the covers of two CIDRs: {left:?}"
    );
    guard_table(node)?;
    let links = node.namespace().output("ip", &["-o", "link", "show"], "")?;
    ensure!(!links.contains("podwire"), "a device was made: {links}");
    Ok(())
}
