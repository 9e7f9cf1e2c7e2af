//! Which routes and policy rules of others stand in the way of pod traffic.
//!
//! They are never touched: they are named, to whoever looks after the node. The egress guard
//! refuses what they would lead astray, so that they cost connectivity, never secrecy.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnet::IpNet;

use crate::kernel::{
    Guard, GuardTable, Kernel, RouteKey, RuleAction as OwnRule, TABLE_MAIN, Table,
};

/// The number of the table of own addresses (`RT_TABLE_LOCAL`).
pub const TABLE_LOCAL: u32 = 255;

/// A route that is not ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignRoute {
    /// Destination prefix.
    pub destination: IpNet,
    /// Metric (priority); lower wins.
    pub metric: u32,
    /// Whose it is (`rtm_protocol`).
    pub protocol: u8,
    /// What it does.
    pub leads: Leads,
}

/// Where a foreign route leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leads {
    /// Out by this link; the name is empty for several links, or one that is gone.
    Out(String),
    /// Nowhere: unreachable, prohibit, blackhole.
    Nowhere,
    /// To the next policy rule.
    On,
}

/// A policy rule (`ip rule`), as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// Lower comes first.
    pub priority: u32,
    /// Whether it is one of IPv6.
    pub is_ipv6: bool,
    /// `from`.
    pub source: Option<IpNet>,
    /// `to`.
    pub destination: Option<IpNet>,
    /// It chooses by more than addresses: mark, link, user, port, protocol, type of service.
    pub is_selective: bool,
    /// `not`: it takes what the rest of it does not describe.
    pub is_inverted: bool,
    /// What it does with what it takes.
    pub action: RuleAction,
}

/// What a policy rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// Looks a table up, but for prefixes of at most so many bits where that is set.
    Lookup {
        /// The table.
        table: u32,
        /// `suppress_prefixlength`.
        suppressed: Option<u8>,
    },
    /// Refuses or drops.
    Refuse,
    /// Nothing that leads traffic: goto, nop.
    Other,
}

/// What stands in the way.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// A route in one of the tables that ours are in.
    Route(Table, ForeignRoute),
    /// A policy rule before ours, and the table that it looks up.
    Rule {
        /// Its priority.
        priority: u32,
        /// Whether it is one of IPv6.
        is_ipv6: bool,
        /// The table and the route in it that takes pod traffic; none for a rule that refuses.
        route: Option<(u32, ForeignRoute)>,
    },
}

impl fmt::Display for ForeignRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {} metric {}", self.destination, self.metric)?;
        match &self.leads {
            Leads::Out(link) if link.is_empty() => {}
            Leads::Out(link) => write!(f, " by {link}")?,
            Leads::Nowhere => f.write_str(" to nowhere")?,
            Leads::On => f.write_str(" to the next rule")?,
        }
        write!(f, " of protocol {}", self.protocol)
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = |is_ipv6: &bool| if *is_ipv6 { "IPv6 " } else { "" };
        match self {
            Self::Route(Table::Main, route) => route.fmt(f),
            Self::Route(table, route) => write!(f, "{route}, in table {}", table.number()),
            Self::Rule {
                priority,
                is_ipv6,
                route: Some((table, route)),
            } => {
                let family = family(is_ipv6);
                write!(f, "{family}rule {priority} to table {table} with {route}")
            }
            Self::Rule {
                priority,
                is_ipv6,
                route: None,
            } => write!(f, "{}rule {priority} that refuses", family(is_ipv6)),
        }
    }
}

/// What of others has to be known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Foreign {
    /// Routes of the tables that ours are in.
    pub routes: Vec<(Table, ForeignRoute)>,
    /// All policy rules but ours.
    pub rules: Vec<PolicyRule>,
    /// The routes in the [`tables`] of these rules.
    pub tables: BTreeMap<u32, Vec<ForeignRoute>>,
}

