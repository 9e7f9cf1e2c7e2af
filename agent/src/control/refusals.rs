//! Tells which nodes are refused, and shows it in status.

use std::collections::BTreeMap;

use podwire_core::generation::WentBack;
use podwire_core::mesh::DesiredMesh;
use podwire_core::node::NodeName;
use podwire_registry::nodes::Nodes;
use podwire_registry::refusals::{self, Reason};
use tracing::{info, warn};

use super::status::Refused;

/// Every node, or file of one, that is refused, by name, as status shows it.
pub(super) fn refusals(
    nodes: &Nodes,
    went_back: &BTreeMap<NodeName, WentBack>,
    mesh: Option<&DesiredMesh>,
) -> BTreeMap<String, Refused> {
    let shown = |refused: refusals::Refused| Refused {
        reason: refused.reason.as_str().to_owned(),
        message: refused.message,
    };
    let refused = refusals::refusals(nodes, went_back, mesh).into_iter();
    refused.map(|(name, one)| (name, shown(one))).collect()
}

/// Tells what has changed: one line a node.
pub(super) fn tell(before: &BTreeMap<String, Refused>, after: &BTreeMap<String, Refused>) {
    for (node, refused) in after {
        let Refused { reason, message } = refused;
        if before.get(node) == Some(refused) {
            continue;
        }
        if *reason == Reason::NoRecord.as_str() {
            info!(%node, %reason, "no peer yet: {message}");
        } else {
            warn!(%node, %reason, "refused: {message}");
        }
    }
    for node in before.keys().filter(|node| !after.contains_key(*node)) {
        info!(%node, "no longer refused");
    }
}
