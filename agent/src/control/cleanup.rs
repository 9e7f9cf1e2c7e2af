//! `podwire-agent cleanup`: what `run` leaves behind on purpose is removed on request.

use std::io::Write as _;

use anyhow::Context as _;
use podwire_core::cni_configuration::BRIDGE;

use crate::args::CleanupArgs;
use crate::cni_files::RemovedFiles;
use crate::config::cni_files;
use crate::netlink::{BridgeRemoval, Netlink};
use crate::state;

/// Removes what is ours, and nothing else: the CNI configuration first, so that no pod starts on a
/// node without guards, then what is in the kernel, and the bridge that the CNI plugin made for our
/// network, once no pod is behind it. The state folder is kept: its key is the node's identity.
pub(crate) fn cleanup(args: &CleanupArgs) -> anyhow::Result<()> {
    // A running agent would put everything back within a second.
    let _lock = state::lock_if_there(&args.state_dir).context("stop the agent first")?;
    let cni = match &args.cni_configuration_directory {
        Some(folder) => Some(cni_files(&args.run_dir, folder).remove()?),
        None => None,
    };
    let (removed, bridge) = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?
        .block_on(async {
            let mut netlink = Netlink::open(&args.device)?;
            let removed = netlink.cleanup().await?;
            anyhow::Ok((removed, netlink.remove_pod_bridge(BRIDGE).await?))
        })?;
    let word = |there: bool| if there { "removed" } else { "was not there" };
    let mut out = std::io::stdout();
    writeln!(
        out,
        "device {} {}; {} routes and {} rules removed; table inet podwire {}",
        args.device,
        word(removed.device),
        removed.routes,
        removed.rules,
        word(removed.guard)
    )
    .and_then(|()| match cni {
        Some(RemovedFiles { file, link }) => {
            let (link, file) = (word(link), word(file));
            writeln!(out, "CNI configuration: link {link}, file {file}")
        }
        None => Ok(()),
    })
    .and_then(|()| match bridge {
        BridgeRemoval::NotThere => Ok(()),
        BridgeRemoval::Removed => writeln!(out, "bridge {BRIDGE} removed"),
        BridgeRemoval::Kept(pods) => writeln!(
            out,
            "bridge {BRIDGE} kept, with {pods} pods behind it: recreate or delete them, and clean \
             up again"
        ),
    })
    .context("cannot write to standard output")
}
