//! Log lines on standard error.

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

/// The protocol engine logs a peer that is merely offline as an error: its state is told by ours.
const ENGINE_SILENCED: &str = "boringtun=off";

/// Starts logging with `filter` (EnvFilter syntax).
pub(crate) fn start(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let engine = ENGINE_SILENCED
        .parse()
        .context("the engine's directive parses")?;
    let filter = EnvFilter::try_new(filter)
        .with_context(|| {
            format!("--log {filter:?}: allowed are levels (error warn info debug trace) and target=level")
        })?
        .add_directive(engine);
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(false).init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}
