//! What was meant by the command line: validated, complete, logged once.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use podwire_core::cni_configuration::Plugin;
use podwire_core::mesh::{HostNetworkPeers, Policy};
use podwire_core::node::{InvalidNodeName, NodeName};
use podwire_registry::kubernetes::{Access, AccessError};

use crate::admin::SOCKET_NAME;
use crate::args::{
    CipherArg, CleanupArgs, CniArgs, CniPluginArg, HostNetworkPeersArg, ModeArg, OwnArgs,
    RegistryArgs, RunArgs,
};
use crate::cni_files::CniFiles;
use crate::transport::Offloads;

/// Most lanes a node has: beyond eight cores one pair of nodes is limited by its NIC (DESIGN.md
/// section 6).
pub(crate) const LANES_MAX: usize = 8;

/// Longest name of a network device: the kernel's IFNAMSIZ less the final zero.
const DEVICE_NAME_LENGTH_MAX: usize = 15;

/// Folders of `/proc/sys/net/*/conf` beside those of devices, whose names the kernel refuses.
const RESERVED_DEVICE_NAMES: [&str; 2] = ["all", "default"];

/// Longest path of a UNIX socket: the kernel's `sun_path` less the final zero.
const SOCKET_PATH_LENGTH_MAX: usize = 107;

/// What every machine needs for itself. Guards for a CIDR that shares an address with one of these
/// would cut it off from itself, its neighbours or the IPv4 network.
const SPECIAL: [(&str, &str); 7] = [
    ("127.0.0.0/8", "loopback"),
    ("::1/128", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("fe80::/10", "link-local"),
    ("224.0.0.0/3", "multicast and reserved"),
    ("ff00::/8", "multicast"),
    ("::ffff:0:0/96", "IPv4-mapped"),
];

/// The configuration of one run.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) node_name: NodeName,
    pub(crate) registry: RegistryConfig,
    pub(crate) set_network_available: bool,
    pub(crate) mode: ModeArg,
    pub(crate) policy: Policy,
    pub(crate) publish_endpoint: bool,
    pub(crate) lanes: usize,
    pub(crate) listen_port: u16,
    pub(crate) device: String,
    pub(crate) state_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
    /// None where this agent writes no CNI configuration.
    pub(crate) cni: Option<CniConfig>,
    pub(crate) metrics_address: SocketAddr,
    pub(crate) offloads: Offloads,
    pub(crate) cipher: CipherArg,
}

/// The CNI configuration that a run writes.
#[derive(Clone, Debug)]
pub(crate) struct CniConfig {
    pub(crate) files: CniFiles,
    /// None where a configuration of before is to be removed.
    pub(crate) plugin: Option<Plugin>,
    /// Where plugins are, if that is to be looked at.
    pub(crate) plugin_dir: Option<PathBuf>,
}

/// The registry of one run.
#[derive(Clone, Debug)]
pub(crate) enum RegistryConfig {
    /// `--directory`.
    Directory(PathBuf),
    /// An API server: where it is, and who asks.
    Kubernetes(Access),
}

/// The configuration of one clean-up.
#[derive(Clone, Debug)]
pub(crate) struct CleanupConfig {
    pub(crate) device: String,
    pub(crate) state_dir: PathBuf,
    pub(crate) remove_state: bool,
    /// Where an agent that has ended left its socket.
    pub(crate) run_dir: PathBuf,
    /// Where the CNI configuration is, if it is to be removed.
    pub(crate) cni: Option<CniFiles>,
    /// Whose record is removed, and where from.
    pub(crate) record: Option<(NodeName, RegistryConfig)>,
}

impl CleanupConfig {
    /// What was meant by what was typed. Without a name no record is removed.
    pub(crate) fn new(args: CleanupArgs, is_in_pod: bool) -> Result<Self, ConfigError> {
        let CleanupArgs {
            own:
                OwnArgs {
                    device,
                    state_dir,
                    run_dir,
                },
            remove_state,
            cni_configuration_directory,
            node_name,
            registry,
        } = args;
        check_device(&device)?;
        let record = match node_name {
            Some(name) => Some((name.parse()?, self::registry(registry, is_in_pod)?)),
            None => None,
        };
        Ok(Self {
            device,
            state_dir,
            remove_state,
            cni: cni_configuration_directory.map(|folder| cni_files(&run_dir, &folder)),
            run_dir,
            record,
        })
    }
}

