//! Plain host routes stand in for a mesh.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::suite::Context;
use podwire_testbed::{
    Family, IpVersion, Protocol, Testbed, Topology, UnderlayKind, address, matrix,
};

/// Every node routes every other node's pods to that node, or to the router that knows it.
pub(crate) fn install_host_routes(bed: &Testbed) -> Result<()> {
    let mut router = Vec::new();
    for node in bed.nodes() {
        let kind = bed.underlay().kind();
        let mut lines = Vec::new();
        for other in bed
            .nodes()
            .iter()
            .filter(|other| other.number() != node.number())
        {
            let manifest = other.manifest();
            for (cidr, address) in manifest.pod_cidrs.iter().zip(&manifest.addresses) {
                let lan = kind.lan_of(node.number());
                let via = if kind.lan_of(other.number()) == lan {
                    *address
                } else {
                    address::router(address::lan(lan, IpVersion::of(*address)))
                };
                lines.push(format!("route add {cidr} via {via}"));
            }
        }
        node.namespace().ip(&lines)?;
        let manifest = node.manifest();
        for (cidr, address) in manifest.pod_cidrs.iter().zip(&manifest.addresses) {
            router.push(format!("route add {cidr} via {address}"));
        }
    }
    if bed.underlay().kind() == UnderlayKind::TwoLans {
        bed.underlay().namespace().ip(&router)?;
    }
    Ok(())
}

pub(crate) fn plain_routes(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(3).pods_per_node(2))?;
    bed.expect_plaintext();
    install_host_routes(&bed)?;
    let results = bed.matrix().run();
    // Six pods, five others each, three protocols, two versions.
    ensure!(results.len() == 6 * 5 * 3 * 2, "{} pairs", results.len());
    matrix::all_reached(&results)?;
    let report = bed.capture().report()?;
    let between_nodes = 6 * 4 * 3 * 2;
    ensure!(report.plaintext.frames >= 2 * between_nodes, "{report:?}");
    ensure!(report.cookies.frames >= 2 * between_nodes, "{report:?}");
    ensure!(report.one_sided.frames == 0, "{report:?}");
    // The longest datagrams there are, in fragments.
    let (from, to) = (bed.pod(1, 1).host(), bed.pod(2, 1).host());
    for (version, bytes) in [(IpVersion::V4, 65_507), (IpVersion::V6, 65_527)] {
        for protocol in [Protocol::Udp, Protocol::Icmp] {
            bed.probe(from, protocol, to.address(version)?)
                .bytes(bytes)
                .ask()?;
        }
        bed.probe(from, Protocol::Tcp, to.address(version)?)
            .bytes(1 << 20)
            .ask()?;
    }
    Ok(())
}

pub(crate) fn two_lans(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().underlay(UnderlayKind::TwoLans))?;
    bed.expect_plaintext();
    install_host_routes(&bed)?;
    matrix::all_reached(&bed.matrix().run())
}

pub(crate) fn single_versions(context: &Context) -> Result<()> {
    for family in [Family::V4, Family::V6] {
        let bed = context.testbed(&Topology::new().nodes(2).family(family))?;
        bed.expect_plaintext();
        install_host_routes(&bed)?;
        let results = bed.matrix().run();
        ensure!(results.len() == 4 * 3 * 3, "{} pairs", results.len());
        matrix::all_reached(&results)?;
        let version = family.versions()[0];
        bed.probe(
            bed.node(1).host(),
            Protocol::Tcp,
            bed.outside().address(version)?,
        )
        .ask()?;
    }
    Ok(())
}

pub(crate) fn no_routes(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(2).pods_per_node(1))?;
    // Nothing keeps these packets from the default route: they carry two pods' addresses.
    bed.allow_plaintext();
    let matrix = bed.matrix().timeout(Duration::from_millis(500)).attempts(1);
    let results = matrix.protocols(&[Protocol::Tcp, Protocol::Udp]).run();
    ensure!(results.len() == 2 * 2 * 2, "{} pairs", results.len());
    ensure!(
        results.iter().all(|result| !result.reached()),
        "reached without a route"
    );
    let error = matrix::all_reached(&results)
        .err()
        .context("failures that count as reached")?;
    ensure!(
        error.to_string().starts_with("8 of 8 pairs failed"),
        "{error}"
    );
    Ok(())
}

pub(crate) fn twenty_nodes(context: &Context) -> Result<()> {
    let bed = context.testbed(&Topology::new().nodes(20).pods_per_node(2))?;
    bed.expect_plaintext();
    install_host_routes(&bed)?;
    let results = bed.matrix().protocols(&[Protocol::Udp]).run();
    ensure!(results.len() == 40 * 39 * 2, "{} pairs", results.len());
    matrix::all_reached(&results)
}
