//! One implementation on its own nodes and pods, ready to be measured.

pub(crate) mod kernel;
mod podwire;
mod wireguard;

use std::fs;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::uapi::Uapi;
use podwire_testbed::wireguard_daemon::WireguardDaemon;
use podwire_testbed::{Family, Host, IpVersion, Node, Testbed, Topology, address};
use x25519_dalek::StaticSecret;

use crate::implementation::Implementation;
use crate::programs::Programs;
use crate::window::Counted;

/// The underlay's MTU: Ethernet's.
const UNDERLAY_MTU: u16 = 1500;

/// Pods behind an encrypted path over IPv4: what every WireGuard set-up takes unless told
/// otherwise, which leaves room for an IPv6 underlay.
pub(crate) const TUNNEL_MTU: u16 = 1420;

/// Pods behind vxlan: 1500 less 50.
const VXLAN_MTU: u16 = 1450;

/// Of what arrived, the implementation's own count must show so much: headers and tags are more,
/// a path around it is nothing.
const CARRIED_MIN: f64 = 0.9;

/// Where an implementation counts what it has carried.
#[derive(Debug)]
enum Counter {
    /// WireGuard's user space interface.
    Uapi(Uapi),
    /// `podwire-agent peers`.
    Agent,
    /// The statistics of a device in its node.
    Device(String),
}

/// An implementation that runs.
pub(crate) struct Contestant {
    pub(crate) implementation: Implementation,
    pub(crate) bed: Testbed,
    /// One for each node.
    counters: Vec<Counter>,
    /// Daemons that are no agents; one for each node, none while it is ended.
    daemons: Vec<Option<WireguardDaemon>>,
    /// The keys of these, one for each node.
    secrets: Vec<StaticSecret>,
}

impl Contestant {
    /// Brings an implementation up on so many nodes of one pod each, IPv4.
    ///
    /// # Errors
    /// When it cannot be had or does not come up: the reason is for people.
    pub(crate) fn bring_up(
        implementation: Implementation,
        nodes: u8,
        programs: &Programs,
    ) -> Result<Self> {
        let topology = Topology::new()
            .nodes(nodes)
            .pods_per_node(1)
            .family(Family::V4)
            .mtu(UNDERLAY_MTU)
            .pod_mtu(pod_mtu(implementation));
        let topology = podwire::prepare(topology, implementation, programs)?;
        let bed = topology.start(&format!("bench of {implementation}"))?;
        let mut contestant = Self {
            implementation,
            bed,
            counters: Vec::new(),
            daemons: Vec::new(),
            secrets: Vec::new(),
        };
        contestant.start(programs)?;
        Ok(contestant)
    }

    fn start(&mut self, programs: &Programs) -> Result<()> {
        match self.implementation {
            Implementation::Plain => kernel::plain(self),
            Implementation::Vxlan => kernel::vxlan(self),
            Implementation::KernelWireguard => kernel::wireguard(self),
            Implementation::PodwireHostNetwork
            | Implementation::PodwireOneLane
            | Implementation::Podwire
            | Implementation::NullCipher => podwire::start(self),
            Implementation::WireguardGo
            | Implementation::BoringtunCli
            | Implementation::Gotatun => wireguard::start(self, programs),
        }
    }

    /// The pod of a node.
    pub(crate) fn pod(&self, node: u8) -> &Host {
        self.bed.pod(node, 1).host()
    }

    /// The processes of all nodes whose time counts: none of what the kernel carries.
    ///
    /// # Errors
    /// When one has ended.
    pub(crate) fn processes(&self) -> Result<Vec<Counted>> {
        let nodes = self.bed.nodes();
        if self.implementation.is_podwire() {
            let agent = |node: &Node| {
                Ok(Counted {
                    name: node.name().to_owned(),
                    id: node.agent_pid()?,
                })
            };
            return nodes.iter().map(agent).collect();
        }
        let daemons = nodes.iter().zip(&self.daemons);
        let daemon = |(node, daemon): (&Node, &Option<WireguardDaemon>)| {
            Some(Counted {
                name: node.name().to_owned(),
                id: daemon.as_ref()?.id(),
            })
        };
        Ok(daemons.filter_map(daemon).collect())
    }

