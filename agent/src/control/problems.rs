//! What is wrong with this node at the moment: shown in status, logged when it comes up or changes.

use tracing::{info, warn};

/// One thing that can be wrong.
#[derive(Debug, Default)]
pub(super) struct Problem(Option<String>);

impl Problem {
    /// Takes the outcome of the latest attempt: a failure is logged once, not at every retry.
    pub(super) fn set(&mut self, what: &str, outcome: anyhow::Result<()>) {
        self.put(outcome.err().map(|error| format!("{what}: {error:#}")));
    }

    /// Replaces the problem; `None` when all is well.
    pub(super) fn put(&mut self, problem: Option<String>) {
        if problem != self.0 {
            match &problem {
                Some(text) => warn!("{text}; trying again"),
                None => info!(
                    "all is well again: {}",
                    self.0.as_deref().unwrap_or_default()
                ),
            }
        }
        self.0 = problem;
    }

    /// In words; `None` when all is well.
    pub(super) fn text(&self) -> Option<&str> {
        self.0.as_deref()
    }

    pub(super) const fn is_some(&self) -> bool {
        self.0.is_some()
    }
}

/// Everything that can be wrong.
#[derive(Debug, Default)]
pub(super) struct Problems {
    /// The CNI configuration cannot be written: the mesh works, and no pod starts.
    pub(super) cni: Problem,
    /// Flags and what the registry says of this node contradict each other.
    pub(super) configuration: Problem,
    /// The TUN device cannot be used.
    pub(super) device: Problem,
    /// The kernel forwards no packets.
    pub(super) forwarding: Problem,
    /// The own keys are not rotated as they should be.
    pub(super) keys: Problem,
    /// The own record cannot be published.
    pub(super) publish: Problem,
    /// Kernel or data plane cannot be brought to the desired state.
    pub(super) reconcile: Problem,
    /// The state folder cannot be written.
    pub(super) state: Problem,
    /// A link carries own pods and the underlay: it works, and one guard is lacking.
    pub(super) shared_links: Problem,
    /// This node is in host-network mode for want of a TUN device: it works, and should not.
    pub(super) fallback: Option<String>,
}

impl Problems {
    /// Whether something is wrong that a reconcile may mend.
    pub(super) const fn any(&self) -> bool {
        self.configuration.is_some()
            || self.device.is_some()
            || self.forwarding.is_some()
            || self.publish.is_some()
            || self.reconcile.is_some()
    }

    /// All of it, in words.
    pub(super) fn list(&self) -> Vec<String> {
        [
            &self.cni,
            &self.configuration,
            &self.device,
            &self.forwarding,
            &self.keys,
            &self.publish,
            &self.reconcile,
            &self.state,
            &self.shared_links,
        ]
        .into_iter()
        .filter_map(|problem| problem.0.clone())
        .chain(self.fallback.clone())
        .collect()
    }
}
