//! How much memory a process takes.

use std::fs;

use anyhow::{Context as _, Result};

/// Memory of a process, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessMemory {
    /// What it takes now (`VmRSS`).
    pub resident: u64,
    /// The most that it ever took (`VmHWM`).
    pub peak: u64,
}

impl ProcessMemory {
    /// That of a process by its id.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(process: u32) -> Result<Self> {
        let path = format!("/proc/{process}/status");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let field = |name: &str| -> Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let value = line.and_then(|line| line.split_whitespace().next());
            let value = value.with_context(|| format!("no {name} in {path}"))?;
            Ok(value.parse()?)
        };
        Ok(Self {
            resident: field("VmRSS:")?,
            peak: field("VmHWM:")?,
        })
    }
}
