//! What was measured, raw: `samples.json`, from which everything else is made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::implementation::Implementation;
use crate::machine::Machine;
use crate::measure::Measure;

/// One value and what it cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) implementation: Implementation,
    pub(crate) measure: Measure,
    /// From 1.
    pub(crate) round: u32,
    /// In the measure's unit.
    pub(crate) value: f64,
    /// Further percentiles of a round trip, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) percentiles: Option<Percentiles>,
    pub(crate) costs: Costs,
}

/// Of the round trips of one round, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
    /// How many answers there were.
    pub(crate) answers: u64,
    /// How many questions were not answered in time.
    pub(crate) lost: u64,
}

/// What was spent in the same window as the value was measured in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Costs {
    /// Length of the window.
    pub(crate) seconds: f64,
    /// Payload bytes that arrived.
    pub(crate) bytes: u64,
    /// Packets that arrived, where packets are counted.
    pub(crate) packets: u64,
    /// TCP segments that were sent again.
    pub(crate) retransmits: u64,
    /// The implementation's processes, by name and node.
    pub(crate) processes: BTreeMap<String, ProcessCost>,
    pub(crate) machine: MachineCost,
    /// The generator could send no more: the path carries at least so much.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_generators_limit: bool,
}

/// One process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProcessCost {
    /// Seconds of processor time in user space.
    pub(crate) user: f64,
    /// The same in the kernel, as far as the kernel counts it to the process.
    pub(crate) system: f64,
    /// Resident memory at the end, in KiB.
    pub(crate) resident_kib: u64,
}

/// The whole machine, in seconds of all processors together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct MachineCost {
    /// Everything but idle.
    pub(crate) busy: f64,
    /// What another guest of the same host took.
    pub(crate) steal: f64,
}

/// Something that is not in the results, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Absence {
    pub(crate) implementation: Implementation,
    /// The measure, where it is not all of them.
    pub(crate) measure: Option<Measure>,
    /// Whether this machine's kernel does not have it: nobody's fault.
    pub(crate) not_in_kernel: bool,
    pub(crate) reason: String,
}

/// How it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// When, RFC 3339.
    pub(crate) started: String,
    /// Podwire's commit; with `-dirty` where the tree was not as committed.
    pub(crate) commit: String,
    pub(crate) rounds: u32,
    /// Seconds of each TCP run.
    pub(crate) seconds: u32,
    /// TCP congestion control of both ends.
    pub(crate) congestion: String,
    /// Whether the process was root of the machine: else buffers are smaller.
    pub(crate) privileged: bool,
    /// What the kernel gave for a UDP socket's receive buffer when asked for Podwire's.
    pub(crate) socket_buffer_bytes: u64,
    /// Processes that ran or wanted to in the last minute before it began: above 0.2 or so this
    /// machine had something else to do.
    pub(crate) load_before: f64,
    /// Versions of the peers, of iperf3 and of the compilers.
    pub(crate) versions: BTreeMap<String, String>,
}

/// All of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) settings: Settings,
    pub(crate) samples: Vec<Sample>,
    /// By round: CPU seconds per GiB of sealing and opening alone, both ends together.
    pub(crate) aead_floor: Vec<(u32, f64)>,
    pub(crate) absences: Vec<Absence>,
    /// Whether it ended before its end: true until that.
    pub(crate) interrupted: bool,
}

impl Costs {
    /// Processor seconds of all processes.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        self.processes
            .values()
            .map(|process| process.user + process.system)
            .sum()
    }

    /// Processor seconds of all processes for each GiB of payload; none without bytes.
    pub(crate) fn cpu_seconds_per_gib(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a quotient for people")]
        let gib = self.bytes as f64 / f64::from(1 << 30);
        (self.bytes > 0).then(|| self.cpu_seconds() / gib)
    }

    /// Processor seconds of all processes for each million packets; none without packets.
    pub(crate) fn cpu_seconds_per_million_packets(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a quotient for people")]
        let millions = self.packets as f64 / 1e6;
        (self.packets > 0).then(|| self.cpu_seconds() / millions)
    }

    /// Seconds of the whole machine for each GiB of payload; none without bytes.
    pub(crate) fn machine_seconds_per_gib(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a quotient for people")]
        let gib = self.bytes as f64 / f64::from(1 << 30);
        (self.bytes > 0).then(|| self.machine.busy / gib)
    }
}
