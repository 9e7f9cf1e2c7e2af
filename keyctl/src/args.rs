//! The command line, as typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ipnet::IpNet;
use podwire_core::node::NodeName;

/// What scripts need to know, at the end of each help.
const EXIT_CODES: &str = "\
Exit codes:
  0  all is well
  1  error: no answer from the API server, no such Node, a folder that cannot be read
  2  usage: a flag or argument that is not understood
  3  degraded: a node is refused or has no record, a part of a record does not count, plaintext
     that no operator asked for, a policy that is not in force
  5  denied: the API server does not let you read what is needed";

/// Looks at Podwire's mesh: keys, records, and whether they obey the rules.
#[derive(Debug, Parser)]
#[command(name = "keyctl", version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show each node's key, its age, where its rotation stands, and whether its record counts.
    #[command(after_help = EXIT_CODES)]
    Status(StatusArgs),
    /// Show whom a node is meshed with and how, and who is refused and why.
    #[command(after_help = EXIT_CODES)]
    Peers(PeersArgs),
    /// Check each record against the rules, and that the admission policies are in force.
    #[command(after_help = EXIT_CODES)]
    Verify(ReadArgs),
    /// Print the completions of a shell.
    Completion {
        /// The shell.
        shell: Shell,
    },
    /// Print the version.
    Version,
}

/// `keyctl status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Only this node.
    pub(crate) node: Option<NodeName>,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
}

/// `keyctl peers`.
#[derive(Debug, Args)]
pub(crate) struct PeersArgs {
    /// The node whose eyes to look through.
    pub(crate) node: NodeName,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
}

/// What all that read have in common.
#[derive(Debug, Args)]
pub(crate) struct ReadArgs {
    /// Output format [default: a table].
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<Output>,
    /// Leave out the table's headers.
    #[arg(long)]
    pub(crate) no_headers: bool,
    /// Go on: look every two seconds, and print all again when something has changed.
    #[arg(short, long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) rules: RulesArgs,
}

/// Where Nodes are read.
#[derive(Debug, Args)]
#[command(next_help_heading = "Where Nodes are read")]
pub(crate) struct SourceArgs {
    /// Kubeconfig [default: KUBECONFIG, else ~/.kube/config, else a pod's own service account].
    #[arg(long, value_name = "PATH")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// A folder of Node manifests, in place of an API server.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["kubeconfig", "context"])]
    pub(crate) directory: Option<PathBuf>,
}

/// What the agents were told that records do not say.
#[derive(Debug, Args)]
#[command(next_help_heading = "The agents' flags that the rules depend on")]
pub(crate) struct RulesArgs {
    /// Pod CIDRs of the whole cluster [default: all spec.podCIDRs, so that no claim is found to
    /// lie outside].
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = cidr)]
    pub(crate) cluster_cidr: Vec<IpNet>,
    /// Prefixes in which endpoints may lie beside their Node's own addresses.
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = cidr)]
    pub(crate) allow_endpoint: Vec<IpNet>,
    /// Whether traffic with nodes that declare host-network mode may be plaintext.
    #[arg(long, value_enum, default_value_t = HostNetworkPeersArg::Allow)]
    pub(crate) host_network_peers: HostNetworkPeersArg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// The table with more columns.
    Wide,
    /// All there is, for programs.
    Json,
    /// The same as YAML.
    Yaml,
    /// Names alone.
    Name,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HostNetworkPeersArg {
    /// It may.
    Allow,
    /// Strict mode: such pairs are closed.
    Refuse,
}

fn cidr(text: &str) -> Result<IpNet, &'static str> {
    let expected = "expected ADDRESS/LENGTH, such as 10.244.0.0/16 or fd00:10:244::/48";
    text.parse().map_err(|_| expected)
}
