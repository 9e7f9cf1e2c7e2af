//! The mesh on this machine: what it reaches, the proof that it is encrypted, and its speed.
//!
//! Everything lives in namespaces of this process: nothing of the host is touched or left.

mod args;
mod bring_up;
mod judgement;
mod live;
mod machine;
mod measurement;
mod output;
mod progress;
mod reachability;
mod report;
mod run;
mod up;
mod view;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;
use podwire_testbed::{binaries, sandbox};

use args::{Command, CommandLine};

/// Single-threaded until the sandbox is entered: the kernel moves a whole process only then.
fn main() -> ExitCode {
    match lab(CommandLine::parse()) {
        Ok(code) => code,
        Err(error) => {
            output::complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn lab(line: CommandLine) -> Result<ExitCode> {
    if std::env::var_os(binaries::AGENT_VARIABLE).is_none() {
        output::complain("building podwire-agent");
    }
    // Before the sandbox: a build may need the host's network.
    let agent = std::path::absolute(binaries::agent()?)?;
    sandbox::enter()?;
    sandbox::require_tun()?;
    match line.command {
        None => run::run(&line.run, &agent, jiff::Timestamp::now()),
        Some(Command::Up(args)) => up::up(&args, &agent),
    }
}
