//! What it was measured on.

use std::fs;
use std::thread;

use serde::{Deserialize, Serialize};

/// This machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// As `uname -r`.
    pub(crate) kernel: String,
    /// As the processor names itself.
    pub(crate) cpu_model: String,
    /// Processors that this process may use.
    pub(crate) cpus: usize,
    /// What a cipher makes much of: `avx2`, `avx512f`, `vaes`, `neon` and the like.
    pub(crate) vector_units: Vec<String>,
}

/// Flags of /proc/cpuinfo that change what a cipher costs.
const VECTOR_UNITS: [&str; 6] = ["avx2", "avx512f", "avx512ifma", "vaes", "asimd", "sve"];

impl Machine {
    /// Reads it from /proc.
    pub(crate) fn read() -> Self {
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            kernel: kernel.trim().to_owned(),
            cpu_model: field(&processors, &["model name"])
                .unwrap_or(std::env::consts::ARCH)
                .to_owned(),
            cpus: thread::available_parallelism().map_or(1, usize::from),
            vector_units: vector_units(&processors),
        }
    }

    /// Whether Podwire has code of its own for this processor's cipher.
    pub(crate) fn has_avx512(&self) -> bool {
        let has = |unit: &str| self.vector_units.iter().any(|name| name == unit);
        has("avx512f") && has("avx512ifma")
    }

    /// A word for the name of a folder: letters, digits and dashes of the processor's name.
    pub(crate) fn slug(&self) -> String {
        let name = self.cpu_model.to_lowercase();
        let words = name.split(|c: char| !c.is_ascii_alphanumeric());
        let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
        format!("{}-{}cpu", words.join("-"), self.cpus)
    }
}

/// The first of these fields of the first processor.
fn field<'a>(processors: &'a str, keys: &[&str]) -> Option<&'a str> {
    processors
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| keys.contains(&key.trim()))
        .map(|(_, value)| value.trim())
}

fn vector_units(processors: &str) -> Vec<String> {
    // x86 calls them flags, Arm features.
    let flags = field(processors, &["flags", "Features"]).unwrap_or_default();
    let has = |unit: &&&str| flags.split_whitespace().any(|flag| flag == **unit);
    let units = VECTOR_UNITS.iter().filter(has);
    units.map(|unit| (*unit).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_told_by_its_processor_and_what_a_cipher_makes_of_it() {
        let text = "processor\t: 0\nmodel name\t: Fast(R) CPU @ 3 GHz\nflags\t: fpu avx2 vaes\n";
        assert_eq!(vector_units(text), ["avx2", "vaes"]);
        let machine = Machine {
            kernel: String::new(),
            cpu_model: field(text, &["model name"]).expect("a name").to_owned(),
            cpus: 2,
            vector_units: Vec::new(),
        };
        assert_eq!(machine.slug(), "fast-r-cpu-3-ghz-2cpu");
    }
}
