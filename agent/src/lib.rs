//! The Podwire node agent, as a library so that its requests can be asked without a socket. Only
//! its own program and the fuzz targets use it.

mod admin;
mod args;
mod config;
mod control;
mod environment;
mod logging;
mod netlink;
mod query;
mod state;
mod transport;

pub use admin::routes;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use args::{Command, CommandLine, RunArgs};
use config::Config;
use state::StateError;
use tracing::warn;

/// Exit code of a command line that cannot be meant, as clap's own.
const EXIT_USAGE: u8 = 2;

/// Reads the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let line = match CommandLine::try_parse() {
        Ok(line) => line,
        Err(error) => return refuse(&error),
    };
    let done = match line.command {
        Command::Run(args) => return run(*args),
        Command::Status(args) => query::status(&args),
        Command::Peers(args) => query::peers(&args),
        Command::Drops(args) => query::drops(&args),
        Command::Healthz(args) => query::healthz(&args),
        Command::Cleanup(args) => match config::check_device(&args.device) {
            Ok(()) => control::cleanup::cleanup(&args),
            Err(error) => return misuse(error),
        },
    };
    finish(done)
}

fn run(args: RunArgs) -> ExitCode {
    if let Err(error) = logging::start(&args.log, args.log_format) {
        return misuse(error);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let config = match Config::new(args, cores) {
        Ok(config) => config,
        Err(error) => return misuse(error),
    };
    let unknown = environment::unknown();
    if !unknown.is_empty() {
        warn!(
            variables = unknown.join(", "),
            "ignored: no settings of this agent; `podwire-agent run --help` names them"
        );
    }
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
        Err(error) => {
            let mut states = error.chain().filter_map(|cause| cause.downcast_ref());
            let is_bad_value = states.any(StateError::is_bad_value);
            complain(&error, if is_bad_value { EXIT_USAGE } else { 1 })
        }
    }
}

/// Help and version are no errors; clap has the exit codes.
fn refuse(error: &clap::Error) -> ExitCode {
    let code = u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE);
    // Nothing is left to do if standard error is gone.
    let _ = error.print();
    if error.use_stderr() {
        tell_environment();
    }
    ExitCode::from(code)
}

/// A value that can be read and not meant.
fn misuse(error: impl Into<anyhow::Error>) -> ExitCode {
    let code = complain(&error.into(), EXIT_USAGE);
    tell_environment();
    code
}

/// The value may come from there, and the message names the flag only.
fn tell_environment() {
    if let Some(in_use) = environment::in_use() {
        let _ = writeln!(std::io::stderr(), "{in_use}");
    }
}

fn complain(error: &anyhow::Error, code: u8) -> ExitCode {
    // Nothing is left to do if standard error is gone.
    let _ = writeln!(std::io::stderr(), "podwire-agent: {error:#}");
    ExitCode::from(code)
}
