//! The command line, as typed. [`crate::config`] turns it into what was meant.
//!
//! A value that cannot be read is refused with what is allowed in its place.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;

use crate::config::LANES_MAX;
use crate::transport::Offload;

/// WireGuard-encrypted pod-to-pod traffic between Kubernetes nodes.
#[derive(Debug, Parser)]
#[command(name = "podwire-agent", version, about, propagate_version = true)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the node's agent until SIGTERM.
    Run(Box<RunArgs>),
    /// Show how the agent of this node is doing.
    Status(QueryArgs),
    /// Show the peers of this node: state, mode, endpoint, handshake, traffic.
    Peers(QueryArgs),
    /// Show how many packets were dropped, by reason.
    Drops(QueryArgs),
    /// Exit 0 when the agent of this node is ready, 1 otherwise.
    Healthz(QueryArgs),
    /// Exit 0 while the control loop of this node's agent runs, whether the node is ready or not.
    Livez(QueryArgs),
    /// Replace the keys of this node without losing a packet. `keyctl rotate` does it from
    /// anywhere, and waits for the end.
    Rotate(KeyArgs),
    /// End the rotation of this node's keys before the next ones are in force.
    Abort(KeyArgs),
    /// Replace the keys of this node at once, because others know them: peers that have not heard
    /// of the new ones are without a way until they have.
    Revoke(RevokeArgs),
    /// Remove device, routes, table and CNI configuration of Podwire from this node, and nothing
    /// else.
    Cleanup(CleanupArgs),
    /// Do nothing until SIGTERM: what a pod does whose clean-up is done.
    Wait,
}

/// `podwire-agent run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// Name of this node's Node.
    #[arg(long, env = "PODWIRE_NODE_NAME")]
    pub(crate) node_name: String,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
    /// Set this Node's condition NetworkUnavailable to False once the mesh is in place: for clouds
    /// that set it to True and wait for whoever provides the network. Needs permission to patch
    /// nodes/status.
    #[arg(
        long,
        env = "PODWIRE_SET_NETWORK_AVAILABLE",
        conflicts_with = "directory"
    )]
    pub(crate) set_network_available: bool,
    /// Pod CIDRs of the whole cluster: no packet to or from them leaves this node in plaintext.
    #[arg(
        long,
        env = "PODWIRE_CLUSTER_CIDR",
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = cidr,
        required = true
    )]
    pub(crate) cluster_cidr: Vec<IpNet>,
    /// How this node takes part.
    #[arg(long, env = "PODWIRE_MODE", value_enum, default_value_t = ModeArg::Auto)]
    pub(crate) mode: ModeArg,
    /// Whether traffic with nodes that declare host-network mode may be plaintext [default: refuse
    /// with `--mode encrypted`, else allow].
    #[arg(long, env = "PODWIRE_HOST_NETWORK_PEERS", value_enum)]
    pub(crate) host_network_peers: Option<HostNetworkPeersArg>,
    /// Prefixes in which peers' endpoints may lie beside their Node's own addresses.
    #[arg(
        long,
        env = "PODWIRE_ALLOW_ENDPOINT",
        value_name = "CIDR",
        value_delimiter = ',',
        value_parser = cidr
    )]
    pub(crate) allow_endpoint: Vec<IpNet>,
    /// Publish no endpoint: this node is behind NAT, its peers follow it by roaming.
    #[arg(long, env = "PODWIRE_NO_ENDPOINT")]
    pub(crate) no_endpoint: bool,
    /// Lanes: threads, UDP ports and keys of the data plane [default: half the cores, 2 to 8].
    #[arg(long, env = "PODWIRE_LANES", value_parser = lanes)]
    pub(crate) lanes: Option<usize>,
    /// UDP port of lane 0; lane i listens on this port plus i.
    #[arg(long, env = "PODWIRE_LISTEN_PORT", default_value_t = 51880, value_parser = port)]
    pub(crate) listen_port: u16,
    #[command(flatten)]
    pub(crate) own: OwnArgs,
    #[command(flatten)]
    pub(crate) cni: CniArgs,
    /// Where Prometheus metrics are served.
    #[arg(
        long,
        env = "PODWIRE_METRICS_ADDRESS",
        default_value = "127.0.0.1:9587",
        value_parser = socket_address
    )]
    pub(crate) metrics_address: SocketAddr,
    /// What the kernel does for many packets at once, NAME=on or NAME=off: tun-gso, tun-gro,
    /// udp-gso, udp-gro. All are on, and given up one by one where the kernel refuses them.
    #[arg(
        long,
        env = "PODWIRE_OFFLOAD",
        value_name = "NAME=SWITCH",
        value_delimiter = ',',
        value_parser = offload
    )]
    pub(crate) offload: Vec<(Offload, bool)>,
    /// Whose ChaCha20-Poly1305 seals and opens packets. An agent that ends by SIGILL at its start
    /// runs where AVX-512 is claimed and not there: aws-lc does without.
    #[arg(long, env = "PODWIRE_CIPHER", value_enum, default_value_t = CipherArg::Auto)]
    pub(crate) cipher: CipherArg,
    /// What is logged: a level (error, warn, info, debug, trace, off), and TARGET=LEVEL for parts,
    /// separated by commas.
    #[arg(
        long,
        env = "PODWIRE_LOG",
        default_value = "info",
        value_name = "FILTER"
    )]
    pub(crate) log: String,
    /// How log lines look.
    #[arg(long, env = "PODWIRE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

