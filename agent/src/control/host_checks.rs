//! What others have set up at this host that drops what the mesh needs: packet filters and reverse
//! path filters. Only nftables, and iptables that is built on it, can be read.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use podwire_core::finding::Finding;
use podwire_core::needed_traffic::{Need, filtered};
use podwire_core::packet_filter::Sample;
use podwire_core::reverse_path::StrictWay;
use tracing::debug;

use super::agent::Agent;
use crate::netlink::{Error, Netlink};

/// Least time between two looks at packet filters: kube-proxy writes its own with each change of a
/// Service.
const INTERVAL: Duration = Duration::from_secs(5);

/// The same in parts of the time that a look takes: on a node with very many rules, they cost one
/// hundredth of a core at most.
const REST: u32 = 100;

/// Time after a look that failed, or ended early: the reason mostly stays.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct HostChecks {
    /// Ways on which packets of peers are dropped, as of the last pass.
    pub(super) strict_ways: BTreeSet<StrictWay>,
    /// What has to pass packet filters, as of the last pass.
    pub(super) needed: Vec<(Need, Sample)>,
    filters: Option<Looked>,
    /// There is no further look before that.
    rests_until: Option<Instant>,
}

/// The last look at packet filters.
#[derive(Debug)]
struct Looked {
    /// As it was before.
    generation: u32,
    needed: Vec<(Need, Sample)>,
    found: BTreeSet<Finding>,
}

impl Agent {
    /// Everything that is found.
    pub(super) fn host_findings(&mut self, now: Instant) -> BTreeSet<Finding> {
        self.host_checks.look(&self.netlink, now);
        let ways = self.host_checks.strict_ways.iter().cloned();
        let filters = self.host_checks.filters.iter();
        let filters = filters.flat_map(|looked| looked.found.iter().cloned());
        ways.map(Finding::StrictWay).chain(filters).collect()
    }
}

impl HostChecks {
    /// Looks at packet filters, unless it is too early for that.
    fn look(&mut self, netlink: &Netlink, now: Instant) {
        if self.rests_until.is_some_and(|until| now < until) {
            return;
        }
        let looked = self.look_now(netlink);
        let rest = rest(&looked, now.elapsed());
        self.rests_until = rest.map(|rest| now + rest);
        if let Err(error) = looked {
            debug!(%error, "cannot look at the packet filters of others");
        }
    }

    /// Reads them only where they, or what is needed, are others than at the last look.
    fn look_now(&mut self, netlink: &Netlink) -> Result<Look, Error> {
        let generation = netlink.packet_filter_generation()?;
        let last = self.filters.as_ref();
        if last.is_some_and(|last| last.generation == generation && last.needed == self.needed) {
            return Ok(Look::Same);
        }
        let (look, found) = match netlink.packet_filters()? {
            Ok(ruleset) => {
                let found = filtered(&ruleset, &self.needed).into_iter();
                (Look::Whole, found.map(Finding::Filtered).collect())
            }
            Err(too_much) => {
                let found = Finding::FiltersNotLookedAt(too_much);
                (Look::TooMuch, [found].into())
            }
        };
        self.filters = Some(Looked {
            generation,
            needed: self.needed.clone(),
            found,
        });
        Ok(look)
    }
}

/// How far a look went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Nothing is new.
    Same,
    Whole,
    TooMuch,
}

/// For how long there is no other one after a look that took so long.
fn rest<E>(looked: &Result<Look, E>, took: Duration) -> Option<Duration> {
    let least = match looked {
        Ok(Look::Same) => return None,
        Ok(Look::Whole) => INTERVAL,
        Ok(Look::TooMuch) | Err(_) => RETRY_INTERVAL,
    };
    Some(least.max(took.saturating_mul(REST)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_rested_from_by_what_it_took_and_longer_where_it_came_to_nothing() {
        let short = Duration::from_millis(1);
        let long = Duration::from_secs(1);
        for (looked, took, expected) in [
            (Ok(Look::Same), long, None),
            (Ok(Look::Whole), short, Some(INTERVAL)),
            (Ok(Look::Whole), long, Some(100 * long)),
            (Ok(Look::TooMuch), short, Some(RETRY_INTERVAL)),
            (Err(()), short, Some(RETRY_INTERVAL)),
            (Err(()), long, Some(100 * long)),
        ] {
            assert_eq!(rest(&looked, took), expected, "{looked:?} after {took:?}");
        }
    }
}
