//! Routes and policy rules of others that packets to the cluster's pods may meet.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use ipnet::IpNet;
use podwire_core::kernel::GuardTable;
use podwire_core::obstacles::{
    self, Foreign, ForeignRoute, Leads, PolicyRule, RuleAction as Action, concerns_pods,
};
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rustix::net::{SocketType, netdevice};

use super::route::{self, Raw, Routes};
use super::rule::{self, FAMILIES};

/// Reads everything of others that concerns the cluster's pods.
pub(super) async fn read(
    handle: &Handle,
    routes: &Routes,
    guard: &GuardTable,
) -> io::Result<Foreign> {
    let names = LinkNames::open()?;
    let mut foreign = Foreign::default();
    for (key, raw) in routes.foreign() {
        if concerns_pods(&key.destination, guard) {
            let route = names.route(key.destination, key.metric, raw);
            foreign.routes.push((key.table, route));
        }
    }
    let rules = rule::all(handle).await?;
    let others = rules.iter().filter(|shown| rule::ours(shown).is_none());
    foreign.rules = others.map(policy_rule).collect();
    for table in obstacles::tables(&foreign.rules, guard) {
        let routes = foreign.tables.entry(table).or_default();
        for family in FAMILIES {
            for message in route::read_table(handle, family, table).await? {
                let Some((destination, metric)) = route::destination_and_metric(&message) else {
                    continue;
                };
                if concerns_pods(&destination, guard) {
                    routes.push(names.route(destination, metric, route::raw(&message)));
                }
            }
        }
    }
    Ok(foreign)
}

fn policy_rule(message: &RuleMessage) -> PolicyRule {
    let header = &message.header;
    let mut rule = PolicyRule {
        priority: 0,
        is_ipv6: header.family == AddressFamily::Inet6,
        source: None,
        destination: None,
        is_selective: header.tos != 0,
        is_inverted: header.flags.contains(RuleFlags::Invert),
        action: Action::Other,
    };
    let (mut table, mut suppressed) = (u32::from(header.table), None);
    let prefix = |address: &IpAddr, length| IpNet::new(*address, length).ok();
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Source(address) => rule.source = prefix(address, header.src_len),
            RuleAttribute::Destination(address) => {
                rule.destination = prefix(address, header.dst_len);
            }
            RuleAttribute::Table(number) => table = *number,
            // All bits set where there is none.
            RuleAttribute::SuppressPrefixLen(bits) => suppressed = u8::try_from(*bits).ok(),
            RuleAttribute::SuppressIfGroup(_)
            | RuleAttribute::Goto(_)
            | RuleAttribute::Realm(_)
            | RuleAttribute::Protocol(_) => {}
            // Marks, links, users, ports, and whatever a newer kernel has.
            _ => rule.is_selective = true,
        }
    }
    rule.action = match header.action {
        RuleAction::ToTable => Action::Lookup { table, suppressed },
        RuleAction::Blackhole | RuleAction::Unreachable | RuleAction::Prohibit => Action::Refuse,
        _ => Action::Other,
    };
    rule
}

/// Asks for links by their index.
struct LinkNames {
    socket: OwnedFd,
}

impl LinkNames {
    fn open() -> io::Result<Self> {
        let family = rustix::net::AddressFamily::UNIX;
        let socket = rustix::net::socket(family, SocketType::DGRAM, None)?;
        Ok(Self { socket })
    }

    fn route(&self, destination: IpNet, metric: u32, raw: Raw) -> ForeignRoute {
        let leads = match raw.kind {
            RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => Leads::Nowhere,
            RouteType::Throw => Leads::On,
            _ => {
                let name = raw
                    .link
                    .and_then(|index| netdevice::index_to_name(&self.socket, index).ok());
                Leads::Out(name.unwrap_or_default())
            }
        };
        ForeignRoute {
            destination,
            metric,
            protocol: raw.protocol,
            leads,
        }
    }
}

#[cfg(test)]
mod tests;
