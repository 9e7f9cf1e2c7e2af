//! Nodes themselves, and what is not a pod: who is translated, and into what.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use ipnet::IpNet;
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Family, IpVersion, Node, Protocol, Testbed, Topology, until};

use podwire_testbed::agent_view::CONVERGENCE;

pub(crate) const TESTS: &[Test] = &[
    (
        "nodes_reach_remote_pods_and_back_under_the_devices_address",
        nodes_and_pods,
    ),
    (
        "pods_reach_the_outside_and_other_nodes_under_their_nodes_address",
        outside,
    ),
];

/// The address of a node's device: the lowest of an IPv4 pod CIDR, the highest of an IPv6 one.
fn device_address(node: &Node, version: IpVersion) -> Result<IpAddr> {
    let manifest = node.manifest();
    let cidr = manifest
        .pod_cidrs
        .iter()
        .find(|cidr| IpVersion::of(cidr.addr()) == version);
    match cidr.with_context(|| format!("{} has no {version} pods", node.name()))? {
        IpNet::V4(cidr) => Ok(cidr.network().into()),
        IpNet::V6(cidr) => Ok(cidr.broadcast().into()),
    }
}

fn nodes_and_pods(context: &Context) -> Result<()> {
    let bed = context.mesh(&Topology::new().nodes(2).pods_per_node(1))?;
    let (node, pod) = (bed.node(1), bed.pod(2, 1).host());
    for version in [IpVersion::V4, IpVersion::V6] {
        let device = device_address(node, version)?;
        let target = pod.address(version)?;
        let underlay = node.host().address(version)?;
        for protocol in Protocol::ALL {
            let probe = bed.probe(node.host(), protocol, target);
            let answer = until(CONVERGENCE, "a remote pod's answer", || Ok(probe.ask()?))?;
            ensure!(
                answer.source == device,
                "{protocol} {version} left as {}",
                answer.source
            );
            ensure!(answer.source_kept(), "{protocol} {version}: {answer:?}");
            // The underlay's address is nobody's pod: the peer would refuse it, and in the clear
            // it must not go. The cookie of this probe is searched for on the underlay.
            let answer = probe
                .source(underlay)
                .ask()
                .with_context(|| format!("{protocol} from {underlay} to {target}"))?;
            ensure!(
                answer.source == underlay,
                "{protocol} {version}: {answer:?}"
            );
            ensure!(
                answer.source_seen == device,
                "{protocol} {version}: {answer:?}"
            );
        }
        let back = bed.probe(pod, Protocol::Icmp, device).ask();
        let back = back.with_context(|| format!("from a pod to the device's {device}"))?;
        ensure!(back.source_kept(), "{version}: {back:?}");
    }
    Ok(())
}

fn outside(context: &Context) -> Result<()> {
    let dual = context.mesh(&Topology::new().nodes(2).pods_per_node(1))?;
    translated(&dual, &[IpVersion::V4, IpVersion::V6])?;
    let topology = Topology::new().nodes(2).pods_per_node(1).family(Family::V6);
    let single = context.mesh(&topology)?;
    translated(&single, &[IpVersion::V6])
}

fn translated(bed: &Testbed, versions: &[IpVersion]) -> Result<()> {
    let (own, pod) = (bed.node(1).host(), bed.pod(1, 1).host());
    for version in versions {
        let own = own.address(*version)?;
        let targets = [
            (bed.outside().address(*version)?, own),
            (bed.node(2).host().address(*version)?, own),
            // Its own node sees the pod as it is: that packet leaves by no link.
            (own, pod.address(*version)?),
        ];
        for (target, expected) in targets {
            for protocol in Protocol::ALL {
                let answer = bed
                    .probe(pod, protocol, target)
                    .ask()
                    .with_context(|| format!("{protocol} from a pod to {target}"))?;
                ensure!(
                    answer.source_seen == expected,
                    "{protocol} to {target} seen from {}, not {expected}",
                    answer.source_seen
                );
            }
        }
    }
    Ok(())
}
