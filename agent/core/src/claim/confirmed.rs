//! What handshakes have confirmed: it stays its node's own while that node goes on to say so, and
//! also while what it says cannot be read.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{Cidrs, Claimant, incumbent};
use crate::key::PublicKey;
use crate::mesh::{Incumbent, Incumbents};
use crate::node::NodeName;
use crate::refusal::Refusal;

/// Keys and pod CIDRs that nobody else gets.
#[derive(Debug, Default)]
pub(super) struct Confirmed<'a> {
    keys: BTreeMap<PublicKey, &'a NodeName>,
    cidrs: Cidrs<'a>,
}

impl<'a> Confirmed<'a> {
    /// `claimants` are all other nodes, the oldest first: of two for which the same was confirmed,
    /// it has the last word. A Node whose manifest cannot be read is not among them, and comes
    /// last.
    pub(super) fn new(claimants: &[Claimant<'a>], incumbents: &'a Incumbents) -> Self {
        let mut confirmed = Self::default();
        let mut unread: BTreeMap<&NodeName, &Incumbent> = incumbents.iter().collect();
        for claimant in claimants {
            if let Some((name, incumbent)) = unread.remove_entry(&claimant.node.name)
                && speaks_as(claimant, incumbent, incumbents)
            {
                confirmed.hold_what_is_claimed(name, claimant, incumbent);
            }
        }
        for (name, incumbent) in unread {
            confirmed.hold(name, keys(incumbent), incumbent.pod_cidrs.iter());
        }
        confirmed
    }

    /// Whose key this is, if it is somebody else's.
    pub(super) fn key_of_another(
        &self,
        key: &PublicKey,
        claimant: &NodeName,
    ) -> Option<&'a NodeName> {
        let holder = self.keys.get(key).copied();
        holder.filter(|holder| *holder != claimant)
    }

    /// A CIDR of somebody else that shares an address with this one.
    pub(super) fn cidr_of_another(
        &self,
        cidr: &IpNet,
        claimant: &NodeName,
    ) -> Option<(IpNet, &'a NodeName)> {
        let mut holders = self.cidrs.overlapping(cidr);
        holders.find(|(_, holder)| *holder != claimant)
    }

    /// What a record does not name any more is given up; so is a CIDR that the cluster has taken
    /// away.
    fn hold_what_is_claimed(
        &mut self,
        name: &'a NodeName,
        claimant: &Claimant<'a>,
        incumbent: &'a Incumbent,
    ) {
        let named = |key: &PublicKey| {
            let record = claimant.record.as_ref();
            record.map_or(true, |record| {
                record.public_keys().any(|named| named == *key)
            })
        };
        let spec = &claimant.node.pod_cidrs;
        self.hold(
            name,
            keys(incumbent).filter(named),
            incumbent
                .pod_cidrs
                .iter()
                .filter(|cidr| spec.contains(cidr)),
        );
    }

    fn hold(
        &mut self,
        name: &'a NodeName,
        keys: impl Iterator<Item = PublicKey>,
        cidrs: impl Iterator<Item = &'a IpNet>,
    ) {
        for key in keys {
            self.keys.entry(key).or_insert(name);
        }
        cidrs.for_each(|cidr| self.cidrs.insert(*cidr, name));
    }
}

/// Whether what was confirmed is still this node's: by its record, or for want of a readable one.
fn speaks_as(claimant: &Claimant<'_>, confirmed: &Incumbent, incumbents: &Incumbents) -> bool {
    let node = claimant.node;
    match &claimant.record {
        Ok(record) => incumbent(node, record, incumbents).is_some(),
        Err(Refusal::NoRecord) => false,
        Err(_) => node.uid == confirmed.uid,
    }
}

fn keys(incumbent: &Incumbent) -> impl Iterator<Item = PublicKey> + '_ {
    std::iter::once(incumbent.public_key).chain(incumbent.other_lanes.iter().copied())
}