    /// Kills what runs on a node.
    ///
    /// # Errors
    /// When nothing does.
    pub(crate) fn end(&mut self, node: u8) -> Result<()> {
        if self.implementation.is_podwire() {
            return self.bed.node(node).kill_agent().map(drop);
        }
        let daemon = self.daemons.get_mut(usize::from(node) - 1);
        drop(daemon.and_then(Option::take).context("nothing runs")?);
        Ok(())
    }

    /// Starts it again, with all that an operator does for it.
    ///
    /// # Errors
    /// When it does not start.
    pub(crate) fn start_again(&mut self, node: u8, programs: &Programs) -> Result<()> {
        if self.implementation.is_podwire() {
            return self.bed.node(node).start_agent();
        }
        wireguard::start_node(self, usize::from(node) - 1, programs)
    }

    /// Bytes that the implementation says all nodes together have taken from others.
    ///
    /// # Errors
    /// When it does not say.
    pub(crate) fn carried_bytes(&self) -> Result<u64> {
        let nodes = self.bed.nodes().iter().zip(&self.counters);
        nodes.map(|(node, counter)| counter.bytes(node)).sum()
    }

    /// Checks that what arrived since that many were carried came through the implementation, by
    /// its own count.
    ///
    /// # Errors
    /// When it did not.
    pub(crate) fn check_carried(&self, before: u64, payload: u64) -> Result<()> {
        let carried = self.carried_bytes()?;
        let carried = carried
            .checked_sub(before)
            .context("its counters went back: did it start anew?")?;
        #[expect(clippy::cast_precision_loss, reason = "a share of gigabytes")]
        let share = carried as f64 / payload.max(1) as f64;
        ensure!(
            share >= CARRIED_MIN,
            "{payload} bytes arrived, and {} says that it carried {carried}: the traffic took another \
             way",
            self.implementation
        );
        Ok(())
    }
}

impl Counter {
    fn bytes(&self, node: &Node) -> Result<u64> {
        match self {
            Self::Uapi(uapi) => uapi.received_bytes(),
            Self::Agent => {
                let peers = podwire_testbed::agent_view::peers(node)?;
                Ok(peers.iter().map(|peer| peer.received_bytes).sum())
            }
            Self::Device(device) => device_bytes(node, device),
        }
    }
}

/// What the kernel counts of a device.
fn device_bytes(node: &Node, device: &str) -> Result<u64> {
    // /sys shows the namespace that it was mounted in, /proc the reader's.
    let table = node
        .namespace()
        .run(|| fs::read_to_string("/proc/thread-self/net/dev"))?;
    received_by(&table, device).with_context(|| format!("no {device} in {table}"))
}

/// The first column behind a device's name.
fn received_by(table: &str, device: &str) -> Option<u64> {
    table
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == device)
        .and_then(|(_, counts)| counts.split_whitespace().next()?.parse().ok())
}

fn pod_mtu(implementation: Implementation) -> u16 {
    match implementation {
        Implementation::Plain | Implementation::PodwireHostNetwork => UNDERLAY_MTU,
        Implementation::Vxlan => VXLAN_MTU,
        Implementation::KernelWireguard
        | Implementation::PodwireOneLane
        | Implementation::Podwire
        | Implementation::NullCipher
        | Implementation::WireguardGo
        | Implementation::BoringtunCli
        | Implementation::Gotatun => TUNNEL_MTU,
    }
}

/// A node's address on the underlay.
fn node_address(node: &Node) -> Result<std::net::IpAddr> {
    node.host().address(IpVersion::V4)
}

/// The pods of a node.
fn pods_of(node: &Node) -> ipnet::IpNet {
    address::pod_cidr(node.number(), IpVersion::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_devices_bytes_are_those_behind_its_name() {
        let table =
            "Inter-|   Receive\n face |bytes    packets\n    lo:  10 1 0\n  eth0: 4242 7 0\n";
        assert_eq!(received_by(table, "eth0"), Some(4242));
        assert_eq!(received_by(table, "eth"), None);
    }
}
