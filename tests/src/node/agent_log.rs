//! What an agent's log says that a test must not pass over.

use std::fs;
use std::path::Path;

/// Lines that say that a human must act, or that a thread panicked.
pub(super) fn error_lines(log: &Path) -> Vec<String> {
    let text = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .filter(|line| is_error(line))
        .map(str::to_owned)
        .collect()
}

/// The text format of the agent's log: a time, then the level.
pub(crate) fn is_error(line: &str) -> bool {
    let level = line.split_whitespace().nth(1);
    level == Some("ERROR") || (line.starts_with("thread '") && line.contains("panicked at"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_from_a_line_that_speaks_of_errors() {
        assert!(is_error(
            "2026-01-01T00:00:00.000000Z ERROR podwire_agent: no device"
        ));
        assert!(is_error(
            "thread 'lane-0' (77) panicked at agent/src/lane.rs:1:1:"
        ));
        assert!(!is_error(
            "2026-01-01T00:00:00.000000Z  INFO podwire_agent: no ERROR today"
        ));
    }
}
