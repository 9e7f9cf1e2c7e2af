//! What a reboot takes away: pods, kernel state and the run folder, and nothing else.
//!
//! Pods go first and come back last, as with a container runtime. To take all guards away under
//! running pods, with no agent there, opens a path that nothing promises to keep closed
//! (SECURITY.md): the last packets of their connections would show on the underlay.

use std::fs;

use anyhow::Result;
use podwire_testbed::Node;

/// Stops the pods, then loses what is in the kernel and in the run folder.
pub(crate) fn reboot(node: &Node) -> Result<()> {
    set_pods(node, "down")?;
    // Device and table may be gone already.
    let script = "ip link delete podwire0 2>/dev/null || true\n\
                  for version in -4 -6; do\n\
                  ip $version rule flush proto 119\n\
                  ip $version route flush table all proto 119\n\
                  done\n\
                  nft delete table inet podwire 2>/dev/null || true\n\
                  nft delete table inet podwire_standby 2>/dev/null || true\n";
    node.namespace().output("sh", &["-e"], script)?;
    for entry in fs::read_dir(node.run_dir())? {
        fs::remove_file(entry?.path())?;
    }
    Ok(())
}

/// Starts the pods again.
pub(crate) fn start_pods(node: &Node) -> Result<()> {
    set_pods(node, "up")
}

fn set_pods(node: &Node, state: &str) -> Result<()> {
    let lines = node.pods().iter().map(|pod| {
        let port = pod.port();
        format!("link set {port} {state}")
    });
    node.namespace().ip(&lines.collect::<Vec<_>>())
}
