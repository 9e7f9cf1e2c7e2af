//! What runs on a node: container runtime, kubelet and proxy, with their settings.

use std::fmt;
use std::net::IpAddr;
use std::process::Command;

use serde_json::{Value, json};

use super::images::PAUSE;
use super::machine;
use super::root::PROGRAMS;
use crate::address::{self, IpVersion};

/// The authority's certificate, on a node's disk.
pub(super) const CA_FILE: &str = "/etc/kubernetes/ca.crt";

/// What kubelet shows the API, on a node's disk.
pub(super) const KUBELET_KUBECONFIG: &str = "/etc/kubernetes/kubelet.conf";

/// What the proxy shows the API, on a node's disk.
pub(super) const PROXY_KUBECONFIG: &str = "/etc/kubernetes/kube-proxy.conf";

pub(super) const KUBELET_CONFIGURATION: &str = "/etc/kubernetes/kubelet.json";
pub(super) const CONTAINERD_CONFIGURATION: &str = "/etc/containerd/config.toml";
const CONTAINERD_SOCKET: &str = "unix:///run/containerd/containerd.sock";

/// How the proxy sends what is for a Service on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyMode {
    /// By nftables.
    Nftables,
    /// By iptables.
    Iptables,
}

impl fmt::Display for ProxyMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        })
    }
}

/// One of a node's programs that stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// The container runtime.
    Containerd,
    /// The node's agent of the cluster.
    Kubelet,
    /// What makes Services reachable.
    KubeProxy,
}

impl Service {
    /// In the order in which they start.
    pub(super) const ALL: [Self; 3] = [Self::Containerd, Self::Kubelet, Self::KubeProxy];

    /// Its program's name.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
        }
    }

    /// What starts it, and starts it again whenever it ends: a kubelet that is too early for the
    /// API gives up, as a proxy does.
    pub(super) fn command(self, node: &str, addresses: &[IpAddr], proxy: ProxyMode) -> Command {
        let mut command = machine::command("pod-tools");
        command.arg("respawn").arg(self.name());
        match self {
            Self::Containerd => command.arg(format!("--config={CONTAINERD_CONFIGURATION}")),
            Self::Kubelet => command
                .arg(format!("--config={KUBELET_CONFIGURATION}"))
                .arg(format!("--kubeconfig={KUBELET_KUBECONFIG}"))
                .arg(format!("--hostname-override={node}"))
                .arg(format!("--node-ip={}", joined(addresses))),
            Self::KubeProxy => command
                .arg(format!("--kubeconfig={PROXY_KUBECONFIG}"))
                .arg(format!("--hostname-override={node}"))
                .arg(format!("--proxy-mode={proxy}"))
                .arg(format!(
                    "--cluster-cidr={}",
                    joined(&cluster_cidrs(addresses))
                ))
                // The machine's own, of which a network namespace has none.
                .arg("--conntrack-max-per-core=0"),
        };
        command
    }
}

impl fmt::Display for Service {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// containerd's file. A machine may withhold `CAP_SYS_RESOURCE`, which a lower score of the OOM
/// killer takes.
pub(super) fn containerd() -> String {
    format!(
        "version = 3\n\
         [plugins.'io.containerd.cri.v1.images'.pinned_images]\n\
         sandbox = '{PAUSE}'\n\
         [plugins.'io.containerd.cri.v1.runtime']\n\
         restrict_oom_score_adj = true\n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]\n\
         runtime_type = 'io.containerd.runc.v2'\n\
         [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\n\
         BinaryName = '{PROGRAMS}/runc'\n\
         SystemdCgroup = false\n\
         [plugins.'io.containerd.cri.v1.runtime'.cni]\n\
         bin_dirs = ['/opt/cni/bin']\n\
         conf_dir = '/etc/cni/net.d'\n"
    )
}

/// kubelet's file.
pub(super) fn kubelet(versions: &[IpVersion]) -> Value {
    let dns: Vec<_> = versions.iter().map(|v| address::dns_service(*v)).collect();
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": CONTAINERD_SOCKET,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": CA_FILE},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDNS": dns,
        "clusterDomain": "cluster.local",
        // The machine's groups are of the first version, and have no systemd.
        "failCgroupV1": false,
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        // Its disk is memory, which others use, too.
        "localStorageCapacityIsolation": false,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": "1Mi",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
        },
        "makeIPTablesUtilChains": false,
        // Its default is below /usr, which is this machine's.
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
    })
}

fn cluster_cidrs(addresses: &[IpAddr]) -> Vec<ipnet::IpNet> {
    let versions = addresses.iter().map(|own| IpVersion::of(*own));
    versions.map(address::cluster_cidr).collect()
}

fn joined<T: fmt::Display>(values: &[T]) -> String {
    let values: Vec<_> = values.iter().map(T::to_string).collect();
    values.join(",")
}
