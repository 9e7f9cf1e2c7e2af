//! A node whose own address seems to lie among the cluster's pods derives no guards from that, and
//! goes on with what it has: it heals, and it follows whom the registry removes.

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, peers, routes, wait_status, wait_whole};
use podwire_testbed::kernel_state::{KernelState, time_to_heal};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Topology, matrix, until};

pub(crate) const TESTS: &[Test] = &[(
    "a_node_address_among_the_pods_stops_neither_healing_nor_the_removal_of_a_peer",
    locked_out,
)];

fn locked_out(context: &Context) -> Result<()> {
    let bed = context.mesh(&Topology::new().nodes(3).pods_per_node(1))?;
    wait_whole(&bed)?;
    let (node, leaver) = (bed.node(1), bed.node(3));
    let whole = KernelState::of(node)?;
    let among_pods = "10.244.99.9".parse()?;
    node.edit_manifest(|manifest| manifest.addresses.push(among_pods))?;
    wait_status(node, "the address to be named", |status| {
        let mut problems = status.problems.iter();
        problems.any(|problem| problem.contains("cut the node off"))
    })?;
    for damage in [
        "delete table inet podwire\n",
        "flush chain inet podwire forward\n",
    ] {
        time_to_heal(node, &whole, || node.namespace().nft(damage).map(drop))
            .with_context(|| format!("nft {damage}"))?;
    }
    leaver.delete_manifest()?;
    until(CONVERGENCE, "the peer to be gone", || {
        let peers = peers(node)?;
        ensure!(peers.iter().all(|peer| peer.node != leaver.name()));
        let routes = routes(node)?;
        let to_it = |line: &&String| line.contains("10.244.3.0/24") && line.contains("podwire0");
        let left: Vec<_> = routes.iter().filter(to_it).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    node.edit_manifest(|manifest| manifest.addresses.retain(|address| *address != among_pods))?;
    leaver.edit_manifest(|_| ())?;
    until(CONVERGENCE, "the mesh to be whole again", || {
        matrix::all_reached(&bed.matrix().run())
    })?;
    until(CONVERGENCE, "the node to be as before", || {
        whole.is_that_of(node)
    })
}