/// A flag whose value parses but cannot be meant.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("--node-name: {0}")]
    NodeName(#[from] InvalidNodeName),
    #[error("--{flag} {cidr}: has host bits set; {network} is the prefix")]
    HostBits {
        flag: &'static str,
        cidr: IpNet,
        network: IpNet,
    },
    #[error(
        "--cluster-cidr {0}: a default route is not a pod CIDR; name the cluster's pod network"
    )]
    DefaultRoute(IpNet),
    #[error(
        "--cluster-cidr {cidr} shares addresses with {special} ({what}): name the cluster's pod \
         network"
    )]
    Special {
        cidr: IpNet,
        special: IpNet,
        what: &'static str,
    },
    #[error("--cluster-cidr {0} and {1} overlap: name each pod network once")]
    Overlap(IpNet, IpNet),
    #[error(
        "--allow-endpoint {0} shares addresses with --cluster-cidr {1}, in which no endpoint is \
         taken: name where nodes are"
    )]
    EndpointsAmongPods(IpNet, IpNet),
    #[error("--listen-port {port} with {lanes} lanes: allowed are 1 to {max}")]
    ListenPort { port: u16, lanes: usize, max: usize },
    #[error(
        "--device {0:?}: allowed are 1 to 15 letters, digits, '-', '_' and '.', but not \"all\" and \
         \"default\""
    )]
    Device(String),
    #[error("--api-server: {0}")]
    ApiServer(#[source] AccessError),
    #[error(
        "no registry: outside of a pod name one, --kubeconfig PATH for Kubernetes or --directory \
         PATH for a folder of Node manifests"
    )]
    NoRegistry,
    #[error(
        "--state-dir {} lies in --directory {}, which is for every node to read: private keys need \
         a folder of their own", .state.display(), .directory.display()
    )]
    StateInDirectory { state: PathBuf, directory: PathBuf },
    #[error(
        "--run-dir and --state-dir are both {}: the one is emptied by a reboot, the other must \
         survive it", .0.display()
    )]
    OneFolder(PathBuf),
    #[error(
        "--run-dir {} is too long for a socket: allowed are {max} bytes", .path.display()
    )]
    RunDir { path: PathBuf, max: usize },
    #[error(
        "--cni-configuration-directory {} is the agent's own folder: name the one that the \
         container runtime reads, such as /etc/cni/net.d", .0.display()
    )]
    CniFolder(PathBuf),
}

impl Config {
    /// The one conversion from what was typed to what was meant. `cores` is the number of
    /// processors that the process may use; `is_in_pod` says whether this is a pod's container.
    pub(crate) fn new(args: RunArgs, cores: usize, is_in_pod: bool) -> Result<Self, ConfigError> {
        // Exhaustive on purpose: a new flag that nobody wires does not compile.
        let RunArgs {
            node_name,
            registry,
            set_network_available,
            cluster_cidr,
            mode,
            host_network_peers,
            allow_endpoint,
            no_endpoint,
            lanes,
            listen_port,
            own:
                OwnArgs {
                    device,
                    state_dir,
                    run_dir,
                },
            cni,
            metrics_address,
            offload,
            cipher,
            log: _,
            log_format: _,
        } = args;
        let node_name = node_name.parse()?;
        check_cluster_cidrs(&cluster_cidr)?;
        check_allowed_endpoints(&allow_endpoint, &cluster_cidr)?;
        let lanes = lanes.unwrap_or_else(|| lanes_for(cores));
        let max = usize::from(u16::MAX) + 1 - lanes;
        if usize::from(listen_port) > max {
            return Err(ConfigError::ListenPort {
                port: listen_port,
                lanes,
                max,
            });
        }
        check_device(&device)?;
        let registry = self::registry(registry, is_in_pod)?;
        if let RegistryConfig::Directory(directory) = &registry {
            check_directory(directory, &state_dir)?;
        }
        check_folders(&state_dir, &run_dir)?;
        let cni = self::cni(cni, &state_dir, &run_dir)?;
        let mut offloads = Offloads::default();
        for (name, is_wanted) in offload {
            offloads.set(name, is_wanted);
        }
        Ok(Self {
            node_name,
            registry,
            set_network_available,
            mode,
            policy: Policy {
                cluster_cidrs: cluster_cidr,
                host_network_peers: self::host_network_peers(host_network_peers, mode),
                endpoint_cidrs: allow_endpoint,
            },
            publish_endpoint: !no_endpoint,
            lanes,
            listen_port,
            device,
            state_dir,
            run_dir,
            cni,
            metrics_address,
            offloads,
            cipher,
        })
    }
}

impl Config {
    /// The UDP port of the last lane.
    pub(crate) fn last_port(&self) -> u16 {
        let further = u16::try_from(self.lanes - 1).unwrap_or_default();
        self.listen_port.saturating_add(further)
    }
}

/// Half the cores, so that pods keep the other half; two where there are two, because one lane
/// sends while the other receives; at most [`LANES_MAX`].
fn lanes_for(cores: usize) -> usize {
    (cores / 2).max(cores.min(2)).clamp(1, LANES_MAX)
}

fn check_host_bits(flag: &'static str, cidr: IpNet) -> Result<(), ConfigError> {
    let network = cidr.trunc();
    if network == cidr {
        Ok(())
    } else {
        Err(ConfigError::HostBits {
            flag,
            cidr,
            network,
        })
    }
}

