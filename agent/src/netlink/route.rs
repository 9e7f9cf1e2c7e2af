//! Routes of protocol 119 in the two tables that have them, and whose else's stand where ours
//! should.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use podwire_core::kernel::{ROUTE_PROTOCOL, RouteAction, RouteKey, Table};
use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::error::Error;
use super::exchange::{change, dump};
use super::rule::FAMILIES;

/// A route of protocol 119 in a shape that Podwire never writes is observed as this: it equals
/// nothing that is desired, so that the plan replaces or removes it.
const STRANGE: RouteAction = RouteAction::Via {
    gateway: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    link_index: 0,
};

/// Who is at one destination and metric of a table. The kernel can hold several routes there.
#[derive(Debug, Default)]
struct Occupants {
    own: Vec<RouteMessage>,
    /// Somebody else's route; the first, which the kernel takes.
    foreign: Option<Raw>,
}

/// What of somebody else's route is kept: a table may have a million of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Raw {
    pub(super) protocol: u8,
    pub(super) kind: RouteType,
    /// The one link that it leaves by.
    pub(super) link: Option<u32>,
    /// Whether a router is next.
    has_gateway: bool,
}

impl Raw {
    /// The link on which what it leads to are neighbours.
    pub(super) fn neighbours_on(self) -> Option<u32> {
        let is_direct = self.kind == RouteType::Unicast && !self.has_gateway;
        self.link.filter(|_| is_direct)
    }
}

/// The routes of the tables that ours are in, as last dumped and changed since.
#[derive(Debug, Default)]
pub(super) struct Routes {
    occupants: BTreeMap<RouteKey, Occupants>,
    /// Indexes of the links by which default routes of the main table leave.
    defaults: BTreeSet<u32>,
}

impl Routes {
    /// Dumps the tables in both families.
    pub(super) async fn read(handle: &Handle) -> io::Result<Self> {
        let mut routes = Self::default();
        for table in Table::ALL {
            for family in FAMILIES {
                for route in read_table(handle, family, table.number()).await? {
                    if let Some((destination, metric)) = destination_and_metric(&route) {
                        let key = RouteKey {
                            table,
                            destination,
                            metric,
                        };
                        routes.note(key, route);
                    }
                }
            }
        }
        Ok(routes)
    }

    fn note(&mut self, key: RouteKey, route: RouteMessage) {
        if key.table == Table::Main && key.destination.prefix_len() == 0 {
            self.defaults.extend(links(&route));
        }
        let occupants = self.occupants.entry(key).or_default();
        if u8::from(route.header.protocol) == ROUTE_PROTOCOL {
            occupants.own.push(route);
        } else {
            occupants.foreign.get_or_insert_with(|| raw(&route));
        }
    }

    /// Whether a default route leaves by this link.
    pub(super) fn has_default(&self, link: u32) -> bool {
        self.defaults.contains(&link)
    }

    /// The routes of others.
    pub(super) fn foreign(&self) -> impl Iterator<Item = (RouteKey, Raw)> {
        let foreign = |(key, occupants): (&RouteKey, &Occupants)| Some((*key, occupants.foreign?));
        self.occupants.iter().filter_map(foreign)
    }

    /// The routes that are ours, as the plan sees them.
    pub(super) fn own(&self, device_index: Option<u32>) -> BTreeMap<RouteKey, RouteAction> {
        let own = self.occupants.iter().filter_map(|(key, occupants)| {
            let action = match occupants.own.as_slice() {
                [] => return None,
                [route] => action(route, device_index),
                _ => STRANGE,
            };
            Some((*key, action))
        });
        own.collect()
    }

    /// How many routes are ours.
    pub(super) fn count(&self) -> usize {
        self.occupants
            .values()
            .map(|occupants| occupants.own.len())
            .sum()
    }

    /// Adds a route, or replaces the one of ours with its key, with no moment in between.
    ///
    /// Several of ours at one key, or one in a strange shape, are removed first: which of several a
    /// replace takes differs by family. The `unreachable` guard route holds in between.
    pub(super) async fn set(
        &mut self,
        handle: &Handle,
        key: RouteKey,
        action: &RouteAction,
        device_index: Option<u32>,
    ) -> Result<(), Error> {
        let failed = |source| Error::Route { key, source };
        let wanted = message(&key, action, device_index).map_err(failed)?;
        let flag = self.prepare(handle, key, device_index).await?;
        match write(handle, &wanted, flag).await {
            // Somebody was faster: look at who it is.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::EXIST) => {
                *self = Self::read(handle).await.map_err(failed)?;
                let flag = self.prepare(handle, key, device_index).await?;
                write(handle, &wanted, flag).await.map_err(failed)?;
            }
            other => other.map_err(failed)?,
        }
        self.occupants.insert(
            key,
            Occupants {
                own: vec![wanted],
                foreign: None,
            },
        );
        Ok(())
    }

    /// Whether the key is free (`NLM_F_EXCL`) or has the one route of ours that is to be replaced
    /// (`NLM_F_REPLACE`). The kernel's replace does not look at the protocol, so that somebody
    /// else's route is refused here.
    async fn prepare(
        &mut self,
        handle: &Handle,
        key: RouteKey,
        device_index: Option<u32>,
    ) -> Result<u16, Error> {
        let Some(occupants) = self.occupants.get(&key) else {
            return Ok(NLM_F_EXCL);
        };
        if let Some(Raw { protocol, .. }) = occupants.foreign {
            return Err(Error::RouteOccupied { key, protocol });
        }
        match occupants.own.as_slice() {
            [] => Ok(NLM_F_EXCL),
            [route] if action(route, device_index) != STRANGE => Ok(NLM_F_REPLACE),
            _ => self.remove(handle, key).await.map(|()| NLM_F_EXCL),
        }
    }

    /// Removes every route of ours with the key; none there is fine.
    pub(super) async fn remove(&mut self, handle: &Handle, key: RouteKey) -> Result<(), Error> {
        let mut query = unspecific(&key);
        // What these say is "any"; the protocol and the metric are what makes the match exact.
        query.header.scope = RouteScope::NoWhere;
        query.header.kind = RouteType::Unspec;
        loop {
            match change(handle, RouteNetlinkMessage::DelRoute(query.clone()), 0).await {
                Ok(()) => {}
                Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => break,
                Err(source) => return Err(Error::Route { key, source }),
            }
        }
        if let Some(occupants) = self.occupants.get_mut(&key) {
            occupants.own.clear();
        }
        Ok(())
    }
}

