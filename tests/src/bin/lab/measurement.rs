//! One mesh in one mode: every pod asks every other, then iperf3, all under one capture.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use podwire_testbed::capture::Capture;
use podwire_testbed::{
    CaptureReport, IpVersion, Iperf, IperfResult, Node, PairResult, Testbed, WIREGUARD_PORTS,
    address,
};
use serde::Serialize;

use crate::args::{Mode, RunArgs, Tampering};
use crate::bring_up::bring_up;
use crate::judgement;
use crate::output;
use crate::progress::Progress;

/// Payload of each question: the probe's own header and several whole cookies.
pub(crate) const QUESTION_BYTES: usize = 96;

/// The probe makes it its own header, which has no cookie.
const WITHOUT_COOKIE: usize = 0;

/// What was seen of one mesh.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Measurement {
    /// Mode of every agent.
    pub(crate) mode: Mode,
    /// One for each question.
    #[serde(skip)]
    pub(crate) results: Vec<PairResult>,
    /// What the underlay carried from its making until the last answer.
    pub(crate) underlay: CaptureReport,
    /// What the underlay carried during iperf3. Only headers were read.
    pub(crate) underlay_during_iperf3: CaptureReport,
    /// From pod 1 of node 1 to pod 1 of node 2; processor time is that of all agents.
    pub(crate) iperf3: IperfResult,
    /// Version of IP that iperf3 ran over.
    pub(crate) iperf3_version: IpVersion,
    /// `podwire-agent status` of node 1.
    #[serde(skip)]
    pub(crate) status: String,
    /// Lanes of node 1.
    pub(crate) lanes: u64,
    /// What the testbed's own checks found at the end: agents gone, errors in their logs.
    pub(crate) at_the_end: Option<String>,
}

/// Brings a mesh up, asks, measures, and takes it down.
///
/// # Errors
/// When the mesh does not come up, the capture is incomplete or iperf3 fails: then there is
/// nothing to judge.
pub(crate) fn measure(
    mode: Mode,
    args: &RunArgs,
    agent: &Path,
    progress: &Progress,
) -> Result<Measurement> {
    let bed = bring_up(&format!("lab {mode}"), &args.mesh, mode, agent, progress)?;
    if mode == Mode::HostNetwork {
        bed.allow_plaintext();
    }
    let measured = measure_in(&bed, mode, args, progress);
    let failed = measured
        .as_ref()
        .map_or(true, |it| !judgement::faults(it).is_empty());
    if failed && args.tamper.is_none() {
        output::complain(&bed.explain());
    }
    progress.step(&format!("{mode}: taking it down"));
    measured.with_context(|| format!("the mesh in {mode} mode"))
}

fn measure_in(
    bed: &Testbed,
    mode: Mode,
    args: &RunArgs,
    progress: &Progress,
) -> Result<Measurement> {
    let elsewhere = match args.tamper {
        Some(Tampering::Capture) => Some(capture_elsewhere(bed)?),
        Some(Tampering::Cookie) | None => None,
    };
    let capture = elsewhere.as_ref().unwrap_or_else(|| bed.capture());
    progress.step(&format!("{mode}: asking every pod from every pod"));
    let question_bytes = match args.tamper {
        Some(Tampering::Cookie) => WITHOUT_COOKIE,
        Some(Tampering::Capture) | None => QUESTION_BYTES,
    };
    let advance = |done, of| progress.advance(done, of);
    let results = bed.matrix().bytes(question_bytes).progress(&advance).run();
    let underlay = capture.take_report()?;

    progress.step(&format!("{mode}: iperf3 for {} s", args.seconds));
    // What iperf3 sends has no cookie, and the search would take its processor.
    capture.search_payloads(false)?;
    let version = args.mesh.family().versions()[0];
    let agents = bed
        .nodes()
        .iter()
        .map(Node::agent_pid)
        .collect::<Result<Vec<_>>>()?;
    let iperf3 = Iperf::new(bed.pod(1, 1).host(), bed.pod(2, 1).host())
        .version(version)
        .seconds(args.seconds)
        .processes(&agents)
        .run()?;
    let underlay_during_iperf3 = capture.take_report()?;
    let status = bed.node(1).status_json()?;
    Ok(Measurement {
        mode,
        results,
        underlay,
        underlay_during_iperf3,
        iperf3,
        iperf3_version: version,
        status: bed.node(1).agent_output(&["status"])?,
        lanes: status["lanes"]
            .as_u64()
            .context("the agent's status names no lanes")?,
        at_the_end: bed.check().err().map(|error| format!("{error:#}")),
    })
}

/// A capture where nothing between nodes passes: at the host outside the cluster.
fn capture_elsewhere(bed: &Testbed) -> Result<Capture> {
    let outside = Arc::clone(bed.underlay().outside());
    let cidrs = [IpVersion::V4, IpVersion::V6].map(address::cluster_cidr);
    let capture = Capture::start(&outside, &[], cidrs.to_vec(), WIREGUARD_PORTS)?;
    capture.search_for(bed.secret());
    Ok(capture)
}
