//! What is found at this host that keeps pods from working: told when it comes and goes, never
//! touched.

use std::time::Instant;

use podwire_core::finding::Finding;
use tracing::{info, warn};

use super::agent::Agent;
use super::found::Found;
use super::repeat_log::Summary;

/// What is found now.
pub(super) type Findings = Found<Finding>;

impl Agent {
    /// Looks at the host. Not to see something costs a hint, nothing more.
    pub(super) fn look_at_host(&mut self) {
        let now = Instant::now();
        let mut found = self.cni_findings();
        found.extend(self.host_findings(now));
        let news = self.findings.replace(found, now);
        if let Some(what) = news.come {
            warn!(what, "found at this host; it is not touched");
        }
        if let Some(what) = news.gone {
            info!(what, "no longer found at this host");
        }
        if let Some(Summary { times, named: what }) = self.findings.sum_up(now) {
            warn!(times, what, "came and went, within a minute, at this host");
        }
    }
}
