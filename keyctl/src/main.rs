//! `keyctl`: looks at Podwire's mesh where agents publish it, and asks agents to rotate keys.
//!
//! ```text
//! source (API server, folder) --Snapshot--> status | peers | verify (pure) --Report--> output
//! looker --Look--> fleet | errand | condition (pure) --whom to ask, what to tell--> write, journal
//! ```
#![forbid(unsafe_code)]

mod age;
mod args;
mod ask;
mod condition;
mod errand;
mod fleet;
mod journal;
mod key_view;
mod kubeconfig;
mod local_agent;
mod looker;
mod outcome;
mod output;
mod peers;
mod policies;
mod policy_reader;
mod program;
mod rotate;
mod rules;
mod selection;
mod selector;
mod share;
mod show;
mod source;
mod span;
mod stage;
mod status;
mod verdict;
mod verify;
mod wait;
mod write;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _};
use podwire_core::request::Verb;

use args::{Command, CommandLine, Output};
use outcome::{EXIT_ERROR, EXIT_USAGE, Outcome};
use policies::Policies;
use program::Program;
use source::{ReadError, Wanted};
use write::WriteError;

/// What `verify` reads beside Nodes.
const ALSO_POLICIES: Wanted<'_> = Wanted {
    policies: true,
    in_touch: None,
};

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
        Command::Status(args) => {
            let is_wide = args.read.output == Some(Output::Wide);
            let wanted = Wanted {
                in_touch: is_wide.then_some(&*args.agent.run_dir),
                ..Wanted::default()
            };
            block_on(show::show(name, &args.read, wanted, |read| {
                let policy = rules::policy(&args.read.rules, &read.nodes);
                let in_touch = read.in_touch.as_ref();
                status::report(&read.nodes, in_touch, &policy, args.node.as_ref())
            }))
        }
        Command::Peers(args) => block_on(show::show(name, &args.read, Wanted::default(), |read| {
            let policy = rules::policy(&args.read.rules, &read.nodes);
            peers::report(&read.nodes, &policy, &args.node)
        })),
        Command::Verify(args) => block_on(show::show(name, &args, ALSO_POLICIES, |read| {
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
        Command::Rotate(args) => block_on(rotate::rotate(name, &args)),
        Command::Abort(args) => block_on(ask::ask(name, Verb::Abort, &args)),
        Command::Revoke(args) => block_on(ask::ask(name, Verb::Revoke, &args.ask)),
        Command::Wait(args) => block_on(wait::wait(name, &args)),
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
    let read = error.downcast_ref().map(ReadError::exit_code);
    let write = error.downcast_ref().map(WriteError::exit_code);
    ExitCode::from(read.or(write).unwrap_or(EXIT_ERROR))
}

#[cfg(test)]
mod tests;
