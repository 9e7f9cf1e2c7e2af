//! Keys beside those in force, announced or to be retired, that accepted nodes of one rank name. No
//! handshake has confirmed them, and whoever reads a record can copy them: so age decides nothing
//! here, else the older of two could take from the younger what it has just announced.

use std::collections::BTreeMap;

use super::Holdings;
use crate::key::PublicKey;
use crate::node::{Node, NodeName};
use crate::record::{LaneKeys, Record};
use crate::refusal::{Contested, KeySlot};

/// Each key with the nodes that name it.
pub(super) struct Beside<'a>(pub(super) BTreeMap<PublicKey, Names<'a>>);

/// The oldest node that names a key, and another one.
pub(super) struct Names<'a> {
    pub(super) first: &'a NodeName,
    other: Option<&'a NodeName>,
}

impl<'a> Beside<'a> {
    pub(super) fn new(accepted: &[(&'a Node, Record)]) -> Self {
        let mut keys: BTreeMap<PublicKey, Names<'a>> = BTreeMap::new();
        for (node, record) in accepted {
            let slots = [&record.next, &record.previous].into_iter().flatten();
            for key in slots.flat_map(LaneKeys::keys) {
                let names = keys.entry(key).or_insert(Names {
                    first: &node.name,
                    other: None,
                });
                if *names.first != node.name {
                    names.other.get_or_insert(&node.name);
                }
            }
        }
        Self(keys)
    }

    /// Takes out of a record what another node has in force, announced before, or names as well.
    pub(super) fn strike(
        &self,
        holdings: &Holdings<'a>,
        name: &NodeName,
        record: &mut Record,
    ) -> Vec<Contested> {
        let slots = [
            (KeySlot::Next, &mut record.next),
            (KeySlot::Previous, &mut record.previous),
        ];
        let strike = |(slot, keys): (KeySlot, &mut Option<LaneKeys>)| {
            let another = |key| Some((key, self.another(holdings, &key, name)?));
            let (key, node) = keys.as_ref()?.keys().find_map(another)?;
            *keys = None;
            let node = node.clone();
            Some(Contested { slot, key, node })
        };
        slots.into_iter().filter_map(strike).collect()
    }

    fn another(
        &self,
        holdings: &Holdings<'a>,
        key: &PublicKey,
        name: &NodeName,
    ) -> Option<&'a NodeName> {
        let held = holdings.keys.get(key).copied();
        let named = self.0.get(key).into_iter();
        held.into_iter()
            .chain(
                named
                    .flat_map(|names| [Some(names.first), names.other])
                    .flatten(),
            )
            .find(|it| *it != name)
    }
}
