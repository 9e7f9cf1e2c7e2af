//! Packets of every size on paths of every size: fragments, full segments, and no black hole.

use anyhow::{Context as _, Result, bail, ensure};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{
    Host, IpVersion, ProbeError, Protocol, Testbed, Topology, UnderlayKind, until,
};

use crate::bulk::Bulk;
use podwire_testbed::agent_view::{CONVERGENCE, routes_to, wait_peers};

pub(crate) const TESTS: &[Test] = &[
    ("packets_of_every_size_pass_at_an_mtu_of_1500", |context| {
        sizes(context, 1500)
    }),
    ("packets_of_every_size_pass_at_an_mtu_of_1400", |context| {
        sizes(context, 1400)
    }),
    ("packets_of_every_size_pass_at_an_mtu_of_9000", |context| {
        sizes(context, 9000)
    }),
    (
        "a_link_mtu_that_changes_is_learnt_and_nothing_stalls",
        links_change,
    ),
    (
        "a_narrower_path_behind_a_router_is_learnt_and_nothing_stalls",
        path_narrows,
    ),
];

/// IPv4, UDP and WireGuard around a packet: the endpoint is IPv4 where the node has both.
const OVERHEAD: u16 = 20 + 8 + 32;

/// What one exchange of a bulk connection carries.
const BULK_BYTES: usize = 4 << 20;

/// The longest payload of a datagram, and what is before it in a packet.
const fn datagram(version: IpVersion) -> (usize, u16) {
    match version {
        IpVersion::V4 => (65_507, 20 + 8),
        IpVersion::V6 => (65_527, 40 + 8),
    }
}

const VERSIONS: [IpVersion; 2] = [IpVersion::V4, IpVersion::V6];

fn sizes(context: &Context, mtu: u16) -> Result<()> {
    let pod_mtu = mtu.max(1500);
    let topology = Topology::new()
        .nodes(2)
        .pods_per_node(1)
        .mtu(mtu)
        .pod_mtu(pod_mtu);
    let bed = context.mesh(&topology)?;
    wait_peers(&bed)?;
    let (from, to) = (bed.pod(1, 1).host(), bed.pod(2, 1).host());
    for version in VERSIONS {
        let target = to.address(version)?;
        Bulk::connect(&bed, from, target, BULK_BYTES)?
            .exchange()
            .with_context(|| format!("bulk over {version}"))?;
        for protocol in [Protocol::Udp, Protocol::Icmp] {
            bed.probe(from, protocol, target)
                .bytes(datagram(version).0)
                .ask()
                .with_context(|| format!("the longest {protocol} datagram over {version}"))?;
        }
        learns(&bed, (from, to), version, pod_mtu, mtu - OVERHEAD)?;
    }
    Ok(())
}

/// A packet that may not be fragmented is answered with the size that passes, which then passes;
/// one byte more does not.
fn learns(
    bed: &Testbed,
    (from, to): (&Host, &Host),
    version: IpVersion,
    before: u16,
    expected: u16,
) -> Result<()> {
    let target = to.address(version)?;
    let probe = bed.probe(from, Protocol::Udp, target).dont_fragment();
    let of_size = |mtu: u16| probe.clone().bytes(usize::from(mtu - datagram(version).1));
    let what = format!("{version} packets of {before} bytes to be answered with {expected}");
    until(CONVERGENCE, &what, || match of_size(before).ask() {
        Err(ProbeError::TooLong { path_mtu }) if path_mtu == u32::from(expected) => Ok(()),
        other => bail!("{other:?}"),
    })?;
    of_size(expected)
        .ask()
        .with_context(|| format!("{version}, {expected} bytes"))?;
    match of_size(expected + 1).ask() {
        Err(ProbeError::TooLong { .. }) => Ok(()),
        other => bail!("{version}, {} bytes: {other:?}", expected + 1),
    }
}

fn links_change(context: &Context) -> Result<()> {
    let bed = context.mesh(&Topology::new().nodes(2).pods_per_node(1))?;
    narrowed(&bed, || bed.set_mtu(1400))?;
    // Wider again: routes follow. Pods keep what they have learnt for ten minutes.
    bed.set_mtu(1500)?;
    until(CONVERGENCE, "the routes to widen", || {
        let mut routes = routes_to(bed.node(1), bed.node(2))?;
        routes.retain(|line| line.contains("dev podwire0"));
        let wide = format!("mtu {}", 1500 - OVERHEAD);
        ensure!(routes.iter().all(|line| line.contains(&wide)), "{routes:?}");
        // In both families, each in two tables.
        ensure!(routes.len() == 4, "{routes:?}");
        Ok(())
    })
}

fn path_narrows(context: &Context) -> Result<()> {
    let topology = Topology::new()
        .nodes(2)
        .pods_per_node(1)
        .underlay(UnderlayKind::TwoLans);
    let bed = context.mesh(&topology)?;
    // Only the router's far link: the agent's own link stays wide, and ICMP has to tell it.
    narrowed(&bed, || {
        bed.underlay()
            .namespace()
            .ip(&["link set lan1 mtu 1400".to_owned()])
    })
}

/// Bulk in flight survives the change of the path to 1,400 bytes, and packets that may not be
/// fragmented learn it.
fn narrowed(bed: &Testbed, change: impl FnOnce() -> Result<()>) -> Result<()> {
    wait_peers(bed)?;
    let (from, to) = (bed.pod(1, 1).host(), bed.pod(2, 1).host());
    let mut streams = Vec::new();
    for version in VERSIONS {
        learns(bed, (from, to), version, 1500, 1500 - OVERHEAD)?;
        let mut stream = Bulk::connect(bed, from, to.address(version)?, BULK_BYTES)?;
        stream.exchange().context("before the change")?;
        streams.push(stream);
    }
    change()?;
    for (stream, version) in streams.iter_mut().zip(VERSIONS) {
        stream
            .exchange()
            .with_context(|| format!("{version} after the change"))?;
    }
    for version in VERSIONS {
        learns(bed, (from, to), version, 1500 - OVERHEAD, 1400 - OVERHEAD)?;
        let target = to.address(version)?;
        bed.probe(from, Protocol::Udp, target)
            .bytes(datagram(version).0)
            .ask()?;
    }
    Ok(())
}
