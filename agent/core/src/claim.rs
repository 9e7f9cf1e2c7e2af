//! Which node may claim what (DESIGN.md section 4).
//!
//! Each claim is first checked by itself. Those that pass are then decided in a fixed order, each
//! against what was accepted before it and what handshakes have confirmed for others: this node,
//! then the incumbents, then by age. A key that is announced or retired counts after those in
//! force; named by two, it is nobody's, and costs neither its place. So a refused claim never
//! displaces another, whatever else it conflicts with, and the result depends on no input order. A
//! Node without a record claims nothing: its `spec.podCIDRs` take nothing from anybody. Node
//! addresses take nothing either, as a node reports its own: one that lies where pods are refuses
//! the node that names it.

mod beside;
mod cidrs;
mod confirmed;

use std::collections::BTreeMap;

use ipnet::IpNet;

use self::beside::Beside;
use self::cidrs::Cidrs;
use self::confirmed::Confirmed;
use crate::annotations;
use crate::key::PublicKey;
use crate::mesh::{Incumbent, Incumbents, OwnNode, Policy};
use crate::node::{Node, NodeName, can_be_a_node};
use crate::record::{LaneKeys, Record};
use crate::refusal::{Contested, Refusal};

/// The outcome for every node but this one.
#[derive(Debug, Default)]
pub(crate) struct Verdicts<'a> {
    pub(crate) accepted: BTreeMap<&'a NodeName, (&'a Node, Record)>,
    pub(crate) refused: BTreeMap<&'a NodeName, Refusal>,
    /// Of accepted nodes, whose records are without these keys.
    pub(crate) contested: BTreeMap<&'a NodeName, Vec<Contested>>,
}

/// A node, and its record as far as it can be read.
struct Claimant<'a> {
    node: &'a Node,
    record: Result<Record, Refusal>,
}

impl<'a> Claimant<'a> {
    fn read(node: &'a Node) -> Self {
        let record = match annotations::parse(&node.annotations) {
            _ if node.is_record_unread => Err(Refusal::RecordUnread),
            Ok(record) => record.ok_or(Refusal::NoRecord),
            Err(error) => Err(Refusal::Unparsable(error)),
        };
        Self { node, record }
    }

    /// Older nodes come first; what tells two of one second apart must not change.
    fn age(&self) -> (i64, &'a str, &'a NodeName) {
        (self.node.created, &self.node.uid, &self.node.name)
    }
}

/// Decides about every claim. Takes O(n log n) for n nodes.
pub(crate) fn decide<'a>(
    nodes: impl Iterator<Item = &'a Node>,
    own: &'a OwnNode,
    incumbents: &'a Incumbents,
    policy: &Policy,
) -> Verdicts<'a> {
    let others = nodes.filter(|node| node.name != own.name);
    let mut claimants: Vec<_> = others.map(Claimant::read).collect();
    claimants.sort_by(|one, other| one.age().cmp(&other.age()));
    let mut holdings = Holdings {
        own,
        cidrs: Cidrs::default(),
        keys: own
            .public_keys
            .iter()
            .map(|key| (*key, &own.name))
            .collect(),
        confirmed: Confirmed::new(&claimants, incumbents),
    };
    let (first, then): (Vec<_>, Vec<_>) =
        claimants
            .into_iter()
            .partition(|Claimant { node, record }| {
                let is_one = |record| incumbent(node, record, incumbents).is_some();
                record.as_ref().is_ok_and(is_one)
            });
    let mut verdicts = Verdicts::default();
    for rank in [first, then] {
        decide_rank(rank, own, policy, &mut holdings, &mut verdicts);
    }
    verdicts
}

/// Decides about claimants of one rank, the oldest first.
fn decide_rank<'a>(
    claimants: Vec<Claimant<'a>>,
    own: &OwnNode,
    policy: &Policy,
    holdings: &mut Holdings<'a>,
    verdicts: &mut Verdicts<'a>,
) {
    let mut accepted = Vec::new();
    for Claimant { node, record } in claimants {
        let checked = record.and_then(|record| {
            check_pod_cidrs(node, &record, own, policy)?;
            check_endpoints(node, &record, policy)?;
            check_addresses(node, own, policy)?;
            holdings.check(node, &record)?;
            Ok(record)
        });
        match checked {
            Ok(record) => {
                holdings.hold_in_force(&node.name, &record);
                accepted.push((node, record));
            }
            Err(refusal) => drop(verdicts.refused.insert(&node.name, refusal)),
        }
    }
    let beside = Beside::new(&accepted);
    for (node, mut record) in accepted {
        let contested = beside.strike(holdings, &node.name, &mut record);
        if !contested.is_empty() {
            verdicts.contested.insert(&node.name, contested);
        }
        verdicts.accepted.insert(&node.name, (node, record));
    }
    holdings.hold_beside(beside);
}

/// What a handshake confirmed about the node that this record still says: the same Node, with the
/// confirmed key. A node that just promoted a new key names the confirmed one as its previous one;
/// one that was met while it announced a key may have been met by that.
///
/// An incumbent's other keys come before a newcomer's although nobody confirmed them: else whoever
/// copied a key that an incumbent announces would have the incumbent refused when it uses it. What
/// an incumbent can do with that, keep out a node that nobody ever reached by claiming its key, its
/// `next` slot gives it anyway.
fn incumbent<'a>(
    node: &Node,
    record: &Record,
    incumbents: &'a Incumbents,
) -> Option<&'a Incumbent> {
    let incumbent = incumbents.get(&node.name)?;
    let slots = [&record.current, &record.previous, &record.next];
    let mut named = slots.into_iter().flatten().map(|keys| keys.public_key);
    (incumbent.uid == node.uid && named.any(|key| key == incumbent.public_key)).then_some(incumbent)
}

