//! What tests on a real API server begin with: a cluster with its policies, and nodes that have
//! joined it.

use std::sync::Arc;

use anyhow::Result;

use crate::agent_view::{wait_status, wait_whole};
use crate::control_plane::{API_PORT, ControlPlane};
use crate::node::Node;
use crate::suite::Context;
use crate::testbed::Testbed;
use crate::topology::Topology;

/// Nodes of one pod each and one lane.
#[must_use]
pub fn topology(nodes: u8) -> Topology {
    Topology::new()
        .nodes(nodes)
        .pods_per_node(1)
        .agent_arguments(&["--lanes", "1"])
}

/// A control plane with what `deploy/base` has, and a network whose nodes have not joined.
///
/// # Errors
/// When a part does not come up, or not in time.
pub fn cluster(context: &Context, topology: &Topology) -> Result<(Arc<Testbed>, ControlPlane)> {
    let bed = context.testbed(topology)?;
    let cluster = ControlPlane::start(&bed, &[])?;
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/base");
    cluster.kubectl(&["apply", "-k", base], "")?;
    Ok((bed, cluster))
}

/// These nodes join and their agents start.
///
/// # Errors
/// When a part does not come up, or not in time.
pub fn join(bed: &Testbed, cluster: &ControlPlane, numbers: &[u8]) -> Result<()> {
    for number in numbers {
        let node = bed.node(*number);
        cluster.join(node)?;
        node.start_agent()?;
    }
    numbers
        .iter()
        .try_for_each(|number| bed.node(*number).wait_ready())
}

/// Three nodes whose pods reach each other.
///
/// # Errors
/// When a part does not come up, or not in time.
pub fn mesh(context: &Context) -> Result<(Arc<Testbed>, ControlPlane)> {
    let (bed, cluster) = cluster(context, &topology(3))?;
    join(&bed, &cluster, &[1, 2, 3])?;
    wait_whole(&bed)?;
    Ok((bed, cluster))
}

/// Waits until every agent follows the API server.
///
/// # Errors
/// When a part does not come up, or not in time.
pub fn wait_followed(bed: &Testbed) -> Result<()> {
    bed.nodes().iter().try_for_each(wait_followed_by)
}

/// Waits until the agent of this node follows the API server.
///
/// # Errors
/// When it does not in time.
pub fn wait_followed_by(node: &Node) -> Result<()> {
    let what = "the API server to be followed";
    wait_status(node, what, |status| status.registry.synchronised).map(drop)
}

/// Waits until every agent says that it has lost the API server.
///
/// # Errors
/// When a part does not come up, or not in time.
pub fn wait_lost(bed: &Testbed) -> Result<()> {
    bed.nodes().iter().try_for_each(|node| {
        let what = "the API server to be lost";
        wait_status(node, what, |status| status.registry.lost.is_some()).map(drop)
    })
}

/// The nft table `inet hole` of the API server's namespace, which drops what is for it and what it
/// says, without a word.
#[must_use]
pub fn black_hole() -> String {
    format!(
        "table inet hole {{
            chain in {{ type filter hook input priority 0; iifname != lo tcp dport {API_PORT} drop; }}
            chain out {{ type filter hook output priority 0; oifname != lo tcp sport {API_PORT} drop; }}
        }}"
    )
}