/// All routes of one table and family.
pub(super) async fn read_table(
    handle: &Handle,
    family: AddressFamily,
    number: u32,
) -> io::Result<Vec<RouteMessage>> {
    let mut query = RouteMessage::default();
    query.header.address_family = family;
    // A number of more than eight bits goes into an attribute.
    query.header.table = u8::try_from(number).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    query.attributes.push(RouteAttribute::Table(number));
    let messages = match dump(handle, RouteNetlinkMessage::GetRoute(query)).await {
        // A kernel without IPv6; a table that nobody has written to.
        Err(error)
            if matches!(
                Errno::from_io_error(&error),
                Some(Errno::OPNOTSUPP | Errno::NOENT)
            ) =>
        {
            return Ok(Vec::new());
        }
        other => other?,
    };
    let routes = messages.into_iter().filter_map(|message| match message {
        // The kernel filters by table only for sockets that ask for strict checking.
        RouteNetlinkMessage::NewRoute(route) if table(&route) == number => Some(route),
        _ => None,
    });
    Ok(routes.collect())
}

/// What is kept of somebody else's route.
pub(super) fn raw(route: &RouteMessage) -> Raw {
    let mut raw = Raw {
        protocol: u8::from(route.header.protocol),
        kind: route.header.kind,
        link: None,
        has_gateway: false,
    };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => raw.link = Some(*index),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => raw.has_gateway = true,
            _ => {}
        }
    }
    raw
}

/// Every link that a route leaves by.
fn links(route: &RouteMessage) -> Vec<u32> {
    let mut links = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => links.push(*index),
            RouteAttribute::MultiPath(hops) => {
                links.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    links
}

async fn write(handle: &Handle, route: &RouteMessage, flag: u16) -> io::Result<()> {
    change(
        handle,
        RouteNetlinkMessage::NewRoute(route.clone()),
        NLM_F_CREATE | flag,
    )
    .await
}

fn table(route: &RouteMessage) -> u32 {
    let long = route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
    long.unwrap_or_else(|| u32::from(route.header.table))
}

pub(super) fn destination_and_metric(route: &RouteMessage) -> Option<(IpNet, u32)> {
    let mut destination: IpAddr = match route.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut metric = 0;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    let prefix_len = route.header.destination_prefix_length;
    Some((IpNet::new(destination, prefix_len).ok()?, metric))
}

/// The address in a route attribute, if it is one.
pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

fn address(ip: IpAddr) -> RouteAddress {
    match ip {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

/// The MTU among a route's metrics.
pub(super) fn mtu_in(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

/// What a dumped route of ours does.
fn action(route: &RouteMessage, device_index: Option<u32>) -> RouteAction {
    let (mut link, mut gateway, mut source, mut mtu) = (None, None, None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Metrics(metrics) => mtu = mtu_in(metrics),
            RouteAttribute::MultiPath(_) | RouteAttribute::Via(_) => return STRANGE,
            _ => {}
        }
    }
    match (route.header.kind, link, gateway, source, mtu) {
        (RouteType::Unreachable, _, None, None, None) => RouteAction::Unreachable,
        (RouteType::Unicast, Some(link_index), Some(gateway), None, None) => RouteAction::Via {
            gateway,
            link_index,
        },
        (RouteType::Unicast, link, None, Some(source), Some(mtu)) if link == device_index => {
            RouteAction::Device { source, mtu }
        }
        _ => STRANGE,
    }
}

/// Destination, metric, table and protocol.
fn unspecific(key: &RouteKey) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = match key.destination {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    route.header.table = u8::try_from(key.table.number()).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    route.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    route.header.destination_prefix_length = key.destination.prefix_len();
    route.attributes = vec![
        RouteAttribute::Destination(address(key.destination.network())),
        RouteAttribute::Priority(key.metric),
    ];
    route
}

fn message(
    key: &RouteKey,
    action: &RouteAction,
    device_index: Option<u32>,
) -> io::Result<RouteMessage> {
    let mut route = unspecific(key);
    route.header.kind = RouteType::Unicast;
    match action {
        RouteAction::Device { source, mtu } => {
            route.header.scope = RouteScope::Link;
            let index = device_index.ok_or(Errno::NODEV)?;
            route.attributes.extend([
                RouteAttribute::Oif(index),
                RouteAttribute::PrefSource(address(*source)),
                RouteAttribute::Metrics(vec![RouteMetric::Mtu(*mtu)]),
            ]);
        }
        RouteAction::Via {
            gateway,
            link_index,
        } => route.attributes.extend([
            RouteAttribute::Gateway(address(*gateway)),
            RouteAttribute::Oif(*link_index),
        ]),
        RouteAction::Unreachable => route.header.kind = RouteType::Unreachable,
    }
    Ok(route)
}
