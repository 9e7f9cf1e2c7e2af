//! Congestion notification through the tunnel, on real packets.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::wait_peers;
use podwire_testbed::sniffer::{Sniffed, Sniffer};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Family, IpVersion, Testbed, Topology};
use socket2::SockRef;

pub(crate) const TESTS: &[Test] = &[
    (
        "a_congestion_mark_of_the_underlay_reaches_the_pod_as_rfc_6040_has_it",
        table,
    ),
    (
        "an_outer_packet_carries_the_congestion_bits_of_the_inner_one",
        outward,
    ),
];

/// Names of nft and bits, by number.
const CODEPOINTS: [&str; 4] = ["not-ect", "ect1", "ect0", "ce"];
const CE: usize = 3;

const BYTES: usize = 200;
const DEADLINE: Duration = Duration::from_secs(20);
/// Where nobody listens.
const PORT: u16 = 4000;

const VERSIONS: [IpVersion; 2] = [IpVersion::V4, IpVersion::V6];

/// The outer header tells of congestion in a way of its own in each.
const UNDERLAYS: [Family; 2] = [Family::V4, Family::V6];

/// RFC 6040 section 4.2, figure 4: by inner and outer codepoint.
fn leaving(inner: usize, outer: usize) -> Option<usize> {
    match (inner, outer) {
        (0, CE) => None,
        (0, _) => Some(0),
        (_, CE) => Some(CE),
        (2, 1) => Some(1),
        _ => Some(inner),
    }
}

fn mesh(context: &Context, underlay: Family) -> Result<std::sync::Arc<Testbed>> {
    let topology = Topology::new().nodes(2).pods_per_node(1);
    let topology = topology.underlay_family_only(underlay);
    let bed = context.testbed(&topology.agent_arguments(&["--lanes", "1"]))?;
    bed.start_agents()?;
    wait_peers(&bed)?;
    Ok(bed)
}

/// Marks what node 1 sends through the tunnel from here on.
fn mark(bed: &Testbed, codepoint: &str) -> Result<()> {
    bed.node(1).namespace().nft(&format!(
        "table inet marks {{ chain out {{ type filter hook postrouting priority 0; }}; }}; \
         flush chain inet marks out; \
         add rule inet marks out udp dport 51880 ip ecn set {codepoint}; \
         add rule inet marks out udp dport 51880 ip6 ecn set {codepoint}"
    ))
}

/// Sends a datagram from pod 1 to pod 2 with these bits.
fn send(bed: &Testbed, version: IpVersion, bits: usize) -> Result<()> {
    let (from, to) = (bed.pod(1, 1).host(), bed.pod(2, 1).host());
    let local = SocketAddr::new(from.address(version)?, 0);
    let socket = from.namespace().run(|| UdpSocket::bind(local))?;
    let class = u32::try_from(bits)?;
    match version {
        IpVersion::V4 => SockRef::from(&socket).set_tos_v4(class)?,
        IpVersion::V6 => SockRef::from(&socket).set_tclass_v6(class)?,
    }
    let secret = bed.secret().bytes().iter().copied().cycle();
    let payload: Vec<u8> = secret.take(BYTES).collect();
    socket.send_to(&payload, (to.address(version)?, PORT))?;
    Ok(())
}

fn table(context: &Context) -> Result<()> {
    UNDERLAYS
        .into_iter()
        .try_for_each(|underlay| table_over(context, underlay))
}

fn table_over(context: &Context, underlay: Family) -> Result<()> {
    let bed = mesh(context, underlay)?;
    let pod = Sniffer::start(bed.pod(2, 1).host().namespace(), PORT)?;
    for version in VERSIONS {
        for (outer, name) in CODEPOINTS.into_iter().enumerate() {
            mark(&bed, name)?;
            for (inner, inner_name) in CODEPOINTS.into_iter().enumerate() {
                send(&bed, version, inner)?;
                let expected = leaving(inner, outer);
                if expected.is_none() {
                    // Behind it comes one that never is dropped.
                    send(&bed, version, CE)?;
                }
                let found = pod.next(DEADLINE)?.ecn;
                ensure!(
                    found == expected.unwrap_or(CE),
                    "{version}: {inner_name} in {name} came as {found}, not {expected:?}"
                );
            }
        }
    }
    Ok(())
}

fn outward(context: &Context) -> Result<()> {
    UNDERLAYS
        .into_iter()
        .try_for_each(|underlay| outward_over(context, underlay))
}

fn outward_over(context: &Context, underlay: Family) -> Result<()> {
    let bed = mesh(context, underlay)?;
    let underlay = Sniffer::start(bed.node(2).namespace(), 51_880)?;
    for version in VERSIONS {
        for bits in 0..CODEPOINTS.len() {
            underlay.clear()?;
            send(&bed, version, bits)?;
            let long = |packet: &Sniffed| packet.bytes > BYTES;
            let found = underlay
                .find(DEADLINE, long)
                .with_context(|| format!("{version} {bits}"))?;
            ensure!(found.ecn == bits, "{version}: {bits} left as {found:?}");
        }
    }
    Ok(())
}