/// The tables that rules before ours look up: what is in them decides.
#[must_use]
pub fn tables(rules: &[PolicyRule], guard: &GuardTable) -> BTreeSet<u32> {
    rules_before_ours(rules, guard)
        .filter_map(|rule| match rule.action {
            RuleAction::Lookup { table, .. } => Some(table),
            RuleAction::Refuse | RuleAction::Other => None,
        })
        .collect()
}

/// Everything of others that takes pod traffic away from the routes of `desired`.
#[must_use]
pub fn obstacles(desired: &Kernel, foreign: &Foreign) -> BTreeSet<Obstacle> {
    let guard = match &desired.guard {
        // Before the own pods are known their routes look like anybody's.
        Guard::Installed(guard) if !guard.own_cidrs.is_empty() => guard,
        Guard::Installed(_) | Guard::Altered | Guard::Missing => return BTreeSet::new(),
    };
    let routes = foreign.routes.iter();
    let routes = routes
        .filter(|(table, route)| is_in_the_way(*table, route, desired, guard, &foreign.rules))
        .map(|(table, route)| Obstacle::Route(*table, route.clone()));
    let rules = rules_before_ours(&foreign.rules, guard)
        .filter_map(|rule| in_the_way(rule, &foreign.tables, guard));
    routes.chain(rules).collect()
}

/// Whether a route may matter at all: whoever reads tables of a million routes asks this first.
#[must_use]
pub fn concerns_pods(destination: &IpNet, guard: &GuardTable) -> bool {
    guard
        .cluster_cidrs
        .iter()
        .any(|cidr| overlap(cidr, destination))
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

/// The longest prefix wins, and among those the lowest metric.
fn is_in_the_way(
    table: Table,
    route: &ForeignRoute,
    desired: &Kernel,
    guard: &GuardTable,
    rules: &[PolicyRule],
) -> bool {
    let destination = &route.destination;
    let is_within = |cidrs: &BTreeSet<IpNet>| cidrs.iter().any(|cidr| cidr.contains(destination));
    let key = RouteKey {
        table,
        destination: *destination,
        metric: route.metric,
    };
    if desired.routes.contains_key(&key) {
        // Ours cannot be set at all.
        return true;
    }
    match table {
        Table::Main if is_within(&guard.own_cidrs) => return leads_to_the_underlay(route, guard),
        Table::Main if !is_main_asked_first(rules, guard, destination.addr().is_ipv6()) => {
            return false;
        }
        Table::Main if !is_within(&guard.cluster_cidrs) => {
            // Shorter than all of ours.
            return false;
        }
        Table::Main | Table::Peers => {}
    }
    let ours = desired.routes.keys();
    let best = ours
        .filter(|key| key.destination == *destination && key.table == table)
        .map(|key| key.metric)
        .min();
    best.is_none_or(|best| route.metric < best)
        && route.leads != Leads::On
        && !leads_into_the_device(route, guard)
}

/// Whether somebody has the main table asked for pod traffic before our rules are.
fn is_main_asked_first(rules: &[PolicyRule], guard: &GuardTable, is_ipv6: bool) -> bool {
    rules.iter().any(|rule| {
        rule.is_ipv6 == is_ipv6
            && rule.priority <= OwnRule::LookupPeers.priority()
            && matches!(
                rule.action,
                RuleAction::Lookup {
                    table: TABLE_MAIN,
                    ..
                }
            )
            && !taken_by(rule, guard).is_empty()
    })
}

fn leads_into_the_device(route: &ForeignRoute, guard: &GuardTable) -> bool {
    matches!(&route.leads, Leads::Out(link) if Some(link) == guard.device.as_ref())
}

fn leads_to_the_underlay(route: &ForeignRoute, guard: &GuardTable) -> bool {
    matches!(&route.leads, Leads::Out(link) if guard.underlay_links.contains(link))
}

/// The rules that are asked before ours, or before one that looks the main table up for all
/// traffic, where ours are too.
fn rules_before_ours<'a>(
    rules: &'a [PolicyRule],
    guard: &GuardTable,
) -> impl Iterator<Item = &'a PolicyRule> {
    let shortest = guard.cluster_cidrs.iter().map(IpNet::prefix_len).min();
    let is_main = move |rule: &PolicyRule| {
        let whole = rule.source.is_none()
            && rule.destination.is_none()
            && !rule.is_selective
            && !rule.is_inverted;
        let shows_ours = |suppressed: Option<u8>| {
            suppressed.is_none_or(|bits| shortest.is_some_and(|shortest| bits < shortest))
        };
        whole
            && matches!(rule.action, RuleAction::Lookup { table: TABLE_MAIN, suppressed }
                if shows_ours(suppressed))
    };
    let first = |is_ipv6| {
        let of_family = rules.iter().filter(move |rule| rule.is_ipv6 == is_ipv6);
        let mains = of_family.filter(|rule| is_main(rule));
        // Of two with one priority the older is asked first, which may be theirs.
        let ours = OwnRule::LookupPeers.priority() + 1;
        mains.fold(ours, |first, rule| first.min(rule.priority))
    };
    let (first4, first6) = (first(false), first(true));
    rules.iter().filter(move |rule| {
        rule.priority < if rule.is_ipv6 { first6 } else { first4 }
            && !matches!(
                rule.action,
                RuleAction::Other
                    | RuleAction::Lookup {
                        table: TABLE_MAIN | TABLE_LOCAL,
                        ..
                    }
            )
    })
}

