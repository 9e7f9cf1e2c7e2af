//! Saying of the own Node that it has a network, where a cloud waits for that
//! (`--set-network-available`).

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::agent::Agent;

/// Between two attempts: a permission that is missing is not asked for every half second, and with
/// somebody who sets it back this node does not begin a race.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);

/// The latest attempt.
#[derive(Debug, Default)]
pub(super) struct Announcement {
    attempt: Option<(Instant, JoinHandle<()>)>,
}

impl Agent {
    /// Once routes and guards are there, and again when somebody takes it back.
    pub(super) fn announce_network(&mut self) {
        let is_due = self
            .announcement
            .attempt
            .as_ref()
            .is_none_or(|(at, task)| task.is_finished() && at.elapsed() >= RETRY_INTERVAL);
        let is_denied = self.converged && self.registry.is_network_available() == Some(false);
        if !(self.config.set_network_available && is_due && is_denied) {
            return;
        }
        let (registry, own) = (self.registry.clone(), self.config.node_name.clone());
        let task = tokio::spawn(async move {
            match registry.set_network_available(&own).await {
                Ok(()) => info!("the Node's condition NetworkUnavailable is False"),
                Err(error) => warn!("cannot say that the Node has a network: {error}"),
            }
        });
        self.announcement.attempt = Some((Instant::now(), task));
    }
}
