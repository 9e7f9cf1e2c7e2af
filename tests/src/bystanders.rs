//! Two nodes that a change of a third one must not touch.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::address::IpVersion;
use crate::agent_view::{CONVERGENCE, Peer, peer, routes_to, status};
use crate::counter::UdpCounter;
use crate::node::Node;
use crate::probe::Protocol;
use crate::testbed::Testbed;
use crate::until::until;

/// Datagrams a second each way: any gap of a few milliseconds shows.
const RATE: u32 = 200;

/// Datagrams that must have passed before a change, so that sessions are there.
const WARM: u64 = 50;

/// What a peer that comes or goes changes in the kernel: for each version its two routes and the
/// guard behind them. The table may change once beside.
const KERNEL_CHANGES: u64 = 6;

/// Traffic between the pods of nodes 1 and 2, and what both nodes think of each other.
#[derive(Debug)]
pub struct Bystanders<'a> {
    bed: &'a Testbed,
    counters: Vec<UdpCounter>,
    before: Vec<View>,
}

/// One node's view of the other.
#[derive(Debug)]
struct View {
    routes: Vec<String>,
    row: Peer,
    peer_changes: u64,
    kernel_changes: u64,
}

impl View {
    fn of(node: &Node, other: &Node) -> Result<Self> {
        let counts = status(node)?.reconcile;
        Ok(Self {
            routes: routes_to(node, other)?,
            row: peer(node, other.name())?,
            peer_changes: counts.peer_changes,
            kernel_changes: counts.kernel_changes,
        })
    }
}

impl<'a> Bystanders<'a> {
    /// Starts traffic and waits until it flows and no handshake is under way.
    ///
    /// # Errors
    /// When it does not flow.
    pub fn watch(bed: &'a Testbed) -> Result<Self> {
        let (one, two) = (bed.pod(1, 1).host(), bed.pod(2, 1).host());
        // Sessions first: what waits for one is queued in a bounded queue.
        until(CONVERGENCE, "the bystanders' sessions", || {
            let target = two.address(IpVersion::V4)?;
            Ok(bed.probe(one, Protocol::Udp, target).ask()?)
        })?;
        let counters = vec![
            bed.udp_counter(one, two, IpVersion::V4, RATE)?,
            bed.udp_counter(two, one, IpVersion::V6, RATE)?,
        ];
        for counter in &counters {
            counter.wait_for_more(WARM, CONVERGENCE)?;
        }
        let before = pairs(bed).map(|(node, other)| View::of(node, other));
        let before = before.into_iter().collect::<Result<_>>()?;
        Ok(Self {
            bed,
            counters,
            before,
        })
    }

    /// Waits for a moment at which every datagram that was sent has arrived: one that was lost up
    /// to now makes none come.
    ///
    /// # Errors
    /// When there is none.
    pub fn lost_nothing(&self) -> Result<()> {
        for counter in &self.counters {
            until(CONVERGENCE, "all datagrams of the bystanders", || {
                let count = counter.count();
                ensure!(
                    count.received == count.sent && count.refused == 0,
                    "{count:?}"
                );
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Ends the traffic: not one datagram was lost, the routes are the same, the peers' sessions
    /// and counters went on, and the agents changed at most `changes` peers of their tables.
    ///
    /// # Errors
    /// What was lost or changed.
    pub fn untouched(self, changes: u64) -> Result<()> {
        for counter in &self.counters {
            counter.wait_for_more(WARM, Duration::from_secs(20))?;
        }
        for counter in self.counters {
            let count = counter.stop()?;
            ensure!(
                count.lost() == 0 && count.refused == 0,
                "bystanders lost: {count:?}"
            );
        }
        for ((node, other), before) in pairs(self.bed).into_iter().zip(self.before) {
            let after = View::of(node, other)?;
            compare(&before, &after, changes)
                .with_context(|| format!("{} about {}", node.name(), other.name()))?;
        }
        Ok(())
    }
}

fn pairs(bed: &Testbed) -> [(&Node, &Node); 2] {
    [(bed.node(1), bed.node(2)), (bed.node(2), bed.node(1))]
}

fn compare(before: &View, after: &View, changes: u64) -> Result<()> {
    ensure!(
        before.routes == after.routes,
        "routes were {:?} and are {:?}",
        before.routes,
        after.routes
    );
    let (old, new) = (&before.row, &after.row);
    let counters = |row: &Peer| {
        [
            row.sent_packets,
            row.received_packets,
            row.sent_bytes,
            row.received_bytes,
        ]
    };
    let grew = counters(old)
        .iter()
        .zip(counters(new))
        .all(|(old, new)| *old < new);
    ensure!(grew, "counters started again: {old:?}, then {new:?}");
    // A peer that was touched would have needed a new session.
    ensure!(
        old.handshakes == new.handshakes,
        "handshakes: {old:?}, then {new:?}"
    );
    let same = |row: &Peer| {
        (
            row.public_key.clone(),
            row.endpoint.clone(),
            row.pod_cidrs.clone(),
        )
    };
    ensure!(same(old) == same(new), "{old:?}, then {new:?}");
    let changed = after.peer_changes - before.peer_changes;
    ensure!(
        changed <= changes,
        "{changed} peers changed where {changes} had a reason to"
    );
    let kernel = after.kernel_changes - before.kernel_changes;
    let reason = changes * KERNEL_CHANGES + 1;
    ensure!(
        kernel <= reason,
        "{kernel} changes of the kernel where {reason} had a reason"
    );
    Ok(())
}
