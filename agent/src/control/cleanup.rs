//! `podwire-agent cleanup`: what `run` leaves behind on purpose is removed on request.

use std::io::Write as _;

use anyhow::Context as _;

use crate::args::CleanupArgs;
use crate::netlink::Netlink;
use crate::state;

/// Removes what is ours in the kernel, and nothing else. The state folder is kept: its key is the
/// node's identity.
pub(crate) fn cleanup(args: &CleanupArgs) -> anyhow::Result<()> {
    // A running agent would put everything back within a second.
    let _lock = state::lock_if_there(&args.state_dir).context("stop the agent first")?;
    let removed = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?
        .block_on(async {
            let mut netlink = Netlink::open(&args.device)?;
            netlink.cleanup().await
        })?;
    let word = |there: bool| if there { "removed" } else { "was not there" };
    writeln!(
        std::io::stdout(),
        "device {} {}; {} routes and {} rules removed; table inet podwire {}",
        args.device,
        word(removed.device),
        removed.routes,
        removed.rules,
        word(removed.guard)
    )
    .context("cannot write to standard output")
}
