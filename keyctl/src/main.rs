//! `keyctl`: looks at Podwire's mesh where agents publish it.
//!
//! ```text
//! source (API server, folder) --Snapshot--> status | peers | verify (pure) --Report--> output
//! ```
#![forbid(unsafe_code)]

mod age;
mod args;
mod key_view;
mod kubeconfig;
mod outcome;
mod output;
mod peers;
mod policies;
mod policy_reader;
mod program;
mod rules;
mod show;
mod source;
mod status;
mod verdict;
mod verify;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _};

use args::{Command, CommandLine};
use outcome::{EXIT_ERROR, EXIT_USAGE, Outcome};
use policies::Policies;
use program::Program;
use source::ReadError;

fn main() -> ExitCode {
    let program = Program::of(std::env::args_os().next().as_deref());
    let mut line = CommandLine::command().bin_name(program.usage());
    let typed = line
        .try_get_matches_from_mut(std::env::args_os())
        .and_then(|matches| CommandLine::from_arg_matches(&matches));
    match typed {
        Ok(typed) => finish(program, run(program, typed.command)),
        // Help and version are no errors; clap has the exit codes.
        Err(error) => {
            // Nothing is left to do if the terminal is gone.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE))
        }
    }
}

fn run(program: Program, command: Command) -> anyhow::Result<Outcome> {
    let name = program.usage();
    match command {
        Command::Status(args) => block_on(show::show(name, &args.read, false, |read| {
            let policy = rules::policy(&args.read.rules, &read.nodes);
            status::report(&read.nodes, &policy, args.node.as_ref())
        })),
        Command::Peers(args) => block_on(show::show(name, &args.read, false, |read| {
            let policy = rules::policy(&args.read.rules, &read.nodes);
            peers::report(&read.nodes, &policy, &args.node)
        })),
        Command::Verify(args) => block_on(show::show(name, &args, true, |read| {
            let policy = rules::policy(&args.rules, &read.nodes);
            let policies = read.policies.as_ref().unwrap_or(&Policies::NotInUse);
            let is_cluster_known = !args.rules.cluster_cidr.is_empty();
            Ok(verify::report(
                &read.nodes,
                policies,
                &policy,
                is_cluster_known,
            ))
        })),
        Command::Completion { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(
                shell,
                &mut CommandLine::command(),
                program.file(),
                &mut text,
            );
            show::print_text(&String::from_utf8_lossy(&text))
        }
        Command::Version => show::print_text(concat!("keyctl ", env!("CARGO_PKG_VERSION"), "\n")),
    }
}

fn block_on(life: impl Future<Output = anyhow::Result<Outcome>>) -> anyhow::Result<Outcome> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start a runtime")?
        .block_on(life)
}

fn finish(program: Program, done: anyhow::Result<Outcome>) -> ExitCode {
    let error = match done {
        Ok(outcome) => return outcome.into(),
        Err(error) => error,
    };
    show::tell(program.usage(), &show::sentence(&error));
    let read = error.downcast_ref::<ReadError>();
    ExitCode::from(read.map_or(EXIT_ERROR, ReadError::exit_code))
}

#[cfg(test)]
mod tests;
