//! Policy rules of protocol 119 (`ip rule`), which are ours, and everybody's, as the kernel shows
//! them.

use std::collections::BTreeSet;
use std::io;

use ipnet::IpNet;
use podwire_core::kernel::{ROUTE_PROTOCOL, Rule, RuleAction, TABLE_MAIN, TABLE_PEERS};
use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::route::{RouteHeader, RouteProtocol};
use rtnetlink::packet_route::rule::{self, RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::exchange::{change, dump};

/// Both, each of which has rules and routes of its own.
pub(super) const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

/// All policy rules, of both families.
pub(super) async fn all(handle: &Handle) -> io::Result<Vec<RuleMessage>> {
    let mut rules = Vec::new();
    for family in FAMILIES {
        let mut query = RuleMessage::default();
        query.header.family = family;
        match dump(handle, RouteNetlinkMessage::GetRule(query)).await {
            Ok(messages) => {
                rules.extend(messages.into_iter().filter_map(|message| match message {
                    RouteNetlinkMessage::NewRule(rule) => Some(rule),
                    _ => None,
                }))
            }
            // A kernel without policy rules, or without the family.
            Err(error)
                if matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::OPNOTSUPP | Errno::AFNOSUPPORT)
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(rules)
}

/// The rules that are ours.
pub(super) async fn own(handle: &Handle) -> io::Result<BTreeSet<Rule>> {
    Ok(all(handle).await?.iter().filter_map(ours).collect())
}

/// The rule of ours that this is; none for one of somebody else, or in a shape that Podwire never
/// writes: that one is nobody's of this node, and is left alone.
pub(super) fn ours(shown: &RuleMessage) -> Option<Rule> {
    let destination = shown
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RuleAttribute::Destination(address) => Some(*address),
            _ => None,
        })?;
    let destination = IpNet::new(destination, shown.header.dst_len).ok()?;
    RuleAction::ALL
        .map(|action| Rule {
            action,
            destination,
        })
        .into_iter()
        .find(|rule| is(shown, &message(rule)))
}

/// Whether the kernel shows this rule. It adds attributes, of which those that choose would make it
/// another rule.
fn is(shown: &RuleMessage, rule: &RuleMessage) -> bool {
    let mut header = shown.header.clone();
    header.flags = rule.header.flags;
    let says_nothing = |attribute: &RuleAttribute| {
        matches!(
            attribute,
            RuleAttribute::Table(_) | RuleAttribute::SuppressPrefixLen(_) | RuleAttribute::Other(_)
        )
    };
    header == rule.header
        && shown.header.flags == rule.header.flags
        && rule
            .attributes
            .iter()
            .all(|attribute| shown.attributes.contains(attribute))
        && shown
            .attributes
            .iter()
            .all(|attribute| rule.attributes.contains(attribute) || says_nothing(attribute))
}

/// Adds a rule; one of ours that is there is fine. The kernel does not tell a rule from the same
/// one with `not`, so that somebody else's may be in its place.
pub(super) async fn add(handle: &Handle, rule: &Rule) -> io::Result<()> {
    let request = RouteNetlinkMessage::NewRule(message(rule));
    match change(handle, request, NLM_F_CREATE | NLM_F_EXCL).await {
        Err(error)
            if Errno::from_io_error(&error) == Some(Errno::EXIST)
                && own(handle).await?.contains(rule) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Removes a rule, however often it is there; none is fine.
pub(super) async fn remove(handle: &Handle, rule: &Rule) -> io::Result<()> {
    loop {
        let request = RouteNetlinkMessage::DelRule(message(rule));
        match change(handle, request, 0).await {
            Ok(()) => {}
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn message(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = match rule.destination {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    };
    message.header.dst_len = rule.destination.prefix_len();
    let (action, table) = match rule.action {
        RuleAction::LookupMain => (rule::RuleAction::ToTable, TABLE_MAIN),
        RuleAction::LookupPeers => (rule::RuleAction::ToTable, TABLE_PEERS),
        RuleAction::Refuse => (rule::RuleAction::Unreachable, 0),
    };
    message.header.action = action;
    message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.attributes = vec![
        RuleAttribute::Destination(rule.destination.network()),
        RuleAttribute::Priority(rule.action.priority()),
        RuleAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL)),
    ];
    message
}
