//! The Podwire node agent, as a library so that its requests can be asked without a socket. Only
//! its own program and the fuzz targets use it.

mod admin;
mod args;
mod cni_files;
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
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;

use args::{Command, CommandLine, RunArgs};
use config::{CleanupConfig, Config};
use podwire_core::request::Verb;
use state::StateError;
use tracing::warn;

/// Exit code of a command line that cannot be meant, as clap's own.
const EXIT_USAGE: u8 = 2;

/// How long the end waits for work on files that has begun, such as a record that is being written.
/// What takes longer ends with the process: files are replaced whole or not at all.
const FILE_WORK_GRACE: Duration = Duration::from_secs(1);

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
        Command::Livez(args) => query::livez(&args),
        Command::Rotate(args) => query::request(Verb::Rotate, &args),
        Command::Abort(args) => query::request(Verb::Abort, &args),
        Command::Revoke(args) => query::request(Verb::Revoke, &args.keys),
        Command::Cleanup(args) => match CleanupConfig::new(args, environment::is_pod()) {
            Ok(config) => control::cleanup::cleanup(&config),
            Err(error) => return misuse(error),
        },
        Command::Wait => control_plane(control::run::wait()),
    };
    finish(done)
}

fn run(args: RunArgs) -> ExitCode {
    if let Err(error) = logging::start(&args.log, args.log_format) {
        return misuse(error);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let config = match Config::new(args, cores, environment::is_pod()) {
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
    finish(control_plane(control::run::run(config)))
}

/// Runs the control plane to its end, which does not wait for a folder that does not answer.
fn control_plane(life: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control plane's runtime")?;
    let done = runtime.block_on(life);
    runtime.shutdown_timeout(FILE_WORK_GRACE);
    done
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn work_on_files_that_never_ends_does_not_hold_up_the_end() {
        let (release, held) = mpsc::channel::<()>();
        let (tell, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let done = control_plane(async {
                let (begun, has_begun) = tokio::sync::oneshot::channel();
                tokio::task::spawn_blocking(move || {
                    let _ = begun.send(());
                    let _ = held.recv();
                });
                Ok(has_begun.await?)
            });
            let _ = tell.send(done);
        });
        let done = ended.recv_timeout(Duration::from_secs(60));
        done.expect("it ended").expect("it began");
        drop(release);
    }
}
