//! What an agent says of itself once all faults are over, and what it costs.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{peers, status};
use podwire_testbed::{Node, Testbed};

/// Resident memory of an agent with four peers: measured 11 MB, and no fault may leave more than a
/// few sessions' worth behind.
const RESIDENT_KIB_MAX: u64 = 32 * 1024;

/// Descriptors of an agent: measured 26; a leak of one a fault would show after many restarts of
/// nothing only, so the bound is close.
const DESCRIPTORS_MAX: usize = 48;

/// Whether an agent is content, has the peers that there are and no other, and has not grown.
pub(crate) fn is_well(bed: &Testbed, node: &Node) -> Result<()> {
    let name = node.name();
    let status = status(node)?;
    ensure!(
        status.ready && status.problems.is_empty() && status.mode == "encrypted",
        "{name}: {status:?}"
    );
    ensure!(
        status.refusals.is_empty() && status.unroutable.is_empty() && status.plaintext.is_empty(),
        "{name}: {status:?}"
    );
    let rows = peers(node)?;
    let names: Vec<_> = rows.iter().map(|row| row.node.as_str()).collect();
    let others: Vec<_> = bed
        .nodes()
        .iter()
        .filter(|other| other.name() != name)
        .collect();
    let expected: Vec<_> = others.iter().map(|other| other.name()).collect();
    ensure!(names == expected, "the peers of {name} are {names:?}");
    for (row, other) in rows.iter().zip(&others) {
        let key = podwire_testbed::agent_view::status(other)?.public_key;
        ensure!(row.public_key == key, "{name} has an old key: {row:?}");
        let cidrs: Vec<_> = other
            .manifest()
            .pod_cidrs
            .iter()
            .map(ToString::to_string)
            .collect();
        ensure!(row.pod_cidrs == cidrs, "{name} has old CIDRs: {row:?}");
        ensure!(row.state == "up", "{name}: {row:?}");
    }
    let pid = node.agent_pid()?;
    let resident = resident_kib(pid)?;
    ensure!(
        resident <= RESIDENT_KIB_MAX,
        "the agent of {name} has {resident} KiB"
    );
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    ensure!(
        descriptors <= DESCRIPTORS_MAX,
        "the agent of {name} has {descriptors} open files"
    );
    Ok(())
}

fn resident_kib(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("no VmRSS in {text}"))
}
