//! Settings from the environment: every flag's own variable, and what is none.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use clap::CommandFactory as _;

use crate::args::CommandLine;

/// What Kubernetes tells every container.
const IN_POD: &str = "KUBERNETES_SERVICE_HOST";

/// What every variable of ours begins with.
const PREFIX: &str = "PODWIRE_";

/// Whether this process is in a pod's container.
pub(crate) fn is_pod() -> bool {
    std::env::var_os(IN_POD).is_some()
}

/// Variables that look like a setting and are none, as a misspelt one does. Whoever set it believes
/// that it is in force.
pub(crate) fn unknown() -> Vec<String> {
    let set = std::env::vars_os();
    let set = set.map(|(name, value)| (name, value.to_string_lossy().into_owned()));
    unknown_among(set, &known())
}

/// The variables of settings that are set, in words, for the message about a value that is refused:
/// clap names the flag only.
pub(crate) fn in_use() -> Option<String> {
    let known = known();
    let names: Vec<String> = std::env::vars_os()
        .filter(|(name, _)| known.contains(name))
        .map(|(name, _)| name.to_string_lossy().into_owned())
        .collect();
    (!names.is_empty()).then(|| format!("set in the environment: {}", names.join(", ")))
}

fn known() -> BTreeSet<OsString> {
    let command = CommandLine::command();
    let arguments = command
        .get_subcommands()
        .flat_map(clap::Command::get_arguments);
    arguments
        .filter_map(clap::Arg::get_env)
        .map(OsStr::to_owned)
        .collect()
}

fn unknown_among(
    set: impl Iterator<Item = (OsString, String)>,
    known: &BTreeSet<OsString>,
) -> Vec<String> {
    set.filter(|(name, _)| !known.contains(name))
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
        .filter(|(name, value)| name.starts_with(PREFIX) && !is_service_link(name, value))
        .map(|(name, _)| name)
        .collect()
}

/// Kubernetes tells every container of the Services beside it, one named podwire among them.
fn is_service_link(name: &str, value: &str) -> bool {
    name.contains("_SERVICE_") || name.contains("_PORT_") || value.contains("://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_setting_is_told_from_a_setting_and_from_a_service() {
        let set = [
            ("PODWIRE_MODE", "auto"),
            ("PODWIRE_HOST_NETWORK_PEER", "refuse"),
            ("PODWIRE_METRICS_SERVICE_HOST", "10.96.0.7"),
            ("PODWIRE_METRICS_PORT", "tcp://10.96.0.7:9587"),
            ("PODWIRE_METRICS_PORT_9587_TCP_ADDR", "10.96.0.7"),
            ("PATH", "/bin"),
        ];
        let set = set.map(|(name, value)| (OsString::from(name), value.to_owned()));
        let unknown = unknown_among(set.into_iter(), &known());
        assert_eq!(unknown, ["PODWIRE_HOST_NETWORK_PEER"]);
    }
}
