//! The command line, as typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ipnet::IpNet;
use podwire_core::node::NodeName;

use crate::condition::Condition;
use crate::share::Share;
use crate::span::{OlderThan, duration, older_than};

/// What scripts need to know, at the end of each help.
const EXIT_CODES: &str = "\
Exit codes:
  0  all is well, or done
  1  error: no answer from the API server, no such Node, a folder that cannot be read
  2  usage: a flag or argument that is not understood
  3  degraded: a node is refused or has no record, a part of a record does not count, plaintext
     that no operator asked for, a policy that is not in force; partial: nodes were skipped
  4  timed out: what was waited for did not come in time
  5  denied: the API server does not let you read or write what is needed";

/// How many nodes rotate at once, at the end of rotate's help.
const ROTATE_HELP: &str = "\
A node announces its next keys beside the current ones, promotes them when every peer in touch has
confirmed them (or after ten minutes), and retires the old ones three minutes later. No packet is
lost. All of it stands in the nodes' records: a run that is interrupted leaves nodes that go on by
themselves, and --older-than with the time that it tells at its beginning resumes it.
";

/// Shows Podwire's mesh, its keys and whether its records obey the rules; rotates keys.
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
    /// Replace nodes' keys without losing a packet.
    #[command(after_help = concat_help())]
    Rotate(RotateArgs),
    /// End a node's rotation while its new keys are announced: the old ones stay.
    #[command(after_help = EXIT_CODES)]
    Abort(AskArgs),
    /// Replace a node's keys at once, because others have them: the old ones are refused.
    #[command(after_help = EXIT_CODES)]
    Revoke(RevokeArgs),
    /// Wait until nodes' keys are of a generation or in a phase.
    #[command(after_help = EXIT_CODES)]
    Wait(WaitArgs),
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
    pub(crate) agent: AgentArgs,
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

/// `keyctl rotate`.
#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    /// Only nodes whose keys were made before: an age, such as 90d, or a time, such as
    /// 2026-03-01T12:00:00Z. It also resumes a run: see below.
    #[arg(long, value_name = "AGE|TIME", value_parser = older_than)]
    pub(crate) older_than: Option<OlderThan>,
    /// How many nodes may be in rotation at once: a number, or a share of all nodes that have keys,
    /// rounded down, at least one. Rotations that others asked for count.
    #[arg(long, value_name = "N|P%", default_value = "10%")]
    pub(crate) max_unavailable: Share,
    #[command(flatten)]
    pub(crate) agent: AgentArgs,
    #[command(flatten)]
    pub(crate) asking: AskingArgs,
}

/// This machine's agent.
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// Run folder of this machine's agent, which knows what no record says: who is in touch, and
    /// which peers have confirmed new keys.
    #[arg(long, value_name = "PATH", default_value = "/run/podwire")]
    pub(crate) run_dir: PathBuf,
}

/// How to ask, and what to tell of it.
#[derive(Debug, Args)]
pub(crate) struct AskingArgs {
    #[command(flatten)]
    pub(crate) follow: FollowArgs,
    /// Write nothing: say whom it would ask, and ask the API server whether that is allowed.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// At the end print what has become of each node [default: lines of text, as it goes on].
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub(crate) output: Option<Data>,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
}

/// Which nodes: one of these.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct WhichArgs {
    /// The nodes.
    #[arg(value_name = "NODE")]
    pub(crate) nodes: Vec<NodeName>,
    /// All nodes that have keys.
    #[arg(long)]
    pub(crate) all: bool,
    /// The nodes with these labels, such as pool=a,zone!=b.
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub(crate) selector: Option<String>,
}

/// Whether, and for how long, to stay.
#[derive(Debug, Args)]
pub(crate) struct FollowArgs {
    /// Stay until it is done, and tell how it goes. With --wait=false, write the requests for which
    /// there is room, and return.
    #[arg(
        long, value_name = "true|false", num_args = 0..=1, require_equals = true,
        default_value_t = true, default_missing_value = "true", action = ArgAction::Set
    )]
    pub(crate) wait: bool,
    /// Stay no longer than this, such as 1h [default: each node has its own time to go on].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

/// `keyctl abort`.
#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    /// The node.
    pub(crate) node: NodeName,
    #[command(flatten)]
    pub(crate) asking: AskingArgs,
}

/// `keyctl revoke`.
#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// It is meant: unlike a rotation it interrupts the node's traffic for a moment.
    #[arg(long, required_unless_present = "dry_run")]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) ask: AskArgs,
}

/// `keyctl wait`.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// generation=N (or a later one), or phase=settled, announced, promoted, withdrawn or revoked.
    #[arg(long = "for", value_name = "CONDITION")]
    pub(crate) condition: Condition,
    /// The nodes.
    #[arg(value_name = "NODE", required = true)]
    pub(crate) nodes: Vec<NodeName>,
    /// How long: a rotation takes up to a quarter of an hour where a peer does not confirm.
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "15m")]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
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

/// A form for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Data {
    Json,
    Yaml,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HostNetworkPeersArg {
    /// It may.
    Allow,
    /// Strict mode: such pairs are closed.
    Refuse,
}

fn concat_help() -> String {
    format!("{ROTATE_HELP}\n{EXIT_CODES}")
}

fn cidr(text: &str) -> Result<IpNet, &'static str> {
    let expected = "expected ADDRESS/LENGTH, such as 10.244.0.0/16 or fd00:10:244::/48";
    text.parse().map_err(|_| expected)
}