/// What the agent has on its node.
#[derive(Debug, Args)]
pub(crate) struct OwnArgs {
    /// Name of the TUN device.
    #[arg(long, env = "PODWIRE_DEVICE", default_value = "podwire0")]
    pub(crate) device: String,
    /// Folder of keys, epoch and the last known mesh; survives reboots.
    #[arg(
        long,
        env = "PODWIRE_STATE_DIR",
        default_value = "/var/lib/podwire",
        value_name = "PATH"
    )]
    pub(crate) state_dir: PathBuf,
    /// Folder of the sockets and of the CNI configuration; emptied by a reboot.
    #[arg(
        long,
        env = "PODWIRE_RUN_DIR",
        default_value = "/run/podwire",
        value_name = "PATH"
    )]
    pub(crate) run_dir: PathBuf,
}

/// Where Nodes are found; a pod's own API server unless told.
#[derive(Debug, Args)]
pub(crate) struct RegistryArgs {
    /// Folder of Node manifests, in place of an API server.
    #[arg(
        long,
        env = "PODWIRE_DIRECTORY",
        value_name = "PATH",
        conflicts_with_all = ["kubeconfig", "context", "api_server"]
    )]
    pub(crate) directory: Option<PathBuf>,
    /// Kubeconfig that names API server and credentials, in place of the pod's service account.
    #[arg(long, env = "PODWIRE_KUBECONFIG", value_name = "PATH")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current one].
    #[arg(
        long,
        env = "PODWIRE_CONTEXT",
        value_name = "NAME",
        requires = "kubeconfig"
    )]
    pub(crate) context: Option<String>,
    /// URL of the API server, where the one that kubeconfig or pod name cannot be reached (there
    /// may be no Service network before this agent is there).
    #[arg(long, env = "PODWIRE_API_SERVER", value_name = "URL")]
    pub(crate) api_server: Option<String>,
}

/// How pods get their network, where this agent tells the container runtime.
#[derive(Debug, Args)]
pub(crate) struct CniArgs {
    /// Folder of the container runtime's CNI configurations, such as /etc/cni/net.d, for a link
    /// named 05-podwire.conflist: made once this node is ready, it leads to a file in the run
    /// folder. In a pod, both folders have to be mounted where the host has them [default: none is
    /// made].
    #[arg(long, env = "PODWIRE_CNI_CONFIGURATION_DIRECTORY", value_name = "PATH")]
    pub(crate) cni_configuration_directory: Option<PathBuf>,
    /// CNI plugin that makes the links of pods.
    #[arg(long, env = "PODWIRE_CNI_PLUGIN", value_enum, default_value_t = CniPluginArg::Bridge)]
    pub(crate) cni_plugin: CniPluginArg,
    /// Folder of the CNI plugins, such as /opt/cni/bin, to tell which are missing [default: not
    /// looked at].
    #[arg(long, env = "PODWIRE_CNI_PLUGIN_DIRECTORY", value_name = "PATH")]
    pub(crate) cni_plugin_directory: Option<PathBuf>,
}

/// Questions to the running agent.
#[derive(Debug, Args)]
pub(crate) struct QueryArgs {
    /// Folder of the agent's sockets.
    #[arg(
        long,
        env = "PODWIRE_RUN_DIR",
        default_value = "/run/podwire",
        value_name = "PATH"
    )]
    pub(crate) run_dir: PathBuf,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

/// Requests about the keys of this node to its running agent.
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// Folder of the agent's sockets.
    #[arg(
        long,
        env = "PODWIRE_RUN_DIR",
        default_value = "/run/podwire",
        value_name = "PATH"
    )]
    pub(crate) run_dir: PathBuf,
    /// Do it only to this generation of the keys [default: that of now].
    #[arg(long, value_name = "NUMBER")]
    pub(crate) if_key_generation: Option<u64>,
}

/// `podwire-agent revoke`.
#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
    /// Yes, cut this node's sessions.
    #[arg(long, required = true)]
    pub(crate) yes: bool,
}

/// `podwire-agent cleanup`.
#[derive(Debug, Args)]
#[command(mut_arg("state_dir", |arg| arg.help(
    "State folder of the agent, which must not be running; kept unless told otherwise"
)))]
pub(crate) struct CleanupArgs {
    #[command(flatten)]
    pub(crate) own: OwnArgs,
    /// Folder in which the agent has made the link to the CNI configuration [default: none].
    #[arg(long, env = "PODWIRE_CNI_CONFIGURATION_DIRECTORY", value_name = "PATH")]
    pub(crate) cni_configuration_directory: Option<PathBuf>,
    /// Empty the state folder, too: a node that comes back has other keys.
    #[arg(long, env = "PODWIRE_REMOVE_STATE")]
    pub(crate) remove_state: bool,
    /// Name of this node's Node, whose record is then removed from the registry, too.
    #[arg(long, env = "PODWIRE_NODE_NAME")]
    pub(crate) node_name: Option<String>,
    #[command(flatten)]
    pub(crate) registry: RegistryArgs,
}

