//! `podwire-agent cleanup`: what `run` leaves behind on purpose is removed on request.

use std::io::Write as _;

use anyhow::Context as _;

use super::withdrawal::withdraw;
use crate::config::CleanupConfig;
use crate::netlink::{Netlink, Removed};
use crate::state;

/// Removes what is ours in the kernel, the own record where a Node is named, and nothing else. The
/// state folder is kept unless told otherwise: its key is the node's identity.
pub(crate) fn cleanup(config: &CleanupConfig) -> anyhow::Result<()> {
    // A running agent would put everything back within a second.
    let _lock = state::lock_if_there(&config.state_dir).context("stop the agent first")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    let removed = runtime.block_on(async {
        let mut netlink = Netlink::open(&config.device)?;
        netlink.cleanup().await
    })?;
    tell(&kernel(&config.device, removed))?;
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

fn kernel(device: &str, removed: Removed) -> String {
    let word = |there: bool| if there { "removed" } else { "was not there" };
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
