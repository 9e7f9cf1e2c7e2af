//! A registry that does not answer keeps no node from its repairs, nor from its end.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Result, ensure};
use podwire_testbed::agent_view::{wait_status, wait_whole};
use podwire_testbed::kernel_state::{KernelState, time_to_heal};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{HungFolder, Topology};

pub(crate) const TESTS: &[Test] = &[(
    "a_registry_that_hangs_stops_no_repair_and_no_end",
    a_registry_that_hangs,
)];

fn a_registry_that_hangs(context: &Context) -> Result<()> {
    let bed = context.mesh(&Topology::new().nodes(2).pods_per_node(1))?;
    wait_whole(&bed)?;
    let node = bed.node(1);
    // A record that cannot be written keeps the agent trying.
    let record = bed.directory().record_path(node.name());
    fs::remove_file(&record)?;
    fs::create_dir(&record)?;
    let told = |text: &'static str| {
        let is_told = move |problem: &String| problem.contains(text);
        wait_status(node, text, |status| status.problems.iter().any(is_told))
    };
    told("cannot publish the own record")?;
    let whole = KernelState::of(node)?;

    let hung = HungFolder::new()?;
    let folder = bed.directory().path();
    let aside = folder.with_extension("aside");
    fs::rename(folder, &aside)?;
    symlink(hung.path(), folder)?;
    told("does not answer")?;
    time_to_heal(node, &whole, || {
        let flush = ["delete", "table", "inet", "podwire"];
        node.namespace().output("nft", &flush, "").map(drop)
    })?;
    let ended = node.stop_agent()?;
    ensure!(ended.success(), "{ended}");

    fs::remove_file(folder)?;
    fs::rename(&aside, folder)?;
    drop(hung);
    fs::remove_dir(&record)?;
    node.start_agent()?;
    node.wait_ready()?;
    wait_whole(&bed)
}
