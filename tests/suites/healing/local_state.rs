//! What somebody else changes of a node's kernel state is put back, and told once.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, status, wait_whole};
use podwire_testbed::kernel_state::{KernelState, time_to_heal};
use podwire_testbed::suite::{self, Context, Test};
use podwire_testbed::{Node, Testbed, Topology, matrix, until};

use crate::processor::processor_time;

pub(crate) const TESTS: &[Test] = &[
    (
        "local_state_that_somebody_else_changes_is_back_with_one_line_that_names_it",
        each_damage,
    ),
    (
        "a_device_that_somebody_makes_anew_is_taken_over_with_one_line",
        made_anew,
    ),
    (
        "somebody_who_flushes_every_second_gets_no_storm",
        flushed_every_second,
    ),
    (
        "somebody_who_never_stops_flushing_gets_no_race",
        flushed_without_end,
    ),
];

/// How often a second the agent repairs at most (`REPAIR_INTERVAL`).
const REPAIRS_PER_SECOND: u64 = 2;

/// How a flusher of everything goes about it, in the style of systemd-networkd, a firewall's
/// reload and an operator at once.
const FLUSH: &str = "ip -4 route flush table all proto 119; \
                     ip -6 route flush table all proto 119; \
                     ip -4 rule flush proto 119; ip -6 rule flush proto 119; \
                     ip address flush dev podwire0; nft flush ruleset";

/// A command for the shell, and what the log line says of it.
type Damage = (&'static str, &'static str);

/// No more than the agent tells of in a minute, on each node.
const ON_NODE_1: [Damage; 10] = [
    ("ip link delete podwire0", "device missing"),
    (
        "ip link set podwire0 mtu 1300",
        "device with an MTU of 1300",
    ),
    (
        "ip link set podwire0 txqueuelen 5",
        "device with a queue of 5",
    ),
    (
        "echo 1 > /proc/sys/net/ipv4/conf/podwire0/rp_filter",
        "device with another rp_filter, forwarding or addr_gen_mode",
    ),
    (
        "echo 0 > /proc/sys/net/ipv6/conf/podwire0/addr_gen_mode",
        "address fe80::",
    ),
    (
        "ip address delete 10.244.1.0/32 dev podwire0",
        "address 10.244.1.0/32 missing",
    ),
    (
        "ip route delete 10.244.2.0/24 proto 119 metric 1024",
        "route 10.244.2.0/24 metric 1024 missing",
    ),
    (
        "ip rule flush proto 119",
        "rule 119 to 10.244.1.0/24 missing",
    ),
    (
        "nft delete table inet podwire",
        "table inet podwire missing",
    ),
    (
        "nft flush chain inet podwire forward",
        "table inet podwire altered",
    ),
];

const ON_NODE_2: [Damage; 10] = [
    ("ip link set podwire0 down", "device down"),
    (
        "echo 0 > /proc/sys/net/ipv4/conf/podwire0/forwarding",
        "device with another rp_filter, forwarding or addr_gen_mode",
    ),
    (
        "ip address flush dev podwire0",
        "address 10.244.2.0/32 missing; address fd00:10:244:2:ffff:ffff:ffff:ffff/128 missing",
    ),
    (
        "ip address add 10.9.9.9/32 dev podwire0",
        "address 10.9.9.9/32 added",
    ),
    (
        "ip -6 route flush proto 119",
        "route fd00:10:244:1::/64 metric 4000000 missing",
    ),
    (
        "ip route change 10.244.1.0/24 dev podwire0 proto 119 metric 1024 mtu 600",
        "route 10.244.1.0/24 metric 1024 changed",
    ),
    (
        "ip route add 10.244.77.0/24 dev eth0 proto 119 metric 5",
        "route 10.244.77.0/24 metric 5 added",
    ),
    (
        "ip route delete unreachable 10.244.0.0/16 proto 119 metric 4000000",
        "route 10.244.0.0/16 metric 4000000 missing",
    ),
    ("nft flush ruleset", "table inet podwire missing"),
    (
        "nft delete element inet podwire own4 '{ 10.244.2.0/24 }'",
        "table inet podwire altered",
    ),
];

