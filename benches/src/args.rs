//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum as _};

use crate::implementation::Implementation;
use crate::measure::Kind;

/// Rounds of a run: an odd number has a median that was measured.
const ROUNDS: u32 = 5;
const ROUNDS_QUICK: u32 = 3;

/// Seconds of an iperf3 run: rounds tell more than longer ones.
const SECONDS: u32 = 1;

/// Measures Podwire beside everything that a user would pick instead, on this machine, in turns,
/// and writes tables, plots and data.
///
/// Exits 0 when all that was asked for was measured, else 1; what was measured is kept.
#[derive(Debug, Parser)]
#[command(
    name = "podwire-benches",
    version,
    args_conflicts_with_subcommands = true
)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// What changed between two results beyond noise.
    Compare(CompareArgs),
    /// Whether a result keeps what SPECIFICATION.md promises; names what it does not keep.
    Promises(PromisesArgs),
}

/// `podwire-benches promises`.
#[derive(Debug, Args)]
pub(crate) struct PromisesArgs {
    /// The folder of the results.
    pub(crate) results: PathBuf,
}

/// `podwire-benches compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The folder of the earlier results.
    pub(crate) before: PathBuf,
    /// The folder of the later ones.
    pub(crate) after: PathBuf,
}

/// `podwire-benches`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// What is measured; all of it unless told.
    #[arg(long = "impl", value_enum, value_delimiter = ',', value_name = "NAME")]
    pub(crate) implementations: Vec<Implementation>,
    /// Which measures; all of them unless told.
    #[arg(
        long = "measure",
        value_enum,
        value_delimiter = ',',
        value_name = "KIND"
    )]
    pub(crate) kinds: Vec<Kind>,
    /// Fewer measures and rounds, and none of Podwire's variants (one lane, host-network mode, null
    /// cipher) unless --impl names them: quicker, and less sure.
    #[arg(long)]
    pub(crate) quick: bool,
    /// How often each is measured, in turns.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub(crate) rounds: Option<u32>,
    /// Seconds of each iperf3 run.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub(crate) seconds: Option<u32>,
    /// TCP congestion control of both ends.
    #[arg(long, default_value = "cubic")]
    pub(crate) congestion: String,
    /// Where the results go, in place of a folder of the date and the machine.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) output: Option<PathBuf>,
}

impl RunArgs {
    /// What is measured.
    pub(crate) fn implementations(&self) -> Vec<Implementation> {
        let mut wanted = self.implementations.clone();
        if wanted.is_empty() {
            let all = Implementation::value_variants().iter().copied();
            wanted = all
                .filter(|one| !self.quick || !one.is_variant_of_podwire())
                .collect();
        }
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    /// Which kinds of measures.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        let mut wanted = self.kinds.clone();
        if wanted.is_empty() {
            let all = if self.quick {
                &Kind::QUICK[..]
            } else {
                Kind::value_variants()
            };
            wanted = all.to_vec();
        }
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }

    /// How often.
    pub(crate) fn rounds(&self) -> u32 {
        let usual = if self.quick { ROUNDS_QUICK } else { ROUNDS };
        self.rounds.unwrap_or(usual)
    }

    /// For how long.
    pub(crate) fn seconds(&self) -> u32 {
        self.seconds.unwrap_or(SECONDS)
    }
}
