//! The Podwire node agent.

mod admin;
mod args;
mod config;
mod control;
mod logging;
mod netlink;
mod query;
mod state;
mod transport;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use args::{Command, CommandLine, RunArgs};
use config::Config;

/// Exit code of a command line that cannot be meant, as clap's own.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let done = match line.command {
        Command::Run(args) => return run(*args),
        Command::Status(args) => query::status(&args),
        Command::Peers(args) => query::peers(&args),
        Command::Drops(args) => query::drops(&args),
        Command::Healthz(args) => query::healthz(&args),
        Command::Cleanup(args) => control::cleanup::cleanup(&args),
    };
    finish(done)
}

fn run(args: RunArgs) -> ExitCode {
    if let Err(error) = logging::start(&args.log, args.log_format) {
        return complain(&error, EXIT_USAGE);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let config = match Config::new(args, cores) {
        Ok(config) => config,
        Err(error) => return complain(&error.into(), EXIT_USAGE),
    };
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control plane's runtime")
        .and_then(|runtime| runtime.block_on(control::run::run(config)));
    finish(done)
}

fn finish(done: anyhow::Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error, 1),
    }
}

fn complain(error: &anyhow::Error, code: u8) -> ExitCode {
    // Nothing is left to do if standard error is gone.
    let _ = writeln!(std::io::stderr(), "podwire-agent: {error:#}");
    ExitCode::from(code)
}
