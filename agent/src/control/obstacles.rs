//! Routes and rules of others that stand in the way of pod traffic: looked for at every pass, told
//! when they come and go, never touched.

use std::collections::BTreeSet;
use std::time::Instant;

use podwire_core::kernel::{Guard, Kernel};
use podwire_core::obstacles::{Obstacle, obstacles};
use tracing::{debug, info, warn};

use super::agent::Agent;
use super::repeat_log::{RepeatLog, in_one_line};

/// What stands in the way now.
#[derive(Debug, Default)]
pub(super) struct Obstacles {
    found: BTreeSet<Obstacle>,
    log: RepeatLog,
}

impl Obstacles {
    /// All of them, in words.
    pub(super) fn list(&self) -> Vec<String> {
        self.found.iter().map(ToString::to_string).collect()
    }

    fn replace(&mut self, found: BTreeSet<Obstacle>, now: Instant) {
        let words = |set: Vec<&Obstacle>| -> Vec<String> {
            set.into_iter().map(ToString::to_string).collect()
        };
        let new = words(found.difference(&self.found).collect());
        if !new.is_empty() && self.log.is_news(&new, now) {
            warn!(
                what = in_one_line(&new),
                "stands in the way of pod traffic: its owner should remove it; it is not touched, \
                 and nothing passes by it in plaintext"
            );
        }
        let gone = words(self.found.difference(&found).collect());
        let farewell: Vec<String> = gone.iter().map(|thing| format!("{thing} gone")).collect();
        if !gone.is_empty() && self.log.is_news(&farewell, now) {
            info!(what = in_one_line(&gone), "no longer stands in the way");
        }
        self.found = found;
    }

    /// Ends a window of repeated comings and goings.
    pub(super) fn sum_up(&mut self, now: Instant) {
        if let Some(summary) = self.log.sum_up(now) {
            let (times, what) = (summary.times, summary.named);
            warn!(
                times,
                what, "came and went, within a minute, in the way of pod traffic"
            );
        }
    }
}

impl Agent {
    /// Looks for what stands in the way of `desired`. Not to see it costs a hint, nothing more.
    pub(super) async fn look_for_obstacles(&mut self, desired: &Kernel) {
        let Guard::Installed(guard) = &desired.guard else {
            return;
        };
        match self.netlink.foreign(guard).await {
            Ok(foreign) => {
                let found = obstacles(desired, &foreign);
                self.obstacles.replace(found, Instant::now());
            }
            Err(error) => debug!(%error, "cannot look for routes and rules in the way"),
        }
    }
}