fn cidr(text: &str) -> Result<IpNet, &'static str> {
    let expected = "expected ADDRESS/LENGTH, such as 10.244.0.0/16 or fd00:10:244::/48";
    text.parse().map_err(|_| expected)
}

fn offload(text: &str) -> Result<(Offload, bool), String> {
    let switch = text.split_once('=').and_then(|(name, switch)| {
        let mut all = Offload::ALL.into_iter();
        let offload = all.find(|offload| offload.as_str() == name)?;
        match switch {
            "on" => Some((offload, true)),
            "off" => Some((offload, false)),
            _ => None,
        }
    });
    switch.ok_or_else(|| {
        let names = Offload::ALL.map(Offload::as_str).join(", ");
        format!("expected NAME=on or NAME=off with one of the names {names}")
    })
}

fn lanes(text: &str) -> Result<usize, String> {
    let number = text.parse().ok();
    number
        .filter(|number| (1..=LANES_MAX).contains(number))
        .ok_or_else(|| format!("expected a number from 1 to {LANES_MAX}"))
}

fn port(text: &str) -> Result<u16, &'static str> {
    let number = text.parse().ok();
    number
        .filter(|port| *port != 0)
        .ok_or("expected a port from 1 to 65535")
}

/// IPv4 addresses may be in brackets, too: a pod knows its node's address as a variable, and has to
/// write what is around it before it knows of which family that is.
fn socket_address(text: &str) -> Result<SocketAddr, &'static str> {
    let expected =
        "expected ADDRESS:PORT with a port above 0, such as 127.0.0.1:9587 or [::1]:9587";
    let bracketed = || {
        let (address, port) = text.strip_prefix('[')?.split_once("]:")?;
        let address: Ipv4Addr = address.parse().ok()?;
        Some(SocketAddr::from((address, port.parse().ok()?)))
    };
    let address: Option<SocketAddr> = text.parse().ok().or_else(bracketed);
    address
        .filter(|address| address.port() != 0)
        .ok_or(expected)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArg {
    /// Encrypted where the TUN device is usable, else host-network.
    Auto,
    /// Encrypted, or refuse to start.
    Encrypted,
    /// Plain host routes: plaintext.
    HostNetwork,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HostNetworkPeersArg {
    /// Plaintext with nodes that declare host-network mode.
    Allow,
    /// Strict mode: no traffic with them.
    Refuse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CniPluginArg {
    /// All pods behind one bridge, podwire-bridge.
    Bridge,
    /// A link and a host route for each pod.
    Ptp,
    /// Somebody else writes the CNI configuration: remove one of before, and write none.
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CipherArg {
    /// AVX-512 code where the processor has it, else AWS-LC.
    Auto,
    /// AWS-LC, whatever the processor has.
    AwsLc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// One line of text an event.
    Text,
    /// One JSON object an event.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_either_family_may_be_in_brackets() {
        for (text, expected) in [
            ("192.0.2.1:9587", "192.0.2.1:9587"),
            ("[192.0.2.1]:9587", "192.0.2.1:9587"),
            ("[2001:db8::1]:9587", "[2001:db8::1]:9587"),
        ] {
            let found = socket_address(text).map(|address| address.to_string());
            assert_eq!(found.as_deref(), Ok(expected), "{text}");
        }
        for text in [
            "[192.0.2.1]:0",
            "[192.0.2.1]",
            "[[::1]]:1",
            "2001:db8::1:9587",
        ] {
            assert!(socket_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_value_that_cannot_be_read_is_named_with_what_is_allowed() {
        for (flag, value, allowed) in [
            ("--cluster-cidr", "10.244.0.0", "ADDRESS/LENGTH"),
            ("--cluster-cidr", "", "ADDRESS/LENGTH"),
            ("--cluster-cidr", "10.244.0.0/16,", "ADDRESS/LENGTH"),
            ("--allow-endpoint", "host", "ADDRESS/LENGTH"),
            ("--lanes", "9", "1 to 8"),
            ("--lanes", "two", "1 to 8"),
            ("--listen-port", "0", "1 to 65535"),
            ("--listen-port", "65536", "1 to 65535"),
            ("--metrics-address", "localhost", "ADDRESS:PORT"),
            ("--metrics-address", "127.0.0.1:0", "port above 0"),
            ("--mode", "plaintext", "host-network"),
            ("--host-network-peers", "yes", "refuse"),
            ("--log-format", "xml", "json"),
            ("--cni-plugin", "cilium-cni", "ptp"),
            ("--offload", "tun-gso", "NAME=on or NAME=off"),
            ("--offload", "gso=off", "tun-gso, tun-gro, udp-gso, udp-gro"),
        ] {
            let error = CommandLine::try_parse_from(["podwire-agent", "run", flag, value]);
            let error = error.expect_err("refused").to_string();
            assert!(error.contains(flag) && error.contains(allowed), "{error}");
        }
    }
}
