//! What others have set up at this host that drops what the mesh needs: packet filters and reverse
//! path filters. Only nftables, and iptables that is built on it, can be read.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use podwire_core::finding::Finding;
use podwire_core::needed_traffic::{Filtered, Need, filtered, needed};
use podwire_core::packet_filter::Sample;
use podwire_core::reverse_path::StrictWay;
use tracing::debug;

use super::agent::Agent;

/// Least time between two looks at packet filters: kube-proxy writes its own with each change of a
/// Service.
const INTERVAL: Duration = Duration::from_secs(5);

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct HostChecks {
    /// Ways on which packets of peers are dropped, as of the last pass.
    pub(super) strict_ways: BTreeSet<StrictWay>,
    filters: Option<Looked>,
}

/// The last look at packet filters.
#[derive(Debug)]
struct Looked {
    at: Instant,
    /// As it was before.
    generation: u32,
    needed: Vec<(Need, Sample)>,
    found: BTreeSet<Filtered>,
}

impl Agent {
    /// Everything that is found.
    pub(super) fn host_findings(&mut self, now: Instant) -> BTreeSet<Finding> {
        if let Err(error) = self.look_at_packet_filters(now) {
            debug!(%error, "cannot look at the packet filters of others");
        }
        let ways = self.host_checks.strict_ways.iter().cloned();
        let filters = self.host_checks.filters.iter();
        let filters = filters.flat_map(|looked| looked.found.iter().cloned());
        ways.map(Finding::StrictWay)
            .chain(filters.map(Finding::Filtered))
            .collect()
    }

    /// Reads them only where they, or what is needed, are others than at the last look.
    fn look_at_packet_filters(&mut self, now: Instant) -> Result<(), crate::netlink::Error> {
        let Some(mesh) = &self.mesh else {
            return Ok(());
        };
        let last = self.host_checks.filters.as_ref();
        if last.is_some_and(|last| now.duration_since(last.at) < INTERVAL) {
            return Ok(());
        }
        let ports = (self.config.listen_port, self.config.last_port());
        let plugin = self.config.cni.as_ref().and_then(|cni| cni.plugin);
        let needed = needed(mesh, &self.links, &self.config.device, ports, plugin);
        let generation = self.netlink.packet_filter_generation()?;
        if last.is_some_and(|last| last.generation == generation && last.needed == needed) {
            return Ok(());
        }
        let found = filtered(&self.netlink.packet_filters()?, &needed);
        self.host_checks.filters = Some(Looked {
            at: now,
            generation,
            needed,
            found,
        });
        Ok(())
    }
}
