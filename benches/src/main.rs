//! Podwire beside everything that a user would pick instead, on one machine, in one run.

mod aead_floor;
mod args;
mod compare;
mod congestion;
mod contestant;
mod implementation;
mod load;
mod machine;
mod measure;
mod null_cipher;
mod output;
mod programs;
mod progress;
mod promise;
mod proof;
mod rate_search;
mod report;
mod run;
mod sample;
mod settings;
mod socket_buffer;
mod start;
mod statistics;
mod summary;
mod take;
#[cfg(test)]
mod test_results;
mod window;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use podwire_testbed::sandbox;

use args::{Command, CommandLine, RunArgs};
use machine::Machine;
use output::Output;
use programs::Programs;
use progress::{Progress, say};
use run::{Interrupted, Run};
use sample::{Absence, Results};

/// Single-threaded until the sandbox is entered: the kernel moves a whole process only then.
fn main() -> ExitCode {
    let line = CommandLine::parse();
    let done = match &line.command {
        Some(Command::Compare(args)) => compare::compare(args).map(print),
        Some(Command::Promises(args)) => promise::check(args).map(print),
        None => benches(&line.run),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Whether all is there but for what the kernel does not have and nobody asked for by name.
fn is_whole(args: &RunArgs, results: &Results) -> bool {
    let counts = |absence: &Absence| {
        !absence.not_in_kernel || args.implementations.contains(&absence.implementation)
    };
    !results.interrupted && !results.absences.iter().any(counts)
}

/// Nothing is left to do if standard output is gone.
fn print(text: String) -> bool {
    let _ = std::io::stdout().write_all(text.as_bytes());
    true
}

/// Whether all that was asked for was measured.
fn benches(args: &RunArgs) -> Result<bool> {
    congestion::check(&args.congestion)?;
    // Before the sandbox: builds need the host's network.
    let programs = Programs::prepare(&args.implementations(), say)?;
    sandbox::enter()?;
    sandbox::private_run_folder().context("making a private /run for the daemons' sockets")?;
    sandbox::require_tun()?;
    let now = jiff::Timestamp::now();
    let machine = Machine::read();
    let date = now.strftime("%Y-%m-%d").to_string();
    let output = Output::new(run::folder(args, &date, &machine.slug())?)?;
    let results = Results {
        settings: settings::read(args, &programs, now)?,
        machine,
        samples: Vec::new(),
        aead_floor: Vec::new(),
        absences: Vec::new(),
        interrupted: true,
    };
    let interrupted = Interrupted::default();
    ctrlc::set_handler({
        let interrupted = Arc::clone(&interrupted);
        move || {
            if interrupted.swap(true, Ordering::Relaxed) {
                // Asked twice: what is under way may take half a minute to give up.
                std::process::exit(1);
            }
        }
    })?;
    let progress = Progress::new();
    let mut run = Run::new(args, &programs, &output, &progress, &interrupted, results);
    let done = run.all();
    progress.finish();
    output.finish(&run.results)?;
    done?;
    print(report::markdown(&run.results));
    say(&format!("results are in {}", output.folder().display()));
    Ok(is_whole(args, &run.results))
}
