//! What helps to understand a failed test: logs that stay, and the way in.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use super::Testbed;
use crate::binaries::build_folder;

/// Names the folder for logs of failed testbeds, in place of `target/testbed-logs`.
const LOGS_VARIABLE: &str = "PODWIRE_TESTBED_LOGS";

/// Lines of each agent's log in a failure message.
const TAIL_LINES: usize = 15;

impl Testbed {
    /// For a failed test: keeps all logs on disk and says where, shows their last lines, and how
    /// to look inside while the testbed lives.
    #[must_use]
    pub fn explain(&self) -> String {
        let mut text = format!("testbed \"{}\":\n", self.name);
        match self.keep_logs() {
            Ok(folder) => {
                let _ = writeln!(text, "logs are kept in {}", folder.display());
            }
            Err(error) => {
                let _ = writeln!(text, "logs could not be kept: {error:#}");
            }
        }
        for node in &self.nodes {
            let tail = node.log_tail(TAIL_LINES);
            if !tail.is_empty() {
                let _ = writeln!(
                    text,
                    "--- last lines of the agent of {}\n{tail}",
                    node.name()
                );
            }
        }
        let _ = writeln!(
            text,
            "--- to look inside while it lives:\n{}",
            self.enter_commands()
        );
        text
    }

    /// A line for every namespace: its name and the command that enters it.
    #[must_use]
    pub fn enter_commands(&self) -> String {
        let mut spaces = vec![self.underlay.namespace(), self.outside.namespace()];
        for node in &self.nodes {
            spaces.push(node.namespace());
            spaces.extend(node.pods().iter().map(|pod| pod.host().namespace()));
        }
        let lines: Vec<_> = spaces
            .iter()
            .map(|space| format!("{:<12} {}", space.name(), space.enter_command()))
            .collect();
        lines.join("\n")
    }

    /// Copies the folder of logs, and the registry, to the disk.
    fn keep_logs(&self) -> Result<PathBuf> {
        let kept = logs_folder().join(format!("{}-{}", slug(&self.name), std::process::id()));
        for part in ["logs", "registry"] {
            let (source, copy) = (self.scratch.path().join(part), kept.join(part));
            fs::create_dir_all(&copy)?;
            for entry in fs::read_dir(&source)? {
                let entry = entry?;
                // A test may have put a folder where a file should be.
                if entry.file_type()?.is_file() {
                    fs::copy(entry.path(), copy.join(entry.file_name()))?;
                }
            }
        }
        Ok(kept)
    }
}

/// Beside the build, if the running program is in one.
fn logs_folder() -> PathBuf {
    if let Some(folder) = std::env::var_os(LOGS_VARIABLE) {
        return PathBuf::from(folder);
    }
    build_folder().join("testbed-logs")
}

/// A test's name as a folder's.
fn slug(name: &str) -> String {
    name.chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter
            } else {
                '_'
            }
        })
        .collect()
}
