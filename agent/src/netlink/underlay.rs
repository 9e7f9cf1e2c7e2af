//! How the underlay reaches the other nodes.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use podwire_core::kernel::{Path, Underlay};
use rtnetlink::Handle;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, LinkAttribute, LinkFlags, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::device::all_links;
use super::exchange::get;
use super::route::mtu_in;

/// What a path takes from its link.
struct Link {
    name: String,
    mtu: u32,
    /// The MTU for IPv6, which a router may announce lower.
    mtu_ipv6: u32,
    loopback: bool,
}

/// The path to each address. Own addresses, unreachable ones and those behind the device itself
/// have none.
pub(super) async fn underlay(
    handle: &Handle,
    addresses: impl IntoIterator<Item = IpAddr>,
    device_name: &str,
) -> io::Result<Underlay> {
    let mut underlay = Underlay::new();
    // One dump for all addresses: a path needs its link's name and MTU.
    let links = links(handle).await?;
    for address in addresses {
        let Some(route) = route_to(handle, address).await? else {
            continue;
        };
        if let Some(path) = path(&route, address, &links)
            && path.link != device_name
        {
            underlay.insert(address, path);
        }
    }
    Ok(underlay)
}

async fn links(handle: &Handle) -> io::Result<BTreeMap<u32, Link>> {
    let links = all_links(handle).await?.into_iter();
    Ok(links
        .map(|message| (message.header.index, link(message)))
        .collect())
}

fn link(message: LinkMessage) -> Link {
    let mut link = Link {
        name: String::new(),
        mtu: 0,
        mtu_ipv6: u32::MAX,
        loopback: message.header.flags.contains(LinkFlags::Loopback),
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::AfSpecUnspec(families) => {
                link.mtu_ipv6 = mtu_ipv6(&families).unwrap_or(u32::MAX);
            }
            _ => {}
        }
    }
    link.mtu_ipv6 = link.mtu_ipv6.min(link.mtu);
    link
}

fn mtu_ipv6(families: &[AfSpecUnspec]) -> Option<u32> {
    let ipv6 = families.iter().find_map(|family| match family {
        AfSpecUnspec::Inet6(attributes) => Some(attributes),
        _ => None,
    })?;
    ipv6.iter().find_map(|attribute| match attribute {
        AfSpecInet6::DevConf(conf) => u32::try_from(conf.mtu6).ok(),
        _ => None,
    })
}

/// The route that a packet of this node's own to `destination` takes now.
pub(super) async fn route_to(
    handle: &Handle,
    destination: IpAddr,
) -> io::Result<Option<RouteMessage>> {
    let mut query = RouteMessage::default();
    let (family, length, address) = match destination {
        IpAddr::V4(v4) => (AddressFamily::Inet, 32, RouteAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(v6)),
    };
    query.header.address_family = family;
    query.header.destination_prefix_length = length;
    query.attributes.push(RouteAttribute::Destination(address));
    match get(handle, RouteNetlinkMessage::GetRoute(query)).await {
        Ok(RouteNetlinkMessage::NewRoute(route)) => Ok(Some(route)),
        Ok(_) => Err(io::ErrorKind::InvalidData.into()),
        // No route, or one of the types unreachable, prohibit (EACCES) and blackhole (EINVAL); and
        // a kernel without the address's family.
        Err(error)
            if matches!(
                Errno::from_io_error(&error),
                Some(
                    Errno::NETUNREACH
                        | Errno::HOSTUNREACH
                        | Errno::ACCESS
                        | Errno::INVAL
                        | Errno::OPNOTSUPP
                )
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn path(route: &RouteMessage, destination: IpAddr, links: &BTreeMap<u32, Link>) -> Option<Path> {
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut index, mut on_link, mut learnt) = (None, true, u32::MAX);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => on_link = false,
            RouteAttribute::Metrics(metrics) => learnt = mtu_in(metrics).unwrap_or(u32::MAX),
            _ => {}
        }
    }
    let link_index = index?;
    let link = links.get(&link_index).filter(|link| !link.loopback)?;
    let mtu = if destination.is_ipv4() {
        link.mtu
    } else {
        link.mtu_ipv6
    };
    Some(Path {
        link: link.name.clone(),
        link_index,
        on_link,
        mtu: mtu.min(learnt),
        in_use: false,
    })
}