/// Two nodes of one pod each that reach each other, and their whole state.
fn mesh(context: &Context) -> Result<(std::sync::Arc<Testbed>, Vec<KernelState>)> {
    let bed = context.mesh(&Topology::new().nodes(2).pods_per_node(1))?;
    wait_whole(&bed)?;
    let whole = bed.nodes().iter().map(KernelState::of);
    let whole = whole.collect::<Result<_>>()?;
    Ok((bed, whole))
}

fn shell(node: &Node, command: &str) -> Result<()> {
    node.namespace()
        .output("sh", &["-ec", command], "")
        .map(drop)
}

/// The lines of the log that tell of somebody else, and those that tell of trouble at all.
fn warnings(node: &Node) -> (Vec<String>, usize) {
    let log = node.log();
    let warned = log.lines().filter(|line| line.contains(" WARN "));
    let told = warned.clone().filter(|line| line.contains("somebody else"));
    (told.map(str::to_owned).collect(), warned.count())
}

fn each_damage(context: &Context) -> Result<()> {
    let (bed, whole) = mesh(context)?;
    let damages: [&[Damage]; 2] = [&ON_NODE_1, &ON_NODE_2];
    for ((node, whole), damages) in bed.nodes().iter().zip(&whole).zip(damages) {
        for (command, named) in damages {
            damaged(node, whole, command, named)
                .with_context(|| format!("{}: {command}", node.name()))?;
        }
    }
    matrix::all_reached(&bed.matrix().run())?;
    follows_the_registry(&bed)
}

/// Within the settling time, so that the agent finds a sound device of its name that no lane reads.
fn made_anew(context: &Context) -> Result<()> {
    const ANEW: &str = "ip link delete podwire0; ip tuntap add podwire0 mode tun multi_queue";
    let (bed, whole) = mesh(context)?;
    damaged(bed.node(1), &whole[0], ANEW, "device missing")?;
    until(CONVERGENCE, "the lanes to read the device", || {
        matrix::all_reached(&bed.matrix().run())
    })
}

/// One damage: whole again, one line more, and no other warning.
fn damaged(node: &Node, whole: &KernelState, command: &str, named: &str) -> Result<()> {
    let (before, warned) = warnings(node);
    time_to_heal(node, whole, || shell(node, command))?;
    until(CONVERGENCE, "a line that tells of it", || {
        let (told, now) = warnings(node);
        let new = &told[before.len()..];
        ensure!(
            new.len() == 1 && new[0].contains(named) && now == warned + 1,
            "told: {new:?}; {} further warnings",
            now.saturating_sub(warned + new.len())
        );
        Ok(())
    })
}

/// What a node changes because the registry says so is nobody else's doing.
fn follows_the_registry(bed: &Testbed) -> Result<()> {
    let told = || -> Vec<usize> {
        let lines = bed.nodes().iter().map(|node| warnings(node).0.len());
        lines.collect()
    };
    let before = told();
    bed.node(2).change_pod_cidrs(77)?;
    until(CONVERGENCE, "the other pod CIDRs to be followed", || {
        matrix::all_reached(&bed.matrix().run())
    })?;
    bed.node(2).delete_manifest()?;
    until(CONVERGENCE, "the peer to go", || {
        let peers = status(bed.node(1))?.peers.total;
        ensure!(peers == 0, "{peers} peers");
        Ok(())
    })?;
    bed.node(2).edit_manifest(|_| ())?;
    until(CONVERGENCE, "the mesh to be whole again", || {
        matrix::all_reached(&bed.matrix().run())
    })?;
    ensure!(
        told() == before,
        "its own doing is told as somebody else's: {:?}",
        bed.nodes().iter().map(warnings).collect::<Vec<_>>()
    );
    Ok(())
}

/// What flushing costs a node.
struct Cost {
    changes: u64,
    told: usize,
    processor: Duration,
}