fn check_pod_cidrs(
    node: &Node,
    record: &Record,
    own: &OwnNode,
    policy: &Policy,
) -> Result<(), Refusal> {
    let claimed = &record.pod_cidrs;
    if let Some(cidr) = claimed.iter().find(|cidr| cidr.prefix_len() == 0) {
        return Err(Refusal::DefaultRoute { cidr: *cidr });
    }
    if node.pod_cidrs.is_empty() {
        return Err(Refusal::NoPodCidrs);
    }
    if !same(claimed, &node.pod_cidrs) {
        let (claimed, spec) = (claimed.clone(), node.pod_cidrs.clone());
        return Err(Refusal::NotSpecPodCidrs { claimed, spec });
    }
    for cidr in claimed {
        for (name, addresses) in [(&node.name, &node.addresses), (&own.name, &own.addresses)] {
            if let Some(address) = addresses.iter().find(|address| cidr.contains(*address)) {
                return Err(Refusal::ContainsNodeAddress {
                    cidr: *cidr,
                    address: *address,
                    node: name.clone(),
                });
            }
        }
        if !policy
            .cluster_cidrs
            .iter()
            .any(|cluster| cluster.contains(cidr))
        {
            return Err(Refusal::OutsideClusterCidrs { cidr: *cidr });
        }
    }
    Ok(())
}

/// The same CIDRs in any order.
fn same(one: &[IpNet], other: &[IpNet]) -> bool {
    one.len() == other.len() && one.iter().all(|cidr| other.contains(cidr))
}

fn check_endpoints(node: &Node, record: &Record, policy: &Policy) -> Result<(), Refusal> {
    for endpoint in &record.endpoints {
        let (endpoint, address) = (*endpoint, endpoint.ip());
        if !can_be_a_node(address) {
            return Err(Refusal::EndpointUnusable { endpoint });
        }
        if let Some(cidr) = policy
            .cluster_cidrs
            .iter()
            .find(|cidr| cidr.contains(&address))
        {
            return Err(Refusal::EndpointInClusterCidrs {
                endpoint,
                cidr: *cidr,
            });
        }
        let allowed = node.addresses.contains(&address)
            || policy
                .endpoint_cidrs
                .iter()
                .any(|cidr| cidr.contains(&address));
        if !allowed {
            return Err(Refusal::EndpointForeign { endpoint });
        }
    }
    Ok(())
}

/// No node is where pods are. As every claim lies in the cluster's CIDRs, no accepted one contains
/// an accepted node's address, and nobody else's claim has to be asked.
fn check_addresses(node: &Node, own: &OwnNode, policy: &Policy) -> Result<(), Refusal> {
    for address in &node.addresses {
        let mut cidrs = policy.cluster_cidrs.iter().chain(&own.pod_cidrs);
        if let Some(cidr) = cidrs.find(|cidr| cidr.contains(address)) {
            let (address, cidr) = (*address, *cidr);
            return Err(Refusal::AddressInPodCidrs { address, cidr });
        }
    }
    Ok(())
}

/// What is taken already.
struct Holdings<'a> {
    own: &'a OwnNode,
    /// Of accepted nodes.
    cidrs: Cidrs<'a>,
    keys: BTreeMap<PublicKey, &'a NodeName>,
    /// What a handshake confirmed, which nobody else gets, not even an older incumbent.
    confirmed: Confirmed<'a>,
}

impl<'a> Holdings<'a> {
    fn hold_in_force(&mut self, name: &'a NodeName, record: &Record) {
        for cidr in &record.pod_cidrs {
            self.cidrs.insert(*cidr, name);
        }
        let keys = record.current.iter().flat_map(LaneKeys::keys);
        self.keys.extend(keys.map(|key| (key, name)));
    }

    /// What two name is kept from others all the same: one of the two may come to use it.
    fn hold_beside(&mut self, beside: Beside<'a>) {
        for (key, names) in beside.0 {
            self.keys.entry(key).or_insert(names.first);
        }
    }

    fn check(&self, node: &Node, record: &Record) -> Result<(), Refusal> {
        for cidr in &record.pod_cidrs {
            if let Some((other, name)) = self.overlapping(cidr, &node.name) {
                let (cidr, node) = (*cidr, name.clone());
                return Err(Refusal::Overlap { cidr, other, node });
            }
        }
        let in_force = |key| {
            record
                .current
                .iter()
                .any(|keys| keys.keys().any(|it| it == key))
        };
        for key in record.public_keys() {
            let held = self.keys.get(&key).copied();
            let held = held.filter(|name| **name == self.own.name || in_force(key));
            let confirmed = || self.confirmed.key_of_another(&key, &node.name);
            if let Some(name) = held.or_else(confirmed) {
                return Err(Refusal::KeyTaken {
                    key,
                    node: name.clone(),
                });
            }
        }
        Ok(())
    }

    /// A CIDR of another node that shares an address with this one.
    fn overlapping(&self, cidr: &IpNet, claimant: &NodeName) -> Option<(IpNet, &'a NodeName)> {
        let own = self.own.pod_cidrs.iter();
        own.filter(|own| own.contains(cidr) || cidr.contains(*own))
            .map(|own| (*own, &self.own.name))
            .next()
            .or_else(|| self.cidrs.overlapping(cidr).next())
            .or_else(|| self.confirmed.cidr_of_another(cidr, claimant))
    }
}