fn check_cluster_cidrs(cidrs: &[IpNet]) -> Result<(), ConfigError> {
    for (at, cidr) in cidrs.iter().enumerate() {
        check_host_bits("cluster-cidr", *cidr)?;
        if cidr.prefix_len() == 0 {
            return Err(ConfigError::DefaultRoute(*cidr));
        }
        if let Some(other) = cidrs[..at].iter().find(|other| overlap(other, cidr)) {
            return Err(ConfigError::Overlap(*other, *cidr));
        }
        check_special(*cidr)?;
    }
    Ok(())
}

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

fn special() -> impl Iterator<Item = (IpNet, &'static str)> {
    let parsed = |text: &str| text.parse().expect("each of the table is a prefix");
    SPECIAL
        .iter()
        .map(move |(text, what)| (parsed(text), *what))
}

fn check_special(cidr: IpNet) -> Result<(), ConfigError> {
    for (special, what) in special() {
        if overlap(&special, &cidr) {
            return Err(ConfigError::Special {
                cidr,
                special,
                what,
            });
        }
    }
    Ok(())
}

fn check_allowed_endpoints(allowed: &[IpNet], cluster: &[IpNet]) -> Result<(), ConfigError> {
    for cidr in allowed {
        check_host_bits("allow-endpoint", *cidr)?;
        if let Some(pods) = cluster.iter().find(|pods| overlap(pods, cidr)) {
            return Err(ConfigError::EndpointsAmongPods(*cidr, *pods));
        }
    }
    Ok(())
}

/// A pod's own API server where nothing else is named.
fn registry(args: RegistryArgs, is_in_pod: bool) -> Result<RegistryConfig, ConfigError> {
    let RegistryArgs {
        directory,
        kubeconfig,
        context,
        api_server,
    } = args;
    if let Some(directory) = directory {
        return Ok(RegistryConfig::Directory(directory));
    }
    if kubeconfig.is_none() && !is_in_pod {
        return Err(ConfigError::NoRegistry);
    }
    let access = Access {
        kubeconfig,
        context,
        api_server,
    };
    access.check().map_err(ConfigError::ApiServer)?;
    Ok(RegistryConfig::Kubernetes(access))
}

/// Who insists on encryption does so towards everybody, unless told otherwise.
const fn host_network_peers(told: Option<HostNetworkPeersArg>, mode: ModeArg) -> HostNetworkPeers {
    match (told, mode) {
        (Some(HostNetworkPeersArg::Refuse), _) | (None, ModeArg::Encrypted) => {
            HostNetworkPeers::Refuse
        }
        (Some(HostNetworkPeersArg::Allow), _) | (None, ModeArg::Auto | ModeArg::HostNetwork) => {
            HostNetworkPeers::Allow
        }
    }
}

fn cni(args: CniArgs, state: &Path, run: &Path) -> Result<Option<CniConfig>, ConfigError> {
    let Some(folder) = args.cni_configuration_directory else {
        return Ok(None);
    };
    if [state, run].iter().any(|own| full(own) == full(&folder)) {
        return Err(ConfigError::CniFolder(folder));
    }
    Ok(Some(CniConfig {
        files: cni_files(run, &folder),
        plugin: match args.cni_plugin {
            CniPluginArg::Bridge => Some(Plugin::Bridge),
            CniPluginArg::Ptp => Some(Plugin::Ptp),
            CniPluginArg::None => None,
        },
        plugin_dir: args.cni_plugin_directory,
    }))
}

/// Where the CNI configuration is. The link's target is absolute: relative to the link, it would
/// lead elsewhere.
pub(crate) fn cni_files(run: &Path, folder: &Path) -> CniFiles {
    CniFiles::new(full(run), full(folder))
}

/// As text, without looking at the disk: what is not there yet is checked too.
fn full(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn check_directory(directory: &Path, state: &Path) -> Result<(), ConfigError> {
    if full(state).starts_with(full(directory)) {
        return Err(ConfigError::StateInDirectory {
            state: state.to_owned(),
            directory: directory.to_owned(),
        });
    }
    Ok(())
}

fn check_folders(state: &Path, run: &Path) -> Result<(), ConfigError> {
    if full(state) == full(run) {
        return Err(ConfigError::OneFolder(run.to_owned()));
    }
    let socket = run.join(SOCKET_NAME);
    if socket.as_os_str().len() > SOCKET_PATH_LENGTH_MAX {
        return Err(ConfigError::RunDir {
            path: run.to_owned(),
            max: SOCKET_PATH_LENGTH_MAX - SOCKET_NAME.len() - 1,
        });
    }
    Ok(())
}

/// Checks the name of a device.
pub(crate) fn check_device(name: &str) -> Result<(), ConfigError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let sized = (1..=DEVICE_NAME_LENGTH_MAX).contains(&name.len());
    let reserved = [".", ".."].contains(&name) || RESERVED_DEVICE_NAMES.contains(&name);
    if sized && name.bytes().all(allowed) && !reserved {
        Ok(())
    } else {
        Err(ConfigError::Device(name.to_owned()))
    }
}

#[cfg(test)]
mod tests;
