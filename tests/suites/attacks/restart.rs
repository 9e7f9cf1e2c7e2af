//! All nodes at once: nobody is left to remember anything.

use anyhow::{Context as _, Result};
use podwire_testbed::agent_view::wait_peers;
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{IpVersion, Topology, Traffic, matrix};

pub(crate) const TESTS: &[Test] = &[(
    "a_mesh_whose_agents_are_all_killed_at_once_comes_back_by_itself",
    all,
)];

/// Datagrams a second of each of 112 flows.
const RATE: u32 = 5;

#[expect(
    clippy::print_stdout,
    reason = "how long it takes is for people to read"
)]
fn all(context: &Context) -> Result<()> {
    let bed = context.mesh(&Topology::new().nodes(8).pods_per_node(1))?;
    wait_peers(&bed)?;
    let traffic = Traffic::between_all(&bed, &[IpVersion::V4, IpVersion::V6], RATE)?;
    traffic.passes()?;
    let back = traffic.restart_all()?;
    println!(
        "8 nodes are back {} ms after the start of their agents",
        back.as_millis()
    );
    traffic.stop().context("after the restart")?;
    matrix::all_reached(&bed.matrix().run())
}
