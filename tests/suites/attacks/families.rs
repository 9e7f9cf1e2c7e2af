//! A node has an endpoint of each family: when one is dead, traffic takes the other.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, peer, routes_to};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{
    Impairment, ImpairmentId, IpVersion, Protocol, Testbed, Topology, Traffic, until,
};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_dead_ipv4_endpoint_is_left_for_ipv6_and_the_reverse_under_traffic",
        |context| moves(context, [IpVersion::V4, IpVersion::V6]),
    ),
    (
        "a_dead_ipv6_endpoint_is_left_for_ipv4_and_the_reverse_under_traffic",
        |context| moves(context, [IpVersion::V6, IpVersion::V4]),
    ),
];

const VERSIONS: [IpVersion; 2] = [IpVersion::V4, IpVersion::V6];

/// Datagrams a second of each flow.
const RATE: u32 = 20;

/// 15 s of silence and a retry, on a busy machine.
const FAILOVER: Duration = Duration::from_secs(90);

/// Nothing of a version passes between nodes, not even neighbour discovery.
fn dead(bed: &Testbed, version: IpVersion) -> Result<ImpairmentId> {
    bed.impair(&Impairment::blackhole().version(version))
}

/// Every lane of both nodes sends by this version.
fn wait_version(bed: &Testbed, version: IpVersion) -> Result<()> {
    for (node, other) in [(bed.node(1), "node-2"), (bed.node(2), "node-1")] {
        let what = format!("{} to send by {version}", node.name());
        until(FAILOVER, &what, || {
            let row = peer(node, other)?;
            let endpoint = row.endpoint.as_deref().unwrap_or_default();
            ensure!(
                endpoint.starts_with('[') == (version == IpVersion::V6),
                "{row:?}"
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// Datagrams that the kernel cuts into pieces: each piece must fit.
fn long_datagrams_pass(bed: &Testbed) -> Result<()> {
    for (from, to) in [(1, 2), (2, 1)] {
        for target in bed.pod(to, 1).addresses() {
            let probe = bed.probe(bed.pod(from, 1).host(), Protocol::Udp, target);
            let probe = probe.bytes(5_000);
            until(CONVERGENCE, &format!("a long datagram to {target}"), || {
                Ok(probe.ask()?)
            })?;
        }
    }
    Ok(())
}

/// The first version is preferred; it is dead at first. Then it lives and the other dies, under
/// traffic. At last this node itself loses it.
fn moves(context: &Context, [preferred, other]: [IpVersion; 2]) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(1))?;
    for node in bed.nodes() {
        node.edit_manifest(|manifest| {
            manifest
                .addresses
                .sort_by_key(|address| IpVersion::of(*address) != preferred);
        })?;
    }
    let first = dead(&bed, preferred)?;
    bed.start_agents()?;
    let traffic = Traffic::between_all(&bed, &VERSIONS, RATE)?;
    traffic.passes().context("before any session")?;
    wait_version(&bed, other)?;

    bed.heal(first)?;
    let second = dead(&bed, other)?;
    traffic.passes().context("under traffic")?;
    wait_version(&bed, preferred)?;
    bed.heal(second)?;

    let node = bed.node(1);
    let flag = if preferred == IpVersion::V4 {
        "-4"
    } else {
        "-6"
    };
    for what in ["address", "route"] {
        node.namespace()
            .output("ip", &[flag, what, "flush", "dev", "eth0"], "")?;
    }
    traffic.passes().context("with the other version alone")?;
    wait_version(&bed, other)?;
    long_datagrams_pass(&bed)?;
    let mtu = if other == IpVersion::V4 {
        "mtu 1440"
    } else {
        "mtu 1420"
    };
    until(CONVERGENCE, "routes that fit the endpoint in use", || {
        let mut routes = routes_to(node, bed.node(2))?;
        routes.retain(|line| line.contains("dev podwire0"));
        ensure!(
            routes.len() == 4 && routes.iter().all(|line| line.contains(mtu)),
            "{routes:?}"
        );
        Ok(())
    })?;
    traffic.stop().map(drop)
}
