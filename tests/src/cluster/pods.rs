//! Logs of pods, as nodes keep them and as they are kept of a cluster that has ended.

use std::fs;
use std::path::Path;

use crate::node::agent_log::is_error;

/// What a kept log's name begins with; its node follows.
pub(super) const KEPT: &str = "pod.";

/// Agents' namespace, in a kept log's name.
const AGENTS: &str = ".podwire-system_";

/// Lines of level ERROR and panics of agents that were pods, each with the log that has it. The
/// cluster keeps logs when it ends.
pub(crate) fn error_lines(logs: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for log in fs::read_dir(logs).into_iter().flatten().flatten() {
        let name = log.file_name().to_string_lossy().into_owned();
        if !name.starts_with(KEPT) || !name.contains(AGENTS) {
            continue;
        }
        let text = fs::read_to_string(log.path()).unwrap_or_default();
        let lines = text.lines().filter_map(said).filter(|line| is_error(line));
        found.extend(lines.map(|line| (name.clone(), line.to_owned())));
    }
    found
}

/// What a container has said: the runtime writes time, stream and completeness before it.
fn said(line: &str) -> Option<&str> {
    line.splitn(4, ' ').nth(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_agents_alone_are_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let line = |level| {
            format!("2026-01-01T00:00:00.1Z stdout F 2026-01-01T00:00:00Z {level} podwire: x\n")
        };
        let agent = "pod.node-1.podwire-system_podwire-agent-x_uid.agent.0.log";
        for (name, text) in [
            (agent, line("ERROR") + &line(" WARN")),
            ("pod.node-1.default_x_uid.server.0.log", line("ERROR")),
            ("node-1.kubelet.1.log", line("ERROR")),
        ] {
            fs::write(folder.path().join(name), text).expect("written");
        }
        let found = error_lines(folder.path());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, agent);
    }
}
