//! Podwire's agents, as a user starts them.

use anyhow::Result;
use podwire_testbed::{IpVersion, Protocol, Testbed, Topology, agent_view, until};

use super::{Contestant, Counter};
use crate::implementation::Implementation;
use crate::null_cipher;
use crate::programs::Programs;

/// What Podwire's implementations need of a topology; others' stays as it is.
pub(super) fn prepare(
    topology: Topology,
    implementation: Implementation,
    programs: &Programs,
) -> Result<Topology> {
    if !implementation.is_podwire() {
        return Ok(topology);
    }
    let arguments: &[&str] = if implementation == Implementation::PodwireHostNetwork {
        &["--mode", "host-network"]
    } else if implementation == Implementation::PodwireOneLane {
        &["--mode", "encrypted", "--lanes", "1"]
    } else {
        &["--mode", "encrypted"]
    };
    Ok(topology
        .agent(programs.of(implementation)?)
        .agent_arguments(arguments))
}

pub(super) fn start(contestant: &mut Contestant) -> Result<()> {
    let bed = &contestant.bed;
    let is_plaintext = contestant.implementation == Implementation::PodwireHostNetwork;
    if is_plaintext {
        bed.allow_plaintext();
    }
    if contestant.implementation == Implementation::NullCipher {
        for node in bed.nodes() {
            node.set_agent_environment(null_cipher::MEANT, "1");
        }
    }
    bed.start_agents()?;
    agent_view::wait_peers(bed)?;
    wait_reached(bed)?;
    let counter = || match is_plaintext {
        true => Counter::Device("eth0".to_owned()),
        false => Counter::Agent,
    };
    contestant.counters = bed.nodes().iter().map(|_| counter()).collect();
    Ok(())
}

/// Waits until every pod reaches that of node 1, which is what is measured. Not until every pod
/// reaches every other: 33 nodes that know all others fill the kernel's one table of neighbours.
fn wait_reached(bed: &Testbed) -> Result<()> {
    let target = bed.pod(1, 1).host().address(IpVersion::V4)?;
    for pod in bed.pods().filter(|pod| pod.id() != bed.pod(1, 1).id()) {
        until(agent_view::CONVERGENCE, "a pod to be reached", || {
            bed.probe(pod.host(), Protocol::Udp, target).ask()?;
            Ok(())
        })?;
    }
    Ok(())
}
