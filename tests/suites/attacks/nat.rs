//! A node that nobody can reach unasked, behind a router that translates its datagrams.

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, peer, wait_peers};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{
    IpVersion, Nat, Node, Testbed, Topology, Traffic, UnderlayKind, Wire, matrix, until,
};

use crate::copies::{self, Copies};

pub(crate) const TESTS: &[Test] = &[(
    "a_node_behind_nat_is_reached_and_followed_and_nobody_else_moves_it",
    hidden,
)];

const BEFORE: RangeInclusive<u16> = 40_000..=40_999;
const AFTER: RangeInclusive<u16> = 45_000..=45_999;

/// Datagrams a second of each flow.
const RATE: u32 = 20;

/// The agent's keep-open interval is 25 s.
const REBINDING: Duration = Duration::from_secs(90);

/// Node 1 has found node 2 at the router, at one of these ports.
fn endpoint(node: &Node, ports: &RangeInclusive<u16>) -> Result<String> {
    let row = peer(node, "node-2")?;
    let endpoint = row.endpoint.context("no endpoint")?;
    let (address, port) = endpoint.rsplit_once(':').context("no port")?;
    ensure!(
        address == "192.0.2.1" && ports.contains(&port.parse()?),
        "node-2 is at {endpoint}"
    );
    Ok(endpoint)
}

fn hidden(context: &Context) -> Result<()> {
    let topology = Topology::new()
        .nodes(3)
        .pods_per_node(1)
        .underlay(UnderlayKind::TwoLans);
    let bed = context.testbed(&topology)?;
    let nat = Nat::in_front_of_lan_1(&bed, BEFORE)?;
    let wire = Wire::tap(&bed, 1)?;
    bed.node(2).set_agent_arguments(&["--no-endpoint"]);
    bed.start_agents()?;
    wait_peers(&bed)?;
    // Nobody but the hidden node's own agent has sent anything to it or from it.
    until(CONVERGENCE, "the hidden node to be asked", || {
        let target = bed.pod(2, 1).host().address(IpVersion::V4)?;
        let probe = bed.probe(bed.pod(1, 1).host(), podwire_testbed::Protocol::Udp, target);
        Ok(probe.ask()?)
    })?;
    until(CONVERGENCE, "the mesh to be whole", || {
        matrix::all_reached(&bed.matrix().run())
    })?;
    let traffic = Traffic::between_all(&bed, &[IpVersion::V4, IpVersion::V6], RATE)?;
    traffic.passes()?;
    let found = endpoint(bed.node(1), &BEFORE)?;
    others_move_nobody(&bed, &wire, &traffic, &found)?;

    nat.rebind(AFTER)?;
    until(REBINDING, "the hidden node to be followed", || {
        [bed.node(1), bed.node(3)]
            .iter()
            .try_for_each(|node| endpoint(node, &AFTER).map(drop))
    })?;
    traffic.passes().context("after the rebinding")?;
    traffic.stop().map(drop)
}

/// Copies and forgeries from other places leave the hidden node where it is.
fn others_move_nobody(
    bed: &Testbed,
    wire: &Wire,
    traffic: &Traffic<'_>,
    found: &str,
) -> Result<()> {
    let node = bed.node(1);
    let copies = Copies::caught(wire, node)?;
    copies::assert_counted(node, || copies.put_from_everywhere(wire))?;
    traffic.passes().context("after the copies")?;
    let row = peer(node, "node-2")?;
    ensure!(
        row.endpoint.as_deref() == Some(found),
        "it was at {found}: {row:?}"
    );
    Ok(())
}
