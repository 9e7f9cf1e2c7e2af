//! Messages of every kind, sent again and changed, to every lane of both ends of a pair.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{peer, wait_peers};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{IpVersion, Node, Topology, Traffic, Wire};

use crate::copies::{self, Copies};

pub(crate) const TESTS: &[Test] = &[(
    "messages_that_are_sent_again_or_changed_are_counted_and_change_nothing",
    copied,
)];

/// Datagrams a second of each flow.
const RATE: u32 = 50;

/// A few thousand datagrams leave nothing behind; the allocator may have grown a little.
const MEMORY_MAX_KIB: u64 = 8 * 1024;

fn copied(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(1))?;
    let wires = [Wire::tap(&bed, 1)?, Wire::tap(&bed, 2)?];
    bed.start_agents()?;
    wait_peers(&bed)?;
    let traffic = Traffic::between_all(&bed, &[IpVersion::V4, IpVersion::V6], RATE)?;
    traffic.passes()?;
    let pairs = [(bed.node(1), "node-2"), (bed.node(2), "node-1")];
    let mut kinds = Vec::new();
    for ((node, other), wire) in pairs.iter().zip(&wires) {
        let copies = Copies::caught(wire, node)?;
        kinds.extend(copies.kinds());
        let before = Steady::of(node, other)?;
        copies::assert_counted(node, || copies.put_from_everywhere(wire))
            .with_context(|| node.name().to_owned())?;
        traffic.passes().context("after the copies")?;
        before.assert_still(node, other)?;
    }
    ensure!((1..=4).all(|kind| kinds.contains(&kind)), "only {kinds:?}");
    for flow in traffic.stop()? {
        ensure!(flow.count.lost() == 0, "{flow:?}");
    }
    Ok(())
}

/// What must be the same afterwards.
#[derive(Debug)]
struct Steady {
    endpoint: Option<String>,
    handshakes: u64,
    complaints: usize,
    memory_kib: u64,
}

impl Steady {
    fn of(node: &Node, other: &str) -> Result<Self> {
        let row = peer(node, other)?;
        ensure!(row.lanes_up > 0, "{row:?}");
        let log = node.log();
        Ok(Self {
            endpoint: row.endpoint,
            handshakes: row.handshakes,
            complaints: log.lines().filter(|line| is_complaint(line)).count(),
            memory_kib: memory_kib(node)?,
        })
    }

    fn assert_still(&self, node: &Node, other: &str) -> Result<()> {
        let now = Self::of(node, other)?;
        ensure!(
            now.endpoint == self.endpoint
                && now.handshakes == self.handshakes
                && now.complaints == self.complaints
                && now.memory_kib <= self.memory_kib + MEMORY_MAX_KIB,
            "{self:?}, then {now:?}"
        );
        Ok(())
    }
}

fn is_complaint(line: &str) -> bool {
    let level = line.split_whitespace().nth(1);
    matches!(level, Some("WARN" | "ERROR"))
}

/// What the agent's process holds in memory.
fn memory_kib(node: &Node) -> Result<u64> {
    let path = format!("/proc/{}/status", node.agent_pid()?);
    let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let words = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(words.context("no VmRSS")?.parse()?)
}
