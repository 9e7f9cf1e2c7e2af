//! Routes and rules of others that stand in the way of pod traffic: looked for at every pass, told
//! when they come and go, never touched.

use std::time::Instant;

use podwire_core::kernel::{Guard, Kernel};
use podwire_core::obstacles::{Obstacle, obstacles};
use tracing::{debug, info, warn};

use super::agent::Agent;
use super::found::Found;
use super::repeat_log::Summary;

/// What stands in the way now.
pub(super) type Obstacles = Found<Obstacle>;

impl Agent {
    /// Looks for what stands in the way of `desired`. Not to see it costs a hint, nothing more.
    pub(super) async fn look_for_obstacles(&mut self, desired: &Kernel) {
        let Guard::Installed(guard) = &desired.guard else {
            return;
        };
        match self.netlink.foreign(guard).await {
            Ok(foreign) => {
                let found = obstacles(desired, &foreign);
                let news = self.obstacles.replace(found, Instant::now());
                if let Some(what) = news.come {
                    warn!(
                        what,
                        "stands in the way of pod traffic: its owner should remove it; it is not \
                         touched, and nothing passes by it in plaintext"
                    );
                }
                if let Some(what) = news.gone {
                    info!(what, "no longer stands in the way");
                }
            }
            Err(error) => debug!(%error, "cannot look for routes and rules in the way"),
        }
    }

    /// Ends a window of repeated comings and goings.
    pub(super) fn sum_up_obstacles(&mut self, now: Instant) {
        if let Some(Summary { times, named: what }) = self.obstacles.sum_up(now) {
            warn!(
                times,
                what, "came and went, within a minute, in the way of pod traffic"
            );
        }
    }
}
