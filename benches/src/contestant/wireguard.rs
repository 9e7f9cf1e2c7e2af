//! Other people's WireGuard in user space: one daemon a node, configured by its socket.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use podwire_testbed::Node;
use podwire_testbed::uapi::{Peer, Uapi};
use podwire_testbed::wireguard_daemon::{PORT, WireguardDaemon};
use x25519_dalek::{PublicKey, StaticSecret};

use super::{Contestant, Counter, node_address, pods_of};
use crate::implementation::Implementation;
use crate::programs::Programs;

pub(super) fn start(contestant: &mut Contestant, programs: &Programs) -> Result<()> {
    let nodes = contestant.bed.nodes();
    contestant.secrets = secrets(nodes)?;
    contestant.daemons = nodes.iter().map(|_| None).collect();
    for index in 0..contestant.daemons.len() {
        start_node(contestant, index, programs)?;
        let uapi = Uapi::of(&interface(contestant, &contestant.bed.nodes()[index]));
        contestant.counters.push(Counter::Uapi(uapi));
    }
    Ok(())
}

/// Starts the daemon of a node and configures it.
pub(super) fn start_node(
    contestant: &mut Contestant,
    index: usize,
    programs: &Programs,
) -> Result<()> {
    let program = programs.of(contestant.implementation)?;
    let nodes = contestant.bed.nodes();
    let (node, secret) = (&nodes[index], &contestant.secrets[index]);
    let folder = contestant.bed.folder();
    let daemon = WireguardDaemon::start_as(interface(contestant, node), node, &folder, program)?;
    let peers = peers(nodes, &contestant.secrets, index)?;
    daemon.uapi().configure(&secret.to_bytes(), PORT, &peers)?;
    daemon.route(node, &peers)?;
    contestant.daemons[index] = Some(daemon);
    Ok(())
}

/// One secret key for each node.
pub(super) fn secrets(nodes: &[Node]) -> Result<Vec<StaticSecret>> {
    let one = |_| {
        let mut bytes = [0; 32];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .context("the kernel gives no random bytes")?;
        Ok(StaticSecret::from(bytes))
    };
    nodes.iter().map(one).collect()
}

/// Everybody else's.
pub(super) fn peers(nodes: &[Node], secrets: &[StaticSecret], own: usize) -> Result<Vec<Peer>> {
    let others = nodes.iter().zip(secrets).enumerate();
    others
        .filter(|(index, _)| *index != own)
        .map(|(_, (node, secret))| {
            Ok(Peer {
                public_key: PublicKey::from(secret).to_bytes(),
                endpoint: Some(SocketAddr::new(node_address(node)?, PORT)),
                allowed_ips: vec![pods_of(node)],
            })
        })
        .collect()
}

/// Sockets of all interfaces are in one folder: each needs a name of its own, and at most fifteen
/// letters.
fn interface(contestant: &Contestant, node: &Node) -> String {
    let letter = if contestant.implementation == Implementation::WireguardGo {
        'g'
    } else if contestant.implementation == Implementation::BoringtunCli {
        'b'
    } else {
        'm'
    };
    let size = contestant.bed.nodes().len();
    format!("wg{letter}{size}n{}", node.number())
}
