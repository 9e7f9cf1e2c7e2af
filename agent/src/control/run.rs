//! The life of one agent: start closed, reconcile until told to stop, leave everything in place.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;
use tracing::info;

use crate::admin;
use crate::config::Config;
use crate::control::agent::Agent;

/// How often the control plane looks at what the data plane learnt (handshakes, stamps), and tries
/// again what failed. Well under the second within which a repair is promised.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_millis(500);

/// Runs the agent until SIGTERM or SIGINT.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    info!(?config, "effective configuration");
    let [mut terminate, mut interrupt] = end_signals()?;
    let (run_dir, metrics_address) = (config.run_dir.clone(), config.metrics_address);
    let mut agent = Agent::start(config).await?;
    let shown = agent.shown();
    shown.turned.store(Some(Arc::new(Instant::now())));
    // What only tells about the mesh never stops it: these are tried again for ever.
    let telling = [
        tokio::spawn(admin::serve_socket(run_dir, agent.shown())),
        tokio::spawn(admin::serve_metrics(metrics_address, agent.shown())),
    ];
    let mut housekeeping = tokio::time::interval(HOUSEKEEPING_INTERVAL);
    housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = housekeeping.tick() => agent.housekeep().await?,
            cause = agent.changed() => agent.reconcile(cause).await?,
        }
        shown.turned.store(Some(Arc::new(Instant::now())));
    }
    info!("stopping; device, routes and guards stay");
    telling.iter().for_each(tokio::task::JoinHandle::abort);
    agent.stop()
}

/// Waits for SIGTERM or SIGINT: the first process of a container is not ended by them otherwise.
pub(crate) async fn wait() -> anyhow::Result<()> {
    let [mut terminate, mut interrupt] = end_signals()?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn end_signals() -> anyhow::Result<[Signal; 2]> {
    Ok([
        signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?,
        signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?,
    ])
}