/// Lets time pass until `since` was so long ago.
fn until_elapsed(since: Instant, duration: Duration) -> Result<()> {
    until(duration + CONVERGENCE, "time to pass", || {
        ensure!(since.elapsed() >= duration, "not yet");
        Ok(())
    })
}

/// The cost of `flushing` to a node.
fn cost(node: &Node, flushing: impl FnOnce() -> Result<()>) -> Result<Cost> {
    let changes = status(node)?.reconcile.kernel_changes;
    let (told, _) = warnings(node);
    let processor = processor_time(node)?;
    flushing()?;
    Ok(Cost {
        changes: status(node)?.reconcile.kernel_changes - changes,
        told: warnings(node).0.len() - told.len(),
        processor: processor_time(node)? - processor,
    })
}

fn flushed_every_second(context: &Context) -> Result<()> {
    let (bed, whole) = mesh(context)?;
    let (node, whole) = (bed.node(1), &whole[0]);
    let flush = || {
        let start = Instant::now();
        time_to_heal(node, whole, || shell(node, FLUSH))?;
        until_elapsed(start, Duration::from_secs(1))
    };
    let once = cost(node, flush)?;
    ensure!(once.changes > 0 && once.told > 0, "nothing was flushed");
    let flushes: u32 = if suite::is_soak() { 60 } else { 4 };
    let start = Instant::now();
    let many = cost(node, || (0..flushes).try_for_each(|_| flush()))?;
    // Half a flush may be seen and repaired before the other half: twice as often, of less each.
    let changes_max = u64::from(flushes) * 2 * once.changes;
    ensure!(
        many.changes <= changes_max,
        "{} changes for {flushes} flushes, {} for one",
        many.changes,
        once.changes
    );
    // Of each minute a summary, and again what was told in the one before: the parts of a flush
    // that is seen in three pieces at most.
    let minutes = usize::try_from(start.elapsed().as_secs() / 60)? + 1;
    let lines_max = minutes * 4;
    ensure!(
        many.told <= lines_max,
        "{} lines in {minutes} minutes:\n{}",
        many.told,
        node.log()
    );
    // A flush costs milliseconds; more than a fifth of a processor would be a storm.
    ensure!(
        many.processor * 5 < start.elapsed(),
        "{:?} of processor in {:?}",
        many.processor,
        start.elapsed()
    );
    if suite::is_soak() {
        let (told, _) = warnings(node);
        ensure!(
            told.iter().any(|line| line.contains("keeps changing")),
            "no summary: {told:?}"
        );
    }
    whole.is_that_of(node)?;
    matrix::all_reached(&bed.matrix().run())
}

/// A process in a node's namespace that ends with this value.
struct Flusher(Child);

impl Drop for Flusher {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn flushed_without_end(context: &Context) -> Result<()> {
    let (bed, whole) = mesh(context)?;
    let (node, whole) = (bed.node(1), &whole[0]);
    let once = cost(node, || {
        time_to_heal(node, whole, || shell(node, FLUSH)).map(drop)
    })?;
    let start = Instant::now();
    let fight = cost(node, || {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", &format!("while :; do {FLUSH}; done")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let flusher = Flusher(node.namespace().spawn(command)?);
        until_elapsed(start, Duration::from_secs(4))?;
        drop(flusher);
        Ok(())
    })?;
    // Two repairs a second, and as many again by housekeeping where one has failed.
    let repairs_max = 2 * REPAIRS_PER_SECOND * (start.elapsed().as_secs() + 2);
    ensure!(
        fight.changes <= repairs_max * once.changes * 2,
        "{} changes in {:?}, {} for one flush",
        fight.changes,
        start.elapsed(),
        once.changes
    );
    ensure!(
        fight.changes > 2 * once.changes,
        "{} changes: it gave up",
        fight.changes
    );
    until(CONVERGENCE, "the node to be whole", || {
        whole.is_that_of(node)
    })?;
    matrix::all_reached(&bed.matrix().run())
}
