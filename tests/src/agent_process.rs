//! One run of the agent's process.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};

use crate::namespace::Namespace;
use crate::until::until;

/// An agent that was told to end, or was killed, must be gone by then.
const END_DEADLINE: Duration = Duration::from_secs(20);

/// A running agent; killed with this value.
#[derive(Debug)]
pub(crate) struct AgentProcess {
    child: Child,
    log: PathBuf,
}

impl AgentProcess {
    /// Starts it in `namespace` with both its outputs in `log`.
    pub(crate) fn start(namespace: &Namespace, mut command: Command, log: PathBuf) -> Result<Self> {
        let file = File::create(&log).with_context(|| format!("making {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        Ok(Self {
            child: namespace.spawn(command)?,
            log,
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// Its end, if it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends a signal and waits for the end.
    pub(crate) fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        if let Some(status) = self.ended()? {
            return Err(anyhow!("the agent had ended before: {}", describe(status)));
        }
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("a child's id is not 0")?, signal)?;
        until(END_DEADLINE, "the agent's end", || {
            self.child
                .try_wait()?
                .ok_or_else(|| anyhow!("it still runs"))
        })
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An exit status in words.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// The last lines of a log file.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Lines that say that a human must act, or that a thread panicked.
pub(crate) fn error_lines(log: &Path) -> Vec<String> {
    let text = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .filter(|line| is_error(line))
        .map(str::to_owned)
        .collect()
}

/// The text format of the agent's log: a time, then the level.
fn is_error(line: &str) -> bool {
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
