//! Results made by hand, for tests.

use std::collections::BTreeMap;

use crate::implementation::Implementation;
use crate::machine::Machine;
use crate::measure::Measure;
use crate::sample::{Costs, MachineCost, ProcessCost, Results, Sample, Settings};

/// Two rounds that agree: of each implementation and measure a value, and the CPU seconds for a
/// GiB, of which a GiB was carried. The AEAD floor is 2 CPU seconds per GiB.
pub(crate) fn results(samples: &[(Implementation, Measure, f64, f64)]) -> Results {
    let sample = |round: u32| {
        samples
            .iter()
            .map(move |(implementation, measure, value, cpu)| Sample {
                implementation: *implementation,
                measure: *measure,
                round,
                value: *value,
                percentiles: None,
                costs: costs(*cpu),
            })
    };
    Results {
        machine: Machine {
            kernel: "6.18".to_owned(),
            cpu_model: "a processor".to_owned(),
            cpus: 2,
            vector_units: Vec::new(),
        },
        settings: Settings {
            started: "2026-01-01T00:00Z".to_owned(),
            commit: "a commit".to_owned(),
            rounds: 2,
            seconds: 1,
            congestion: "cubic".to_owned(),
            privileged: true,
            socket_buffer_bytes: 1,
            load_before: 0.0,
            versions: BTreeMap::new(),
        },
        samples: [1, 2].into_iter().flat_map(sample).collect(),
        aead_floor: vec![(1, 2.0), (2, 2.0)],
        absences: Vec::new(),
        interrupted: false,
    }
}

fn costs(cpu: f64) -> Costs {
    let process = ProcessCost {
        user: cpu / 2.0,
        system: cpu / 2.0,
        resident_kib: 1024,
    };
    Costs {
        seconds: 1.0,
        bytes: 1 << 30,
        processes: BTreeMap::from([("node-1".to_owned(), process)]),
        machine: MachineCost {
            busy: 1.0,
            steal: 0.0,
        },
        ..Costs::default()
    }
}