/// What a rule takes of pod traffic, if anything.
fn in_the_way(
    rule: &PolicyRule,
    tables: &BTreeMap<u32, Vec<ForeignRoute>>,
    guard: &GuardTable,
) -> Option<Obstacle> {
    let taken = taken_by(rule, guard);
    if taken.is_empty() {
        return None;
    }
    let obstacle = |route| Obstacle::Rule {
        priority: rule.priority,
        is_ipv6: rule.is_ipv6,
        route,
    };
    let (table, suppressed) = match rule.action {
        RuleAction::Lookup { table, suppressed } => (table, suppressed),
        RuleAction::Refuse => return Some(obstacle(None)),
        RuleAction::Other => return None,
    };
    let takes = |route: &&ForeignRoute| {
        let destination = &route.destination;
        let is_own = guard.own_cidrs.iter().any(|own| own.contains(destination));
        suppressed.is_none_or(|bits| destination.prefix_len() > bits)
            && route.leads != Leads::On
            && !leads_into_the_device(route, guard)
            && (!is_own || leads_to_the_underlay(route, guard))
            && taken.iter().any(|cidr| overlap(cidr, destination))
    };
    let route = tables.get(&table)?.iter().find(takes)?;
    Some(obstacle(Some((table, route.clone()))))
}

/// The destinations among the cluster's pods that a rule takes. A mark or a link is somebody's
/// choice for some packets: such a rule counts only where it names pods.
fn taken_by(rule: &PolicyRule, guard: &GuardTable) -> Vec<IpNet> {
    let of_family = guard
        .cluster_cidrs
        .iter()
        .filter(|cidr| cidr.addr().is_ipv6() == rule.is_ipv6);
    if rule.is_inverted {
        return of_family.copied().collect();
    }
    let is_from_pods = rule.source.is_none_or(|source| {
        guard
            .cluster_cidrs
            .iter()
            .any(|cidr| overlap(cidr, &source))
    });
    match rule.destination {
        _ if !is_from_pods => Vec::new(),
        None if rule.is_selective => Vec::new(),
        None => of_family.copied().collect(),
        Some(destination) => of_family
            .filter(|cidr| overlap(cidr, &destination))
            .map(|cidr| {
                if cidr.contains(&destination) {
                    destination
                } else {
                    *cidr
                }
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests;
