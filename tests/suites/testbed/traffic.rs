//! Counters, iperf3 and a link that does not treat all frames alike.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use podwire_testbed::suite::Context;
use podwire_testbed::{
    Family, Impairment, IpVersion, Iperf, LinkQuality, ProbeError, Protocol, Topology, until,
};

use crate::host_routes::install_host_routes;

const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) fn counters_on_a_good_path(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(1))?;
    bed.expect_plaintext();
    install_host_routes(&bed)?;
    let (from, to) = (bed.pod(1, 1).host(), bed.pod(2, 1).host());
    for version in [IpVersion::V4, IpVersion::V6] {
        let tcp = bed.tcp_counter(from, to.address(version)?, 500)?;
        let udp = bed.udp_counter(from, to, version, 2000)?;
        tcp.wait_for_more(200, DEADLINE)?;
        udp.wait_for_more(1000, DEADLINE)?;
        let (tcp, udp) = (tcp.stop()?, udp.stop()?);
        ensure!(
            tcp.broken.is_none() && tcp.out_of_turn == 0 && tcp.echoed == tcp.sent,
            "{tcp:?}"
        );
        ensure!(
            udp.lost() == 0 && udp.repeated == 0 && udp.refused == 0,
            "{udp:?}"
        );
    }
    Ok(())
}

pub(crate) fn counters_on_a_bad_path(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(1).family(Family::V4))?;
    bed.expect_plaintext();
    install_host_routes(&bed)?;
    let (from, to) = (bed.pod(1, 1).host(), bed.pod(2, 1).host());
    let target = to.address(IpVersion::V4)?;
    let tcp = bed.tcp_counter(from, target, 100)?;
    let udp = bed.udp_counter(from, to, IpVersion::V4, 100)?;
    tcp.wait_for_more(10, DEADLINE)?;
    udp.wait_for_more(10, DEADLINE)?;
    let hole = bed.impair(&Impairment::blackhole().from(1).to(2))?;
    until(DEADLINE, "a gap of half a second", || {
        let under_way = udp.count().lost();
        ensure!(under_way > 50, "{under_way} lost");
        Ok(())
    })?;
    bed.heal(hole)?;
    tcp.wait_for_more(10, DEADLINE)?;
    let udp = udp.stop()?;
    ensure!(
        udp.lost() > 50 && udp.longest_gap > Duration::from_millis(400),
        "{udp:?}"
    );
    // TCP sends again what was lost: a gap and nothing else.
    let before = tcp.count();
    ensure!(
        before.broken.is_none() && before.out_of_turn == 0,
        "{before:?}"
    );
    ensure!(
        before.longest_gap > Duration::from_millis(400),
        "{before:?}"
    );
    // A reset is seen, and ends it.
    bed.node(2).namespace().nft(&format!(
        "table inet refusal {{ chain forward {{ type filter hook forward priority 0; \
         ip daddr {target} tcp dport 7 reject with tcp reset; }}; }}"
    ))?;
    until(DEADLINE, "the reset", || {
        let broken = tcp.count().broken;
        ensure!(
            broken
                .as_deref()
                .is_some_and(|reason| reason.contains("reset")),
            "{broken:?}"
        );
        Ok(())
    })?;
    ensure!(
        tcp.stop()?.broken.is_some(),
        "the end of a connection was forgotten"
    );
    Ok(())
}

pub(crate) fn iperf(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(1))?;
    bed.expect_plaintext();
    install_host_routes(&bed)?;
    let (from, to) = (bed.pod(1, 1).host(), bed.pod(2, 1).host());
    let own = std::process::id();
    // Nothing slows this path: a search of every byte would not keep up on a busy machine.
    bed.capture().search_payloads(false)?;
    for version in [IpVersion::V4, IpVersion::V6] {
        let iperf = Iperf::new(from, to).version(version).seconds(1).streams(2);
        let result = iperf.processes(&[own]).run()?;
        ensure!(
            result.bytes > 1 << 20 && result.gbits_per_second > 0.0,
            "{result:?}"
        );
        // This process captures it.
        ensure!(
            result.cpu_seconds > 0.0 && result.cpu_seconds_per_gib() > 0.0,
            "{result:?}"
        );
    }
    Ok(())
}

pub(crate) fn link_quality(context: &Context) -> Result<()> {
    let topology = Topology::new().nodes(2).pods_per_node(1).userspace_link(1);
    let bed = context.testbed(&topology)?;
    bed.expect_plaintext();
    install_host_routes(&bed)?;
    let link = bed.node(1).link()?;
    ensure!(bed.node(2).link().is_err(), "a link that nobody asked for");
    let (from, to) = (bed.pod(1, 1).host(), bed.pod(2, 1).host());
    let probe = bed.probe(from, Protocol::Udp, to.address(IpVersion::V6)?);
    probe.ask()?;
    link.set_quality(LinkQuality {
        delay: Duration::from_millis(40),
        ..LinkQuality::default()
    });
    let answer = probe.ask()?;
    // Once there and once back.
    ensure!(answer.round_trip >= Duration::from_millis(80), "{answer:?}");
    link.set_quality(LinkQuality {
        delay: Duration::from_millis(1),
        reorder_percent: 10.0,
        reorder_by: Duration::from_millis(20),
        duplicate_percent: 10.0,
        ..LinkQuality::default()
    });
    let counter = bed.udp_counter(from, to, IpVersion::V4, 1000)?;
    counter.wait_for_more(1000, DEADLINE)?;
    let count = counter.stop()?;
    let did = link.count();
    ensure!(count.lost() == 0 && did.dropped == 0, "{count:?} {did:?}");
    ensure!(
        count.repeated > 20 && did.duplicated >= count.repeated,
        "{count:?} {did:?}"
    );
    ensure!(
        count.reordered > 20 && did.reordered > 20,
        "{count:?} {did:?}"
    );
    // Super-frames pass as they are, and the connection survives the disorder.
    bed.probe(from, Protocol::Tcp, to.address(IpVersion::V4)?)
        .bytes(4 << 20)
        .ask()?;
    ensure!(link.count().dropped == 0, "{:?}", link.count());
    Ok(())
}

pub(crate) fn mtu_change(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(0).mtu(9000))?;
    for version in [IpVersion::V4, IpVersion::V6] {
        let target = bed.node(2).host().address(version)?;
        let probe = bed
            .probe(bed.node(1).host(), Protocol::Icmp, target)
            .dont_fragment();
        let probe = probe.bytes(8000).timeout(Duration::from_millis(300));
        bed.set_mtu(9000)?;
        probe.ask()?;
        // Inside one LAN, nobody tells.
        bed.underlay().narrow_path(1500)?;
        match probe.ask() {
            // The link's own driver may say that it dropped the packet: ENOBUFS.
            Err(ProbeError::Timeout | ProbeError::Io(_)) => {}
            other => bail!("a path of 1500 bytes: {other:?}"),
        }
        bed.set_mtu(1500)?;
        match probe.ask() {
            Err(ProbeError::TooLong { path_mtu: 1500 }) => {}
            other => bail!("a link of 1500 bytes: {other:?}"),
        }
    }
    Ok(())
}
