//! What wakes the control loop.

use std::time::Instant;

use super::agent::Agent;

/// Why the control loop woke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The agent has just started: guards and the last known mesh, before anything else.
    Start,
    /// The registry told something new.
    Registry,
    /// Somebody changed links, addresses, routes, rules or nftables, or the transport lost its
    /// device or learnt a path MTU.
    Kernel,
    /// A peer answers at another endpoint than its first, or no longer does.
    Endpoint,
    /// What failed or was lacking is tried again.
    Retry,
    /// Nothing was told for a while: some changes are told by nobody.
    Verify,
}

impl Agent {
    /// Waits for the next reason to reconcile. Dropping the future loses nothing.
    pub(crate) async fn changed(&mut self) -> Cause {
        loop {
            let kernel_due = self.kernel_due;
            let settled = async {
                match kernel_due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            let transport = async {
                match &self.data_plane {
                    Some(data_plane) => data_plane.changed().await,
                    None => std::future::pending().await,
                }
            };
            let published = async {
                match &mut self.publishing {
                    Some(publishing) => publishing.ended().await,
                    None => std::future::pending().await,
                }
            };
            let (rests_until, nodes) = (self.rests_until, &mut self.nodes_receiver);
            let told = async {
                tokio::time::sleep_until(rests_until.into()).await;
                nodes.changed().await
            };
            tokio::select! {
                // The watcher outlives the agent, so the sender cannot be gone.
                Ok(()) = told => return Cause::Registry,
                done = published => {
                    self.published(done);
                    continue;
                }
                () = self.watch.changed() => {}
                () = transport => {}
                () = settled => {
                    self.kernel_due = None;
                    return Cause::Kernel;
                }
            }
            let healing = &self.healing;
            self.kernel_due
                .get_or_insert_with(|| healing.due(Instant::now()));
        }
    }
}
