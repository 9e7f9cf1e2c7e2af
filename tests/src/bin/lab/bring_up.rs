//! A mesh whose agents all know each other.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use podwire_testbed::{Node, Testbed, until};
use serde::Deserialize;

use crate::args::{MeshArgs, Mode};
use crate::output;
use crate::progress::Progress;

/// Each agent's record must reach every other agent; the machine may be busy with dozens of them.
const ACQUAINTED_DEADLINE: Duration = Duration::from_secs(60);

/// The part of `podwire-agent status -o json` that says whom an agent knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Peers {
    pub(crate) total: usize,
    /// Of those, with which traffic is encrypted.
    pub(crate) encrypted: usize,
    /// Of the encrypted ones, with a live session.
    pub(crate) up: usize,
    pub(crate) host_network: usize,
    pub(crate) closed: usize,
}

/// Asks a node's agent.
pub(crate) fn peers(node: &Node) -> Result<Peers> {
    Ok(Peers::deserialize(&node.status_json()?["peers"])?)
}

/// Makes nodes and pods, and starts the agents.
///
/// # Errors
/// When that fails. What the agents logged then went to standard error.
pub(crate) fn bring_up(
    name: &str,
    mesh: &MeshArgs,
    mode: Mode,
    agent: &Path,
    progress: &Progress,
) -> Result<Testbed> {
    progress.step(&format!("{mode}: making {mesh}"));
    let bed = mesh.topology(mode, agent).start(name)?;
    progress.step(&format!("{mode}: starting {} agents", mesh.nodes));
    let started = bed.start_agents().and_then(|()| {
        progress.step(&format!(
            "{mode}: waiting until every agent knows every other"
        ));
        bed.nodes()
            .iter()
            .try_for_each(|node| wait_acquainted(node, mode, bed.nodes().len()))
    });
    if let Err(error) = started {
        progress.finish();
        output::complain(&bed.explain());
        return Err(error);
    }
    Ok(bed)
}

/// An agent is ready before the others have published their records.
fn wait_acquainted(node: &Node, mode: Mode, nodes: usize) -> Result<()> {
    let what = format!("the agent of {} to know every other node", node.name());
    until(ACQUAINTED_DEADLINE, &what, || {
        let peers = peers(node)?;
        let acquainted = match mode {
            Mode::Encrypted => peers.encrypted,
            Mode::HostNetwork => peers.host_network,
        };
        ensure!(acquainted + 1 == nodes, "{peers:?}");
        Ok(())
    })
}
