//! What can be wrong with `/dev/net/tun`: told apart, each with its remedy. A node that was
//! encrypted stays closed; a new one is host-network, as declared, and says for want of what.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, status, wait_peers, wait_status};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{
    Confinement, Node, Testbed, Topology, TunFile, matrix, results, sandbox, until,
};

use crate::closed::{nothing_passes, tells};

pub(crate) const TESTS: &[Test] = &[
    (
        "each_lack_of_a_tun_device_is_told_apart_and_leaves_an_encrypted_node_closed",
        told_apart,
    ),
    (
        "a_new_node_that_is_denied_the_tun_device_says_so_while_it_works_in_plaintext",
        a_new_node,
    ),
];

/// What is kept from the agent, and what it says.
const LACKS: [(Confinement, &[&str]); 5] = [
    (
        Confinement::TunFile(TunFile::Missing),
        &["/dev/net/tun is missing", "modprobe tun"],
    ),
    (
        Confinement::TunFile(TunFile::NoDriver),
        &["/dev/net/tun has no driver", "modprobe tun"],
    ),
    (
        Confinement::TunFile(TunFile::Regular),
        &["/dev/net/tun is not the TUN driver's"],
    ),
    (
        Confinement::TunFile(TunFile::Unreadable),
        &["may not be opened by this user", "chmod 0666"],
    ),
    (
        Confinement::TunDevice,
        &["denied to this container", "c 10:200 rwm"],
    ),
];

fn whole(bed: &Testbed) -> Result<()> {
    bed.nodes().iter().try_for_each(Node::wait_ready)?;
    wait_peers(bed)?;
    until(CONVERGENCE, "the mesh to be whole", || {
        matrix::all_reached(&bed.matrix().run())
    })
}

fn told_apart(context: &Context) -> Result<()> {
    let bed = context.mesh(&Topology::new().nodes(2).pods_per_node(1))?;
    whole(&bed)?;
    let node = bed.node(1);
    let mut table = String::from(
        "# How each surrounding of an agent was brought about\n\n| what is kept from it | how |\n\
         |---|---|\n",
    );
    for (lack, words) in LACKS {
        if lack == Confinement::TunFile(TunFile::NoDriver) && !sandbox::is_real_root() {
            let _ = writeln!(table, "| {lack:?} | not at all: it takes real root |");
            continue;
        }
        node.stop_agent()?;
        node.confine_agent(Some(lack));
        node.start_agent()?;
        let status = tells(node, words).with_context(|| format!("{lack:?}"))?;
        ensure!(
            status.mode == "closed" && status.plaintext.is_empty(),
            "{status:?}"
        );
        nothing_passes(&bed)?;
        ensure!(
            podwire_testbed::agent_view::status(bed.node(2))?
                .plaintext
                .is_empty(),
            "its peer takes it for a plaintext one"
        );
        let _ = writeln!(table, "| {lack:?} | {} |", node.means_of_confinement()?);
    }
    results::write("refusals", &table)?;
    node.stop_agent()?;
    node.confine_agent(None);
    node.start_agent()?;
    whole(&bed)
}

fn a_new_node(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(1))?;
    bed.expect_plaintext();
    let node = bed.node(2);
    node.confine_agent(Some(Confinement::TunDevice));
    bed.start_agents()?;
    let status_2 = tells(
        node,
        &["host-network", "plaintext", "denied to this container"],
    )?;
    ensure!(
        status_2.ready && status_2.mode == "host-network",
        "{status_2:?}"
    );
    wait_status(bed.node(1), "a plaintext peer", |status| {
        status.plaintext == ["node-2"]
    })?;
    ensure!(status(bed.node(1))?.mode == "encrypted", "node 1 followed");
    until(CONVERGENCE, "the mesh to be whole", || {
        matrix::all_reached(&bed.matrix().run())
    })
}
