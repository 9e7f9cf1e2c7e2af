//! `podwire-agent cleanup`: what `run` leaves behind on purpose is removed on request.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use anyhow::Context as _;
use podwire_core::cni_configuration::BRIDGE;

use super::withdrawal::withdraw;
use crate::admin::SOCKET_NAME;
use crate::cni_files::RemovedFiles;
use crate::config::CleanupConfig;
use crate::netlink::{BridgeRemoval, Netlink, Removed};
use crate::state;

/// Removes what is ours, and nothing else: the CNI configuration first, so that no pod starts on a
/// node without guards; then what is in the kernel, and the bridge that the CNI plugin made for our
/// network, once no pod is behind it; then the own record where a Node is named. The state folder
/// is kept unless told otherwise: its key is the node's identity. The socket of an agent that has
/// ended goes in any case.
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
    remove_socket(&config.run_dir)?;
    if config.remove_state {
        state::remove(&config.state_dir)?;
        tell(&format!("state in {} removed", config.state_dir.display()))?;
    }
    Ok(())
}

/// Removes the admin socket, which an agent leaves, as nobody listens there any more.
fn remove_socket(run_dir: &Path) -> anyhow::Result<()> {
    let path = run_dir.join(SOCKET_NAME);
    let is_socket = fs::symlink_metadata(&path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket {
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn the_socket_of_an_agent_that_has_ended_goes_and_a_file_of_its_name_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(SOCKET_NAME);
        remove_socket(folder.path()).expect("nothing to remove");
        drop(UnixListener::bind(&path).expect("a socket"));
        remove_socket(folder.path()).expect("removed");
        assert!(!path.exists());
        fs::write(&path, "theirs").expect("written");
        remove_socket(folder.path()).expect("left alone");
        assert!(path.exists());
    }
}
