//! The links of this node, and under which address it would talk to the world.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use podwire_core::underlay_links::{Link, LinkKind};
use rtnetlink::Handle;
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecUnspec, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::route::RouteAttribute;

use super::device::{all_addresses, all_links};
use super::route::{Routes, ip};
use super::underlay::route_to;

/// Documentation addresses (RFC 5737, RFC 3849): routed like any stranger's.
const STRANGERS: [&str; 2] = ["203.0.113.1", "2001:db8:ffff::1"];

/// `net.ipv4.conf.*.rp_filter`: "strict" (RFC 3704 section 2.2).
const REVERSE_PATH_STRICT: i32 = 1;

/// A link as dumped.
struct Dumped {
    name: String,
    kind: LinkKind,
    mtu: u32,
    /// `net.ipv4.conf.*.rp_filter`.
    reverse_path: i32,
    /// Index of the link whose port it is.
    master: Option<u32>,
    is_loopback: bool,
}

/// All links but loopback ones. Which routes lead to the pods of `own` is taken from `routes`.
pub(super) async fn links(
    handle: &Handle,
    routes: &Routes,
    own: &[IpNet],
) -> io::Result<Vec<Link>> {
    let mut addresses = addresses_by_link(handle).await?;
    let mut own_pods: BTreeMap<u32, BTreeSet<IpNet>> = BTreeMap::new();
    for (key, raw) in routes.foreign() {
        let is_own = own.iter().any(|cidr| cidr.contains(&key.destination));
        if let Some(link) = raw.neighbours_on().filter(|_| is_own) {
            own_pods.entry(link).or_default().insert(key.destination);
        }
    }
    let dumped = dumped(handle).await?;
    let names: BTreeMap<u32, String> = dumped
        .iter()
        .map(|(index, link)| (*index, link.name.clone()))
        .collect();
    let of_all = reverse_path_of_all();
    let others = dumped.into_iter().filter(|(_, link)| !link.is_loopback);
    let links = others.map(|(index, link)| Link {
        name: link.name,
        kind: link.kind,
        mtu: link.mtu,
        master: link.master.and_then(|index| names.get(&index).cloned()),
        strict_reverse_path: link.reverse_path.max(of_all) == REVERSE_PATH_STRICT,
        addresses: addresses.remove(&index).unwrap_or_default(),
        has_default_route: routes.has_default(index),
        own_pods: own_pods.remove(&index).unwrap_or_default(),
    });
    Ok(links.collect())
}

/// The addresses of this node from which it would talk to strangers. One on another link than the
/// route leaves by, or on the device, is only borrowed, for want of one: it may be a pod's.
pub(super) async fn own_sources(handle: &Handle, device_name: &str) -> io::Result<Vec<IpAddr>> {
    let links = dumped(handle).await?;
    let addresses = addresses_by_link(handle).await?;
    let mut sources = Vec::new();
    for stranger in STRANGERS {
        let stranger = stranger.parse().expect("an address");
        let Some(route) = route_to(handle, stranger).await? else {
            continue;
        };
        let (mut leaves_by, mut source) = (None, None);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => leaves_by = Some(*index),
                RouteAttribute::PrefSource(address) => source = ip(address),
                _ => {}
            }
        }
        let (Some(leaves_by), Some(source)) = (leaves_by, source) else {
            continue;
        };
        let is_own_there = links.iter().any(|(index, link)| {
            (*index == leaves_by || link.is_loopback)
                && link.name != device_name
                && addresses
                    .get(index)
                    .is_some_and(|there| there.contains(&source))
        });
        if is_own_there {
            sources.push(source);
        }
    }
    Ok(sources)
}

async fn addresses_by_link(handle: &Handle) -> io::Result<BTreeMap<u32, BTreeSet<IpAddr>>> {
    let mut addresses: BTreeMap<u32, BTreeSet<IpAddr>> = BTreeMap::new();
    for (index, network) in all_addresses(handle).await? {
        addresses.entry(index).or_default().insert(network.addr());
    }
    Ok(addresses)
}

async fn dumped(handle: &Handle) -> io::Result<Vec<(u32, Dumped)>> {
    let links = all_links(handle).await?.into_iter();
    Ok(links
        .map(|message| (message.header.index, link(message)))
        .collect())
}

fn link(message: LinkMessage) -> Dumped {
    let mut link = Dumped {
        name: String::new(),
        kind: LinkKind::Wire,
        mtu: 0,
        reverse_path: 0,
        master: None,
        is_loopback: message.header.flags.contains(LinkFlags::Loopback),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::AfSpecUnspec(families) => link.reverse_path = reverse_path(&families),
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::LinkInfo(infos) => {
                let kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind),
                    _ => None,
                });
                link.kind = kind.map_or(LinkKind::Wire, of_driver);
            }
            _ => {}
        }
    }
    link
}

fn reverse_path(families: &[AfSpecUnspec]) -> i32 {
    let settings = families.iter().flat_map(|family| match family {
        AfSpecUnspec::Inet(settings) => settings.as_slice(),
        _ => &[],
    });
    let mut filters = settings.filter_map(|setting| match setting {
        AfSpecInet::DevConf(conf) => Some(conf.rp_filter),
        _ => None,
    });
    filters.next().unwrap_or_default()
}

/// The setting for all links: the kernel takes the larger one.
fn reverse_path_of_all() -> i32 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter");
    let number = text.ok().and_then(|text| text.trim().parse().ok());
    number.unwrap_or_default()
}

/// A network card has no driver of links.
fn of_driver(kind: &InfoKind) -> LinkKind {
    match kind {
        InfoKind::Vlan | InfoKind::Bond | InfoKind::Team => LinkKind::Wire,
        InfoKind::Bridge | InfoKind::MacVlan | InfoKind::IpVlan => LinkKind::Switch,
        InfoKind::Other(name) if name == "openvswitch" => LinkKind::Switch,
        _ => LinkKind::Virtual,
    }
}

#[cfg(test)]
mod tests;
