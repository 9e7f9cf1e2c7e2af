//! `lab`: the encrypted mesh, its control, and what follows from both.

use std::fs::File;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use crate::args::{Mode, RunArgs};
use crate::machine::Machine;
use crate::measurement::measure;
use crate::output;
use crate::progress::Progress;
use crate::report::Report;
use crate::view;

/// Runs everything, shows it, and says whether it held.
pub(crate) fn run(args: &RunArgs, agent: &Path, now: Timestamp) -> Result<ExitCode> {
    if let Some(path) = &args.json {
        // Found out now, not after all the work.
        File::create(path).with_context(|| format!("making {}", path.display()))?;
    }
    let progress = Progress::new();
    let encrypted = measure(Mode::Encrypted, args, agent, &progress)?;
    let host_network = measure(Mode::HostNetwork, args, agent, &progress)?;
    progress.finish();
    let date = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let report = Report::new(date, Machine::read(), &args.mesh, encrypted, host_network);
    output::show(&view::text(&report, &args.mesh))?;
    if let Some(path) = &args.json {
        report.write(path)?;
    }
    if report.passed {
        return Ok(ExitCode::SUCCESS);
    }
    for fault in &report.faults {
        output::complain(&format!("error: {fault}"));
    }
    Ok(ExitCode::FAILURE)
}
