//! Impairments of the underlay do what they say.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use podwire_testbed::suite::Context;
use podwire_testbed::{
    Family, Impairment, IpVersion, ProbeError, Protocol, Topology, UnderlayKind, until,
};

pub(crate) fn loss(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(0).family(Family::V4))?;
    let rule = bed.impair(&Impairment::loss(20.0).from(1).to(2).udp_port(9))?;
    let target = bed.node(2).host().address(IpVersion::V4)?;
    let sent = 5_000_u64;
    bed.node(1).namespace().run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        (0..sent).try_for_each(|_| match socket.send_to(b"discard", (target, 9)) {
            Ok(_) | Err(_) => std::io::Result::Ok(()),
        })
    })?;
    // The capture is in front of the rule: it still sees them all.
    let seen = bed.capture().report()?.total.frames;
    ensure!(seen >= sent, "saw {seen} of {sent}");
    let dropped = bed.dropped_by(rule)?;
    // Ten standard deviations around 1,000.
    ensure!(
        (717..1283).contains(&dropped),
        "dropped {dropped} of {sent}"
    );
    bed.heal(rule)
}

pub(crate) fn black_hole(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(0))?;
    for version in [IpVersion::V4, IpVersion::V6] {
        let (one, two) = (bed.node(1).host(), bed.node(2).host());
        let target = two.address(version)?;
        // A busy machine answers late.
        bed.probe(one, Protocol::Udp, target).ask()?;
        let there = bed.probe(one, Protocol::Udp, target);
        let there = there.timeout(Duration::from_millis(300));
        let rule = bed.impair(&Impairment::blackhole().from(1).to(2))?;
        ensure!(
            matches!(there.ask(), Err(ProbeError::Timeout)),
            "the black hole leaks"
        );
        let elsewhere = bed.probe(one, Protocol::Udp, bed.outside().address(version)?);
        elsewhere.ask()?;
        bed.heal(rule)?;
        until(Duration::from_secs(10), "the healed path", || {
            Ok(there.ask()?)
        })?;
    }
    Ok(())
}

pub(crate) fn narrow_path(context: &Context) -> Result<()> {
    let topology = Topology::new()
        .nodes(2)
        .pods_per_node(0)
        .underlay(UnderlayKind::TwoLans);
    let bed = context.testbed(&topology)?;
    for (version, bytes) in [(IpVersion::V4, 1472), (IpVersion::V6, 1452)] {
        let target = bed.node(2).host().address(version)?;
        let probe = bed.probe(bed.node(1).host(), Protocol::Udp, target);
        let full = probe
            .bytes(bytes)
            .dont_fragment()
            .timeout(Duration::from_secs(1));
        bed.underlay().narrow_path(1500)?;
        full.ask()?;
        bed.underlay().narrow_path(1400)?;
        // The router's ICMP message sets the asking kernel's idea of the path.
        until(Duration::from_secs(10), "ICMP too big", || {
            match full.ask() {
                Err(ProbeError::TooLong { path_mtu: 1400 }) => Ok(()),
                other => bail!("{other:?}"),
            }
        })?;
    }
    Ok(())
}
