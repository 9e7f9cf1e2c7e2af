//! What has to pass the packet filters of this node, and which of them drop it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::cni_configuration::{BRIDGE, Plugin, Range};
use crate::mesh::{DesiredMesh, Pair};
use crate::packet_filter::{Dropped, Hook, Protocol, Ruleset, Sample, dropping};
use crate::record::Mode;
use crate::underlay_links::{Link, LinkKind};

/// Ports that no rule is likely to be about: the first dynamic one of Linux, and `discard`.
const SOURCE_PORT: u16 = 32_768;
const DESTINATION_PORT: u16 = 9;

/// What is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// What pods send, from a pod CIDR of the cluster.
    FromPods(IpNet),
    /// What pods receive, to a pod CIDR of the cluster.
    ToPods(IpNet),
    /// What peers send each other, from the first port to the last.
    WireGuard(u16, u16),
}

/// A packet filter of somebody else that drops what is needed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Filtered {
    /// Where.
    pub by: Dropped,
    /// What.
    pub needs: BTreeSet<Need>,
}

/// One packet of each kind that is needed. `plugin` is what makes links of pods, where that is
/// known: only the bridge has a name before there is a pod.
#[must_use]
pub fn needed(
    mesh: &DesiredMesh,
    links: &[Link],
    device: &str,
    ports: (u16, u16),
    plugin: Option<Plugin>,
) -> Vec<(Need, Sample)> {
    let own = &mesh.own;
    let uplink = || links.iter().find(|link| link.has_default_route);
    let way_out = match own.mode {
        Mode::Encrypted => Some(device),
        Mode::HostNetwork => uplink().map(|link| link.name.as_str()),
    };
    let mut needed = Vec::new();
    for cidr in &own.pod_cidrs {
        let is_ipv6 = cidr.addr().is_ipv6();
        let mut cluster = mesh.policy.cluster_cidrs.iter();
        let cluster = cluster.find(|cluster| cluster.addr().is_ipv6() == is_ipv6);
        let ranges = cluster.map(|cluster| (cluster, Range::of(cluster), Range::of(cidr)));
        let (Some((cluster, Ok(far), Ok(near))), Some(way_out)) = (ranges, way_out) else {
            continue;
        };
        let Some(pods) = pods_link(links, &own.pod_cidrs, plugin) else {
            continue;
        };
        // The last of each: the least likely to be a pod with a policy of its own.
        let (from, to) = ((pods, near.last), (way_out, far.last));
        needed.push((Need::FromPods(*cluster), forwarded(from, to)));
        needed.push((Need::ToPods(*cluster), forwarded(to, from)));
    }
    if own.mode == Mode::Encrypted {
        let samples = handshakes(mesh, links, ports.0);
        needed.extend(samples.map(|sample| (Need::WireGuard(ports.0, ports.1), sample)));
    }
    needed
}

/// A link of own pods, or what it will be called.
fn pods_link<'a>(links: &'a [Link], own: &[IpNet], plugin: Option<Plugin>) -> Option<&'a str> {
    let is_pods = |address: &IpAddr| own.iter().any(|cidr| cidr.contains(address));
    let mut links = links.iter();
    let found = links.find(|link| match link.kind {
        LinkKind::Wire => false,
        LinkKind::Switch => link.addresses.iter().any(is_pods),
        LinkKind::Virtual => !link.own_pods.is_empty(),
    });
    let bridge = (plugin == Some(Plugin::Bridge)).then_some(BRIDGE);
    found.map(|link| link.name.as_str()).or(bridge)
}

fn forwarded(from: (&str, IpAddr), to: (&str, IpAddr)) -> Sample {
    Sample {
        hooks: vec![Hook::Prerouting, Hook::Forward, Hook::Postrouting],
        incoming: from.0.to_owned(),
        outgoing: Some(to.0.to_owned()),
        source: from.1,
        destination: to.1,
        protocol: Protocol::Tcp,
        source_port: SOURCE_PORT,
        destination_port: DESTINATION_PORT,
    }
}

/// To each own address that has a link, from the first peer with an endpoint of that family.
fn handshakes<'a>(
    mesh: &'a DesiredMesh,
    links: &'a [Link],
    port: u16,
) -> impl Iterator<Item = Sample> + 'a {
    let endpoint = |own: &IpAddr| -> Option<SocketAddr> {
        let mut endpoints = mesh.peers.values().flat_map(|peer| match &peer.pair {
            Pair::Encrypted(pair) => pair.endpoints.as_slice(),
            Pair::HostNetwork | Pair::Closed(_) => &[],
        });
        let found = endpoints.find(|endpoint| endpoint.is_ipv6() == own.is_ipv6());
        found.copied()
    };
    mesh.own.addresses.iter().filter_map(move |own| {
        let link = links.iter().find(|link| link.addresses.contains(own))?;
        let peer = endpoint(own)?;
        Some(Sample {
            hooks: vec![Hook::Prerouting, Hook::Input],
            incoming: link.name.clone(),
            outgoing: None,
            source: peer.ip(),
            destination: *own,
            protocol: Protocol::Udp,
            source_port: peer.port(),
            destination_port: port,
        })
    })
}

/// The packet filters that drop something of it.
#[must_use]
pub fn filtered(ruleset: &Ruleset, needed: &[(Need, Sample)]) -> BTreeSet<Filtered> {
    let mut found: BTreeMap<Dropped, BTreeSet<Need>> = BTreeMap::new();
    for (need, sample) in needed {
        for by in dropping(ruleset, sample) {
            found.entry(by).or_default().insert(*need);
        }
    }
    let found = found.into_iter();
    found.map(|(by, needs)| Filtered { by, needs }).collect()
}

impl Need {
    /// What nft(8) calls it.
    fn condition(self) -> String {
        let version = |cidr: &IpNet| if cidr.addr().is_ipv6() { "ip6" } else { "ip" };
        match self {
            Self::FromPods(cidr) => format!("{} saddr {cidr}", version(&cidr)),
            Self::ToPods(cidr) => format!("{} daddr {cidr}", version(&cidr)),
            Self::WireGuard(first, last) if first == last => format!("udp dport {first}"),
            Self::WireGuard(first, last) => format!("udp dport {first}-{last}"),
        }
    }
}

impl fmt::Display for Filtered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Dropped { base, rule } = &self.by;
        let what: BTreeSet<&str> = self
            .needs
            .iter()
            .map(|need| match need {
                Need::FromPods(_) => "what pods send",
                Need::ToPods(_) => "what pods receive",
                Need::WireGuard(..) => "what peers send (WireGuard)",
            })
            .collect();
        let what: Vec<&str> = what.into_iter().collect();
        let by = match rule {
            Some((chain, number)) => format!("by rule {number} of chain {chain}"),
            None => "by its policy".to_owned(),
        };
        let remedies = self.needs.iter().map(|need| {
            let condition = need.condition();
            format!("`nft insert rule {base} {condition} accept`")
        });
        let remedies: Vec<String> = remedies.collect();
        write!(
            f,
            "the packet filter {base} drops {} {by}: {}, now and in what sets that table up",
            what.join(" and "),
            remedies.join(" and ")
        )
    }
}

#[cfg(test)]
mod tests;
