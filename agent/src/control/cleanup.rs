//! `podwire-agent cleanup`: what `run` leaves behind on purpose is removed on request.

use std::io::Write as _;

use anyhow::Context as _;
use podwire_core::cni_configuration::BRIDGE;

use super::withdrawal::withdraw;
use crate::cni_files::RemovedFiles;
use crate::config::CleanupConfig;
use crate::netlink::{BridgeRemoval, Netlink, Removed};
use crate::state;

/// Removes what is ours, and nothing else: the CNI configuration first, so that no pod starts on a
/// node without guards; then what is in the kernel, and the bridge that the CNI plugin made for our
/// network, once no pod is behind it; then the own record where a Node is named. The state folder
/// is kept unless told otherwise: its key is the node's identity.
pub(crate) fn cleanup(config: &CleanupConfig) -> anyhow::Result<()> {
    // A running agent would put everything back within a second.
    let _lock = state::lock_if_there(&config.state_dir).context("stop the agent first")?;
    if let Some(files) = &config.cni {
        tell(&cni(files.remove()?))?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let (removed, bridge) = runtime.block_on(async {
        let mut netlink = Netlink::open(&config.device)?;
        let removed = netlink.cleanup().await?;
        anyhow::Ok((removed, netlink.remove_pod_bridge(BRIDGE).await?))
    })?;
    tell(&kernel(&config.device, removed))?;
    match bridge {
        BridgeRemoval::NotThere => {}
        BridgeRemoval::Removed => tell(&format!("bridge {BRIDGE} removed"))?,
        BridgeRemoval::Kept(pods) => tell(&format!(
            "bridge {BRIDGE} kept, with {pods} pods behind it: recreate or delete them, and clean \
             up again"
        ))?,
    }
    // After the kernel: a registry that is away keeps nobody from cleaning up the node.
    if let Some((node, registry)) = &config.record {
        let count = runtime.block_on(withdraw(node, registry))?;
        tell(&format!("record of {node}: {count} removed"))?;
    }
    if config.remove_state {
        state::remove(&config.state_dir)?;
        tell(&format!("state in {} removed", config.state_dir.display()))?;
    }
    Ok(())
}

const fn word(there: bool) -> &'static str {
    if there { "removed" } else { "was not there" }
}

fn cni(removed: RemovedFiles) -> String {
    let (link, file) = (word(removed.link), word(removed.file));
    format!("CNI configuration: link {link}, file {file}")
}

fn kernel(device: &str, removed: Removed) -> String {
    format!(
        "device {device} {}; {} routes and {} rules removed; table inet podwire {}",
        word(removed.device),
        removed.routes,
        removed.rules,
        word(removed.guard)
    )
}

fn tell(line: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{line}").context("cannot write to standard output")
}
