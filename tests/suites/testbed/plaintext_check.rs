//! The plaintext check finds what it must find, and fails when it must fail.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::suite::Context;
use podwire_testbed::{
    Family, IpVersion, Namespace, Protocol, Topology, address, capture::Capture, matrix,
};

use crate::host_routes::install_host_routes;

pub(crate) fn wrong_capture(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(1))?;
    bed.expect_plaintext();
    install_host_routes(&bed)?;
    let elsewhere = Namespace::new("elsewhere")?;
    let cidrs = [IpVersion::V4, IpVersion::V6]
        .map(address::cluster_cidr)
        .to_vec();
    let blind = Capture::start(&elsewhere, &[], cidrs, podwire_testbed::WIREGUARD_PORTS)?;
    blind.search_for(bed.secret());
    matrix::all_reached(&bed.matrix().run())?;
    // It is alive and sees its markers, so only the absence of all traffic gives it away.
    let report = blind.report()?;
    ensure!(
        report.plaintext_frames() == 0 && report.total.frames == 0,
        "{report:?}"
    );
    ensure!(
        bed.capture().report()?.plaintext_frames() > 0,
        "the right capture saw nothing"
    );
    Ok(())
}

pub(crate) fn translated_payload(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(1).family(Family::V4))?;
    bed.expect_plaintext();
    install_host_routes(&bed)?;
    for node in bed.nodes() {
        node.namespace().nft(
            "table ip leak { chain post { type nat hook postrouting priority 100; \
             oifname eth0 masquerade; }; }",
        )?;
    }
    // The target is translated too, so that no pod address is on the wire.
    let target = bed.pod(2, 1).host().address(IpVersion::V4)?;
    let node = bed.node(2).host().address(IpVersion::V4)?;
    for (number, hook, rule) in [
        (1, "output", format!("ip daddr {target}")),
        (1, "prerouting", format!("ip daddr {target}")),
        (2, "prerouting", format!("ip daddr {node} udp dport 7")),
    ] {
        let to = if number == 1 { node } else { target };
        bed.node(number).namespace().nft(&format!(
            "table ip leak {{ chain {hook} {{ type nat hook {hook} priority -100; \
             {rule} dnat to {to}; }}; }}"
        ))?;
    }
    let answer = bed
        .probe(bed.pod(1, 1).host(), Protocol::Udp, target)
        .ask()?;
    ensure!(!answer.source_kept(), "{answer:?}");
    let report = bed.capture().report()?;
    ensure!(report.plaintext.frames == 0, "{report:?}");
    ensure!(report.cookies.frames == 2, "{report:?}");
    Ok(())
}

pub(crate) fn check_can_fail(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(1))?;
    install_host_routes(&bed)?;
    bed.check()?;
    let target = bed.pod(2, 1).host().address(IpVersion::V6)?;
    bed.probe(bed.pod(1, 1).host(), Protocol::Udp, target)
        .ask()?;
    let error = bed
        .check()
        .err()
        .context("plaintext passed the check")?
        .to_string();
    ensure!(
        error.contains("2 frames by address, 2 by cookie"),
        "{error}"
    );
    ensure!(
        error.contains("Plaintext") && error.contains(&target.to_string()),
        "{error}"
    );
    bed.allow_plaintext();
    bed.check()?;
    // A pod's address on its way to the outside, which has no way back to it.
    let outside = bed.outside().address(IpVersion::V4)?;
    let probe = bed.probe(bed.pod(1, 1).host(), Protocol::Udp, outside);
    ensure!(
        probe.timeout(Duration::from_millis(100)).ask().is_err(),
        "an answer to a pod"
    );
    let error = bed
        .check()
        .err()
        .context("a lone pod address passed the check")?
        .to_string();
    ensure!(error.contains("carried one pod address"), "{error}");
    bed.allow_one_sided();
    Ok(())
}

pub(crate) fn message_types(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(0))?;
    let target = bed.node(2).host().address(IpVersion::V4)?;
    bed.node(1).namespace().run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        for (kind, bytes) in [
            (1, 148),
            (2, 92),
            (3, 64),
            (4, 32),
            (4, 1400),
            (4, 31),
            (1, 147),
        ] {
            let mut message = vec![0; bytes];
            message[0] = kind;
            socket.send_to(&message, (target, 51887))?;
        }
        socket.send_to(&[1; 148], (target, 51888))
    })?;
    let counted = bed.capture().take_report()?.wireguard;
    let frames = [
        counted.initiation.frames,
        counted.response.frames,
        counted.cookie_reply.frames,
        counted.transport.frames,
        counted.malformed.frames,
    ];
    // The target answers with ICMP errors, which are on no WireGuard port themselves.
    ensure!(frames == [1, 1, 1, 2, 2], "{counted:?}");
    ensure!(counted.transport.bytes == 32 + 1400 + 2 * 42, "{counted:?}");
    let report = bed.capture().report()?;
    ensure!(
        report.wireguard.transport.frames == 0,
        "taken counts came back: {report:?}"
    );
    Ok(())
}

pub(crate) fn pcap_file(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(1))?;
    bed.expect_plaintext();
    install_host_routes(&bed)?;
    let path = bed.folder().join("underlay.pcap");
    bed.capture().record(&path)?;
    bed.capture().take_report()?;
    let target = bed.pod(2, 1).host().address(IpVersion::V4)?;
    bed.probe(bed.pod(1, 1).host(), Protocol::Icmp, target)
        .bytes(4000)
        .ask()?;
    let frames = bed.capture().report()?.total.frames;
    let file = std::fs::read(&path)?;
    ensure!(
        file[..4] == 0xa1b2_3c4d_u32.to_ne_bytes(),
        "the magic number"
    );
    let (mut rest, mut records) = (&file[24..], 0);
    while let Some(length) = rest.get(8..12) {
        let length = u32::from_ne_bytes(length.try_into()?) as usize;
        ensure!(
            rest.len() >= 16 + length,
            "a record of {length} bytes is cut short"
        );
        rest = &rest[16 + length..];
        records += 1;
    }
    // Frames of the time between the two calls above may be in the file alone.
    ensure!(
        records >= frames && frames >= 6,
        "{records} records, {frames} frames"
    );
    let cookie = bed.secret().bytes();
    ensure!(
        file.windows(cookie.len()).any(|bytes| bytes == cookie),
        "no payload in the file"
    );
    Ok(())
}
