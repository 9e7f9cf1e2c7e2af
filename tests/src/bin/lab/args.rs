//! The command line.

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};
use podwire_testbed::address::{NODES_MAX, PODS_MAX};
use podwire_testbed::{Family, Topology};
use serde::Serialize;

/// Long enough that a machine with two cores finds its speed.
const DEFAULT_SECONDS: u32 = 5;

/// Brings up nodes with pods on this machine, shows that every pod reaches every pod, proves on a
/// capture of the network between the nodes that nothing of it is plaintext, and measures.
///
/// Exits 0 when all of it holds, else 1 with the reasons.
#[derive(Debug, Parser)]
#[command(name = "lab", version, args_conflicts_with_subcommands = true)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Keep a mesh for hands-on work until Ctrl-C.
    Up(UpArgs),
}

/// What the mesh consists of.
#[derive(Debug, Clone, Args)]
pub(crate) struct MeshArgs {
    /// Nodes, each with its own agent: at least two, or nothing would cross the underlay.
    #[arg(long, default_value_t = 3)]
    #[arg(value_parser = value_parser!(u8).range(2..=i64::from(NODES_MAX)))]
    pub(crate) nodes: u8,
    /// Pods of each node.
    #[arg(long, default_value_t = 2)]
    #[arg(value_parser = value_parser!(u8).range(1..=i64::from(PODS_MAX)))]
    pub(crate) pods: u8,
    /// IP versions of pods and of the network between nodes.
    #[arg(long, value_enum, default_value_t = FamilyArg::Dual)]
    pub(crate) family: FamilyArg,
}

/// `lab`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(crate) mesh: MeshArgs,
    /// Length of each iperf3 run.
    #[arg(long, default_value_t = DEFAULT_SECONDS)]
    #[arg(value_parser = value_parser!(u32).range(1..=3600))]
    pub(crate) seconds: u32,
    /// Also write the results as data.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Shows that the check is not blind: with a tampered check the lab must fail.
    #[arg(long, value_enum)]
    pub(crate) tamper: Option<Tampering>,
}

/// `lab up`.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) mesh: MeshArgs,
    /// Mode of every node.
    #[arg(long, value_enum, default_value_t = Mode::Encrypted)]
    pub(crate) mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FamilyArg {
    /// IPv4 alone.
    #[value(name = "4")]
    V4,
    /// IPv6 alone.
    #[value(name = "6")]
    V6,
    /// Both.
    Dual,
}

/// What the agents' `--mode` is, and what a measurement is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// WireGuard between nodes.
    Encrypted,
    /// Plain host routes between nodes.
    HostNetwork,
}

/// Ways to blind the check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tampering {
    /// Capture on the wrong device: one that carries nothing between nodes.
    Capture,
    /// Probes without the cookie.
    Cookie,
}

impl MeshArgs {
    pub(crate) fn family(&self) -> Family {
        match self.family {
            FamilyArg::V4 => Family::V4,
            FamilyArg::V6 => Family::V6,
            FamilyArg::Dual => Family::Dual,
        }
    }

    /// The mesh with every agent in `mode`.
    pub(crate) fn topology(&self, mode: Mode, agent: &std::path::Path) -> Topology {
        Topology::new()
            .nodes(self.nodes)
            .pods_per_node(self.pods)
            .family(self.family())
            .agent(agent)
            .agent_arguments(&["--mode", &mode.to_string()])
    }
}

impl fmt::Display for MeshArgs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            FamilyArg::V4 => "IPv4",
            FamilyArg::V6 => "IPv6",
            FamilyArg::Dual => "IPv4 and IPv6",
        };
        let plural = if self.pods == 1 { "" } else { "s" };
        write!(
            formatter,
            "{} nodes of {} pod{plural} each, {family}",
            self.nodes, self.pods
        )
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Encrypted => "encrypted",
            Self::HostNetwork => "host-network",
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn one_node_alone_is_refused() {
        assert!(CommandLine::try_parse_from(["lab", "--nodes", "1"]).is_err());
        let line = CommandLine::try_parse_from(["lab", "up", "--nodes", "20", "--family", "6"]);
        let Ok(Some(Command::Up(up))) = line.map(|line| line.command) else {
            panic!("`lab up` was not understood");
        };
        assert_eq!((up.mesh.nodes, up.mesh.family), (20, FamilyArg::V6));
    }
}
