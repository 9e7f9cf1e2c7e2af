//! What these tests do and wait for.

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, peer, wait_whole};
use podwire_testbed::control_plane::{AGENT_USER, AuditEvent};
use podwire_testbed::{ControlPlane, IpVersion, Testbed, UdpCounter, until};

pub(crate) use podwire_testbed::kubernetes_mesh::{
    cluster, join, mesh, topology, wait_followed, wait_lost,
};

/// Datagrams a second of each flow: any gap of a few milliseconds shows.
const RATE: u32 = 100;

/// An annotation of a Node, as the API has it.
pub(crate) fn annotation(cluster: &ControlPlane, node: &str, key: &str) -> Result<String> {
    let annotations = cluster.node(node)?.metadata.annotations.unwrap_or_default();
    let value = annotations.get(&format!("podwire.dev/{key}"));
    value
        .cloned()
        .with_context(|| format!("{node} has no {key}: {annotations:?}"))
}

/// Requests of agents that were to change something, whatever became of them.
pub(crate) fn agents_writes(cluster: &ControlPlane) -> Result<Vec<AuditEvent>> {
    let mut requests = cluster.audit()?;
    requests.retain(|request| request.user == AGENT_USER && request.is_write());
    Ok(requests)
}

/// Waits until agents have written so many records since the beginning, and no more; the server
/// may note a write a moment after its answer.
pub(crate) fn wait_records(cluster: &ControlPlane, number: usize) -> Result<()> {
    until(CONVERGENCE, &format!("{number} written records"), || {
        let mut writes = agents_writes(cluster)?;
        writes.retain(|write| write.resource == "nodes");
        ensure!(writes.len() == number, "{writes:?}");
        Ok(())
    })
}

/// Gives node 3 another address and waits until the others send there.
pub(crate) fn move_node_3(bed: &Testbed, cluster: &ControlPlane, number: u8) -> Result<()> {
    let node = bed.node(3);
    node.change_address(number)?;
    let addresses = node.manifest().addresses;
    cluster.set_addresses(node.name(), &addresses)?;
    let is_endpoint = |endpoint: &str| addresses.iter().any(|a| endpoint.contains(&a.to_string()));
    for other in [bed.node(1), bed.node(2)] {
        let what = format!("{} to send to node-3's new address", other.name());
        until(CONVERGENCE, &what, || {
            let endpoint = peer(other, "node-3")?.endpoint.context("no endpoint")?;
            ensure!(is_endpoint(&endpoint), "{endpoint}");
            Ok(())
        })?;
    }
    wait_whole(bed)
}

/// Datagrams between the pods of two nodes, both ways: one family each way.
pub(crate) struct Flows(Vec<UdpCounter>);

impl Flows {
    /// Starts them between these nodes, whose pods reach each other already.
    pub(crate) fn start(bed: &Testbed, pairs: &[(u8, u8)]) -> Result<Self> {
        let counter = |from, to, version| {
            let pod = |node| bed.pod(node, 1).host();
            bed.udp_counter(pod(from), pod(to), version, RATE)
        };
        let mut counters = Vec::new();
        for (one, other) in pairs {
            counters.push(counter(*one, *other, IpVersion::V4)?);
            counters.push(counter(*other, *one, IpVersion::V6)?);
        }
        let flows = Self(counters);
        flows.go_on(1)?;
        Ok(flows)
    }

    /// Waits until the first has carried so many seconds of datagrams more, and each some.
    pub(crate) fn go_on(&self, seconds: u32) -> Result<()> {
        let deadline = CONVERGENCE + 2 * std::time::Duration::from_secs(seconds.into());
        let (first, others) = self.0.split_first().context("no flow")?;
        first.wait_for_more(u64::from(seconds * RATE), deadline)?;
        others
            .iter()
            .try_for_each(|counter| counter.wait_for_more(1, deadline))
    }

    /// How many all of them have sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.0.iter().map(|counter| counter.count().sent).sum()
    }

    /// Ends them: not one datagram was lost or refused.
    pub(crate) fn lost_nothing(self) -> Result<()> {
        self.go_on(1)?;
        for counter in self.0 {
            let count = counter.stop()?;
            ensure!(count.lost() == 0 && count.refused == 0, "{count:?}");
        }
        Ok(())
    }
}
