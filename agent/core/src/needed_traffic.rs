//! What has to pass the packet filters of this node, and which of them drop it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use crate::cni_configuration::{BRIDGE, Plugin, Range, moved};
use crate::kernel::Underlay;
use crate::mesh::{DesiredMesh, EncryptedPair, Pair};
use crate::packet_filter::{Dropped, Hook, Protocol, Ruleset, Sample, dropping};
use crate::record::Mode;
use crate::underlay_links::{Link, LinkKind};

/// Ports that no rule is likely to be about: the first dynamic one of Linux, and `discard`.
const SOURCE_PORT: u16 = 32_768;
const DESTINATION_PORT: u16 = 9;

/// The port of strangers that firewalls leave open when they leave any (HTTPS).
const STRANGERS_PORT: u16 = 443;

/// Strangers of whom no rule is likely to be about: a root name server, to which nothing is sent.
/// Documentation addresses are not taken: many a firewall drops them on purpose.
const STRANGERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 41, 0, 4)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30)),
];

/// What is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// What pods send, from a pod CIDR of the cluster.
    FromPods(IpNet),
    /// What pods receive, to a pod CIDR of the cluster.
    ToPods(IpNet),
    /// What pods of this node send each other, from a pod CIDR of the cluster.
    BetweenPods(IpNet),
    /// What pods send to strangers, from a pod CIDR of the cluster.
    ToStrangers(IpNet),
    /// What peers send, to ports of this node from the first to the last.
    WireGuard(u16, u16),
    /// What this node sends its peers, from ports of it from the first to the last.
    OwnWireGuard(u16, u16),
}

/// What this node is like, as far as packets go by that.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a> {
    /// Its links.
    pub links: &'a [Link],
    /// The ways to peers.
    pub paths: &'a Underlay,
    /// Name of the device.
    pub device: &'a str,
    /// First and last port of own lanes.
    pub ports: (u16, u16),
    /// What makes links of pods, where that is known: only the bridge has a name before there is a
    /// pod.
    pub plugin: Option<Plugin>,
    /// Whether what is bridged meets packet filters.
    pub filters_bridged: FiltersBridged,
}

/// Whether what pods behind one bridge send each other meets packet filters (`br_netfilter`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FiltersBridged {
    /// IPv4.
    pub ipv4: bool,
    /// IPv6.
    pub ipv6: bool,
}

/// A packet filter of somebody else that drops what is needed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Filtered {
    /// Where.
    pub by: Dropped,
    /// What.
    pub needs: BTreeSet<Need>,
}

/// One packet of each kind that is needed.
#[must_use]
pub fn needed(mesh: &DesiredMesh, host: Host<'_>) -> Vec<(Need, Sample)> {
    let own = &mesh.own;
    let mut needed = Vec::new();
    for cidr in &own.pod_cidrs {
        let is_ipv6 = cidr.addr().is_ipv6();
        let mut cluster = mesh.policy.cluster_cidrs.iter();
        let cluster = cluster.find(|cluster| cluster.addr().is_ipv6() == is_ipv6);
        let ranges = cluster.map(|cluster| (cluster, Range::of(cluster), Range::of(cidr)));
        let Some((cluster, Ok(far), Ok(near))) = ranges else {
            continue;
        };
        let Some(pods) = pods_link(host, &own.pod_cidrs) else {
            continue;
        };
        let uplink = uplink(mesh, host.links, is_ipv6);
        let way_out = match own.mode {
            Mode::Encrypted => Some(host.device),
            Mode::HostNetwork => uplink,
        };
        // The last of each: the least likely to be a pod with a policy of its own.
        let pod = (pods, near.last);
        if let Some(way_out) = way_out {
            let other = (way_out, far.last);
            needed.push((Need::FromPods(*cluster), forwarded(pod, other)));
            needed.push((Need::ToPods(*cluster), forwarded(other, pod)));
        }
        let neighbour = neighbours_link(host, pods, is_ipv6);
        if let Some(link) = neighbour.filter(|_| near.first != near.last) {
            let neighbour = (link, moved(near.last, -1));
            needed.push((Need::BetweenPods(*cluster), forwarded(pod, neighbour)));
        }
        if let Some(uplink) = uplink {
            let stranger = (uplink, STRANGERS[usize::from(is_ipv6)]);
            // After its routing its source may be translated.
            let hooks = vec![Hook::Prerouting, Hook::Forward];
            let sample = Sample {
                hooks,
                destination_port: STRANGERS_PORT,
                ..forwarded(pod, stranger)
            };
            needed.push((Need::ToStrangers(*cluster), sample));
        }
    }
    if own.mode == Mode::Encrypted {
        needed.extend(lanes(mesh, host));
    }
    needed
}

/// The link to the world, if this node has an address of that family there.
fn uplink<'a>(mesh: &DesiredMesh, links: &'a [Link], is_ipv6: bool) -> Option<&'a str> {
    let is_nodes =
        |address: &IpAddr| address.is_ipv6() == is_ipv6 && mesh.own.addresses.contains(address);
    let mut links = links.iter();
    let found = links.find(|link| link.has_default_route && link.addresses.iter().any(is_nodes));
    found.map(|link| link.name.as_str())
}

/// A link of own pods, or what it will be called.
fn pods_link<'a>(host: Host<'a>, own: &[IpNet]) -> Option<&'a str> {
    let is_pods = |address: &IpAddr| own.iter().any(|cidr| cidr.contains(address));
    let mut links = host.links.iter();
    let found = links.find(|link| match link.kind {
        LinkKind::Wire => false,
        LinkKind::Switch => link.addresses.iter().any(is_pods),
        LinkKind::Virtual => !link.own_pods.is_empty(),
    });
    let bridge = (host.plugin == Some(Plugin::Bridge)).then_some(BRIDGE);
    found.map(|link| link.name.as_str()).or(bridge)
}

