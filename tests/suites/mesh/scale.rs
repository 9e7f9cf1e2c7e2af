//! A thousand nodes in the registry, one of them real.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Family, Node, PaperNode, Testbed, Topology, until};

use podwire_testbed::agent_view::{CONVERGENCE, Status, peer, routes, status, wait_status};

pub(crate) const TESTS: &[Test] = &[(
    "a_thousand_records_converge_and_one_change_touches_one_peer",
    scale,
)];

/// Records beside the real node's own.
const OTHERS: u32 = 999;

/// Reading a thousand records and making a thousand routes.
const DEADLINE: Duration = Duration::from_secs(120);

/// Resident memory of a node's agent in KiB.
fn resident_kib(node: &Node) -> Result<u64> {
    let path = format!("/proc/{}/status", node.agent_pid()?);
    let text = std::fs::read_to_string(&path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|line| line.split_whitespace().next())
        .context("no VmRSS")?;
    Ok(kib.parse()?)
}

#[expect(
    clippy::print_stdout,
    reason = "the promise is to print time and memory"
)]
fn scale(context: &Context) -> Result<()> {
    let topology = Topology::new()
        .nodes(1)
        .pods_per_node(1)
        .family(Family::V4)
        .agent_arguments(&["--cluster-cidr", PaperNode::CLUSTER_CIDR]);
    let bed = context.testbed(&topology)?;
    let mut records: Vec<_> = (0..OTHERS).map(PaperNode::new).collect();
    for record in &records {
        record.join(bed.directory())?;
    }
    let node = bed.node(1);
    let start = Instant::now();
    bed.start_agents()?;
    let ready = start.elapsed();
    let expected = OTHERS as usize;
    let before = until(DEADLINE, "all peers and routes", || {
        let status = status(node)?;
        ensure!(
            status.peers.encrypted == expected && status.refusals.is_empty(),
            "{status:?}"
        );
        let routes = routes(node)?;
        for record in &records {
            let prefix = format!("{} dev podwire0", record.pod_cidr());
            ensure!(
                routes.iter().any(|line| line.starts_with(&prefix)),
                "no route {prefix}"
            );
        }
        Ok(status)
    })?;
    let converged = start.elapsed();
    println!(
        "{} records: ready after {:.2} s, all routes seen after {:.2} s, {} KiB resident",
        OTHERS + 1,
        ready.as_secs_f64(),
        converged.as_secs_f64(),
        resident_kib(node)?
    );
    ensure!(
        before.peers.total == expected && before.reconcile.errors == 0,
        "{before:?}"
    );
    one_change(&bed, &mut records[500], &before)
}

/// Another key of one node: one peer changes, and nothing in the kernel.
#[expect(
    clippy::print_stdout,
    reason = "the promise is to print time and memory"
)]
fn one_change(bed: &Testbed, changed: &mut PaperNode, before: &Status) -> Result<()> {
    let node = bed.node(1);
    changed.rotate(bed.directory())?;
    let start = Instant::now();
    until(CONVERGENCE, "the changed key", || {
        let row = peer(node, &changed.name())?;
        ensure!(row.public_key == Some(changed.public_key()), "{row:?}");
        Ok(())
    })?;
    println!(
        "one changed record: seen after {:.2} s",
        start.elapsed().as_secs_f64()
    );
    let after = wait_status(node, "the change to be counted", |status| {
        status.reconcile.peer_changes > before.reconcile.peer_changes
    })?;
    let peers = after.reconcile.peer_changes - before.reconcile.peer_changes;
    ensure!(peers == 1, "{peers} peers changed for one record");
    let kernel = after.reconcile.kernel_changes - before.reconcile.kernel_changes;
    ensure!(
        kernel == 0,
        "{kernel} changes of the kernel for a changed key"
    );
    ensure!(after.reconcile.errors == 0, "{after:?}");
    Ok(())
}
