//! Log lines on standard error.

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;

use crate::args::LogFormat;

/// Libraries that log what is merely offline: the protocol engine a peer, as an error, and kube the
/// API server. Both states are told by ours.
const SILENCED: [&str; 2] = ["boringtun=off", "kube_client=off"];

/// A filter that cannot be meant. EnvFilter itself takes a misspelt level for the name of a target,
/// of which it then logs everything, and of all others nothing.
#[derive(Debug, thiserror::Error)]
#[error(
    "--log {filter:?}: {item:?} is neither a level (error, warn, info, debug, trace, off) nor \
     TARGET=LEVEL; several are separated by commas"
)]
pub(crate) struct InvalidFilter {
    filter: String,
    item: String,
}

/// Starts logging with `filter`.
pub(crate) fn start(filter: &str, format: LogFormat) -> Result<(), InvalidFilter> {
    let filter = env_filter(filter)?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(false).init(),
        LogFormat::Json => lines.json().init(),
    }
    Ok(())
}

fn env_filter(filter: &str) -> Result<EnvFilter, InvalidFilter> {
    let mut directives: Vec<Directive> = Vec::new();
    for item in filter.split(',') {
        let parsed = is_directive(item).then(|| item.parse().ok()).flatten();
        directives.push(parsed.ok_or_else(|| InvalidFilter {
            filter: filter.to_owned(),
            item: item.to_owned(),
        })?);
    }
    directives.extend(silenced());
    let nothing = EnvFilter::default().add_directive(LevelFilter::OFF.into());
    Ok(directives
        .into_iter()
        .fold(nothing, EnvFilter::add_directive))
}

fn silenced() -> impl Iterator<Item = Directive> {
    SILENCED
        .iter()
        .map(|item| item.parse().expect("each is a directive"))
}

fn is_directive(item: &str) -> bool {
    let is_level = |text: &str| {
        let levels = ["off", "error", "warn", "info", "debug", "trace"];
        levels.iter().any(|level| level.eq_ignore_ascii_case(text))
    };
    let is_target = |text: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':' | b'-');
        !text.is_empty() && text.bytes().all(allowed)
    };
    match item.split_once('=') {
        None => is_level(item),
        Some((target, level)) => is_target(target) && is_level(level),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_for_all_and_for_parts_is_taken() {
        for filter in [
            "info",
            "off",
            "TRACE",
            "warn,podwire_agent::control=debug",
            "podwire_dataplane=trace",
        ] {
            env_filter(filter).unwrap_or_else(|error| panic!("{filter}: {error}"));
        }
    }

    #[test]
    fn a_misspelt_level_is_not_taken_for_a_target() {
        for filter in [
            "",
            "inof",
            "info,",
            "info;debug",
            "a=b",
            "=info",
            "[span]=info",
            "a=b=c",
        ] {
            let error = env_filter(filter).expect_err("refused");
            assert!(
                error.to_string().contains("debug, trace"),
                "{filter}: {error}"
            );
        }
    }
}