/// By which link what own pods send each other leaves, where it meets packet filters: always, if it
/// is another one. Of a bridge that is not ours that is not known: not every switch is one.
fn neighbours_link<'a>(host: Host<'a>, pods: &'a str, is_ipv6: bool) -> Option<&'a str> {
    let FiltersBridged { ipv4, ipv6 } = host.filters_bridged;
    if pods == BRIDGE {
        return (if is_ipv6 { ipv6 } else { ipv4 }).then_some(BRIDGE);
    }
    let is_ones = |link: &&Link| link.kind == LinkKind::Virtual && !link.own_pods.is_empty();
    let mut ones = host.links.iter().filter(is_ones);
    let first = ones.next().filter(|first| first.name == pods);
    first.and_then(|_| Some(ones.next()?.name.as_str()))
}

fn forwarded(from: (&str, IpAddr), to: (&str, IpAddr)) -> Sample {
    Sample {
        hooks: vec![Hook::Prerouting, Hook::Forward, Hook::Postrouting],
        incoming: Some(from.0.to_owned()),
        outgoing: Some(to.0.to_owned()),
        source: from.1,
        destination: to.1,
        protocol: Protocol::Tcp,
        source_port: SOURCE_PORT,
        destination_port: DESTINATION_PORT,
    }
}

/// What own lanes receive and send, at each own address that has a link: with the first peer that
/// has that lane and an endpoint of that family.
fn lanes<'a>(mesh: &'a DesiredMesh, host: Host<'a>) -> impl Iterator<Item = (Need, Sample)> + 'a {
    let (first, last) = host.ports;
    let ways = mesh.own.addresses.iter().filter_map(move |own| {
        let mut links = host.links.iter();
        Some((*own, links.find(|link| link.addresses.contains(own))?))
    });
    ways.flat_map(move |(own, link)| {
        (first..=last).flat_map(move |port| {
            let here = SocketAddr::new(own, port);
            let peer = endpoint(mesh, usize::from(port - first), own.is_ipv6());
            let received = peer.map(|peer| {
                let sample = Sample {
                    hooks: vec![Hook::Prerouting, Hook::Input],
                    incoming: Some(link.name.clone()),
                    ..datagram(peer, here)
                };
                (Need::WireGuard(first, last), sample)
            });
            let path = peer.and_then(|peer| Some((peer, host.paths.get(&peer.ip())?)));
            let sent = path.map(|(peer, path)| {
                let sample = Sample {
                    hooks: vec![Hook::Output, Hook::Postrouting],
                    outgoing: Some(path.link.clone()),
                    ..datagram(here, peer)
                };
                (Need::OwnWireGuard(first, last), sample)
            });
            received.into_iter().chain(sent)
        })
    })
}

/// Where that lane of some peer is: its endpoints are those of lane 0.
fn endpoint(mesh: &DesiredMesh, lane: usize, is_ipv6: bool) -> Option<SocketAddr> {
    let of_lane = |pair: &EncryptedPair| {
        let mut endpoints = pair.endpoints.iter();
        let endpoint = endpoints.find(|endpoint| endpoint.is_ipv6() == is_ipv6)?;
        let port = pair.lanes.get(lane)?.port;
        let port = if lane == 0 { endpoint.port() } else { port };
        Some(SocketAddr::new(endpoint.ip(), port))
    };
    mesh.peers.values().find_map(|peer| match &peer.pair {
        Pair::Encrypted(pair) => of_lane(pair),
        Pair::HostNetwork | Pair::Closed(_) => None,
    })
}

fn datagram(from: SocketAddr, to: SocketAddr) -> Sample {
    Sample {
        hooks: Vec::new(),
        incoming: None,
        outgoing: None,
        source: from.ip(),
        destination: to.ip(),
        protocol: Protocol::Udp,
        source_port: from.port(),
        destination_port: to.port(),
    }
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
            // What accepts one of these accepts all.
            Self::FromPods(cidr) | Self::BetweenPods(cidr) | Self::ToStrangers(cidr) => {
                format!("{} saddr {cidr}", version(&cidr))
            }
            Self::ToPods(cidr) => format!("{} daddr {cidr}", version(&cidr)),
            Self::WireGuard(first, last) if first == last => format!("udp dport {first}"),
            Self::WireGuard(first, last) => format!("udp dport {first}-{last}"),
            Self::OwnWireGuard(first, last) if first == last => format!("udp sport {first}"),
            Self::OwnWireGuard(first, last) => format!("udp sport {first}-{last}"),
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
                Need::BetweenPods(_) => "what pods of this node send each other",
                Need::ToStrangers(_) => "what pods send out of the cluster (on purpose?)",
                Need::WireGuard(..) => "what peers send (WireGuard)",
                Need::OwnWireGuard(..) => "what this node sends its peers (WireGuard)",
            })
            .collect();
        let what: Vec<&str> = what.into_iter().collect();
        let by = match rule {
            Some((chain, number)) => format!("by rule {number} of chain {chain}"),
            None => "by its policy".to_owned(),
        };
        let mut remedies: Vec<String> = Vec::new();
        for need in &self.needs {
            let condition = need.condition();
            let remedy = format!("`nft insert rule {base} {condition} accept`");
            if !remedies.contains(&remedy) {
                remedies.push(remedy);
            }
        }
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
