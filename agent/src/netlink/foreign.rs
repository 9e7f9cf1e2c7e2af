//! Routes and policy rules of others that packets to the cluster's pods may meet.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use ipnet::IpNet;
use podwire_core::kernel::{GuardTable, RouteKey};
use podwire_core::obstacles::{
    self, Foreign, ForeignRoute, Leads, PolicyRule, RuleAction as Action, concerns_pods,
};
use rtnetlink::Handle;
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;
use rustix::net::{SocketType, netdevice};

use super::exchange::dump;
use super::route::{self, Raw, Routes};

const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

/// Reads everything of others that concerns the cluster's pods.
pub(super) async fn read(
    handle: &Handle,
    main: &Routes,
    guard: &GuardTable,
) -> io::Result<Foreign> {
    let names = LinkNames::open()?;
    let mut foreign = Foreign::default();
    for (key, raw) in main.foreign() {
        if concerns_pods(&key.destination, guard) {
            foreign.main.push(names.route(key, raw));
        }
    }
    for family in FAMILIES {
        foreign.rules.extend(rules(handle, family).await?);
    }
    for table in obstacles::tables(&foreign.rules, guard) {
        let routes = foreign.tables.entry(table).or_default();
        for family in FAMILIES {
            for (key, message) in route::read_table(handle, family, table).await? {
                if concerns_pods(&key.destination, guard) {
                    routes.push(names.route(key, route::raw(&message)));
                }
            }
        }
    }
    Ok(foreign)
}

/// The policy rules of one family.
async fn rules(handle: &Handle, family: AddressFamily) -> io::Result<Vec<PolicyRule>> {
    let mut query = RuleMessage::default();
    query.header.family = family;
    match dump(handle, RouteNetlinkMessage::GetRule(query)).await {
        Ok(messages) => Ok(messages
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewRule(rule) => Some(policy_rule(rule)),
                _ => None,
            })
            .collect()),
        // A kernel without policy rules, or without the family.
        Err(error)
            if matches!(
                Errno::from_io_error(&error),
                Some(Errno::OPNOTSUPP | Errno::AFNOSUPPORT)
            ) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
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

    fn route(&self, key: RouteKey, raw: Raw) -> ForeignRoute {
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
            key,
            protocol: raw.protocol,
            leads,
        }
    }
}

#[cfg(test)]
mod tests;
