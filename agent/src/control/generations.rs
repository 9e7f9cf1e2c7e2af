//! Which records of the registry do not count because they went back.

use std::collections::BTreeMap;
use std::sync::Arc;

use podwire_core::generation::{WentBack, hold};
use podwire_core::node::NodeName;
use podwire_registry::nodes::Nodes;

/// What the registry told, with the record that stays in force where one went back behind what is
/// `known`; and which did. The own record is not asked: the own agent is about to mend it.
pub(super) fn hold_newer(
    known: &Nodes,
    told: Arc<Nodes>,
    own: &NodeName,
) -> (Arc<Nodes>, BTreeMap<NodeName, WentBack>) {
    let mut went_back = BTreeMap::new();
    let mut held = BTreeMap::new();
    for (name, node) in told.nodes.iter().filter(|(name, _)| *name != own) {
        let before = known.nodes.get(name);
        if let Some(before) = before.filter(|before| !Arc::ptr_eq(before, node))
            && let Some((newer, found)) = hold(before, node)
        {
            // The same one again, so that nothing looks changed.
            let newer = if newer == **before {
                Arc::clone(before)
            } else {
                Arc::new(newer)
            };
            held.insert(name.clone(), newer);
            went_back.insert(name.clone(), found);
        }
    }
    if held.is_empty() {
        return (told, went_back);
    }
    let mut nodes = Nodes::clone(&told);
    nodes.nodes.extend(held);
    (Arc::new(nodes), went_back)
}
