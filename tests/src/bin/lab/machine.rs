//! What the results were measured on.

use std::fs;
use std::thread;

use serde::Serialize;

/// This machine.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    /// As `uname -r`.
    pub(crate) kernel: String,
    /// As the processor names itself.
    pub(crate) cpu_model: String,
    /// Processors that this process may use.
    pub(crate) cpus: usize,
}

impl Machine {
    /// Reads it from /proc.
    pub(crate) fn read() -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            kernel: kernel.trim().to_owned(),
            cpu_model: cpu_model(&processors).to_owned(),
            cpus: thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// Arm's cpuinfo has no model name; the architecture is the best that can be said then.
fn cpu_model(processors: &str) -> &str {
    processors
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == "model name")
        .map_or(std::env::consts::ARCH, |(_, model)| model.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_is_the_first_processors() {
        let text = "processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\nmodel name\t: Other\n";
        assert_eq!(cpu_model(text), "Fast CPU @ 3 GHz");
        assert_eq!(cpu_model("BogoMIPS : 50\n"), std::env::consts::ARCH);
    }
}
