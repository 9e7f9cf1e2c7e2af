//! The results as data: `lab --json`.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use podwire_testbed::capture::{Count, WireguardCount};
use podwire_testbed::{Family, PairResult};
use serde::Serialize;

use crate::args::{MeshArgs, Mode};
use crate::judgement;
use crate::machine::Machine;
use crate::measurement::Measurement;
use crate::reachability::Reachability;

/// Version of this form.
const API_VERSION: &str = "podwire.dev/lab/v1";

/// Everything that the lab found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) api_version: &'static str,
    /// When it began, RFC 3339.
    pub(crate) date: String,
    #[serde(flatten)]
    pub(crate) machine: Machine,
    pub(crate) nodes: u8,
    pub(crate) pods_per_node: u8,
    pub(crate) family: Family,
    /// Of each encrypted node.
    pub(crate) lanes: u64,
    /// Whether everything held; else `faults` says what did not.
    pub(crate) passed: bool,
    pub(crate) faults: Vec<String>,
    /// Ordered pairs of pods.
    pub(crate) pairs: usize,
    /// Those of which every question was answered with the source kept.
    pub(crate) pairs_reachable: usize,
    /// Questions asked in the encrypted mesh: pairs times protocols times versions.
    pub(crate) questions: usize,
    /// Of those, which had to be asked more than once.
    pub(crate) questions_repeated: usize,
    /// Frames between pods in the clear in the whole life of the encrypted mesh.
    pub(crate) plaintext_frames: u64,
    /// Frames with the probes' cookie.
    pub(crate) cookie_frames: u64,
    /// The same of the host-network mesh.
    pub(crate) control_plaintext_frames: u64,
    pub(crate) control_cookie_frames: u64,
    pub(crate) control_pairs_reachable: usize,
    /// WireGuard messages while the encrypted mesh was asked.
    pub(crate) wireguard: WireguardCount,
    /// All frames of that time.
    pub(crate) underlay: Count,
    pub(crate) gbits_encrypted: f64,
    pub(crate) gbits_host_network: f64,
    /// Of all agents of the encrypted mesh together, for each GiB that iperf3 moved.
    pub(crate) cpu_seconds_per_gib: f64,
    /// Questions of both meshes that failed.
    pub(crate) failures: Vec<Failure>,
    pub(crate) encrypted: Measurement,
    pub(crate) host_network: Measurement,
}

/// A question that had no answer, or one whose source was translated.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    mode: Mode,
    #[serde(flatten)]
    result: PairResult,
}

impl Report {
    /// Judges both measurements.
    pub(crate) fn new(
        date: String,
        machine: Machine,
        mesh: &MeshArgs,
        encrypted: Measurement,
        host_network: Measurement,
    ) -> Self {
        let mut faults = judgement::faults(&encrypted);
        faults.extend(judgement::faults(&host_network));
        let reachability = Reachability::of(&encrypted.results);
        let failures = [&encrypted, &host_network]
            .into_iter()
            .flat_map(|measurement| {
                let failed = measurement
                    .results
                    .iter()
                    .filter(|result| !result.source_kept());
                failed.map(|result| Failure {
                    mode: measurement.mode,
                    result: result.clone(),
                })
            })
            .collect();
        let (asked, control) = (&encrypted.underlay, &host_network.underlay);
        Self {
            api_version: API_VERSION,
            date,
            machine,
            nodes: mesh.nodes,
            pods_per_node: mesh.pods,
            family: mesh.family(),
            lanes: encrypted.lanes,
            passed: faults.is_empty(),
            faults,
            pairs: reachability.pairs,
            pairs_reachable: reachability.pairs_reachable,
            questions: encrypted.results.len(),
            questions_repeated: encrypted
                .results
                .iter()
                .filter(|it| it.attempts > 1)
                .count(),
            plaintext_frames: asked.plaintext_frames()
                + encrypted.underlay_during_iperf3.plaintext_frames(),
            cookie_frames: asked.cookies.frames,
            control_plaintext_frames: control.plaintext.frames,
            control_cookie_frames: control.cookies.frames,
            control_pairs_reachable: Reachability::of(&host_network.results).pairs_reachable,
            wireguard: asked.wireguard,
            underlay: asked.total,
            gbits_encrypted: encrypted.iperf3.gbits_per_second,
            gbits_host_network: host_network.iperf3.gbits_per_second,
            cpu_seconds_per_gib: encrypted.iperf3.cpu_seconds_per_gib(),
            failures,
            encrypted,
            host_network,
        }
    }

    /// Writes it as JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }
}
