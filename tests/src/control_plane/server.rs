//! The servers' command lines.

use std::fmt;
use std::process::Command;

use anyhow::Result;
use ipnet::IpNet;

use super::layout::Layout;
use super::programs::program;
use crate::address::{self, IpVersion};

/// Where the API is served, on every address of the underlay.
pub const API_PORT: u16 = 6443;

/// An API server that cannot stream a list: as one of Kubernetes 1.33.
pub const WITHOUT_WATCH_LIST: &str = "--feature-gates=WatchList=false";

const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEER: &str = "http://127.0.0.1:2380";

/// Larger than any log of a test: a second file of it would be overlooked.
const AUDIT_LOG_MEBIBYTES: u32 = 4096;

/// One of the control plane's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Server {
    /// The store.
    Etcd,
    /// The API server.
    ApiServer,
    /// The controllers: they give nodes their pod CIDRs.
    ControllerManager,
    /// Who gives pods their nodes; only where nodes are real ones.
    Scheduler,
}

impl Server {
    /// Those of every control plane, in the order in which they start.
    pub(super) const ALL: [Self; 3] = [Self::Etcd, Self::ApiServer, Self::ControllerManager];

    /// Those that ask the API.
    pub(super) const CLIENTS: [Self; 2] = [Self::ControllerManager, Self::Scheduler];

    /// The program's name.
    fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
        }
    }

    /// The command that starts it.
    pub(super) fn command(self, layout: &Layout) -> Result<Command> {
        let arguments = match self {
            Self::Etcd => etcd(layout),
            Self::ApiServer => api_server(layout),
            Self::ControllerManager => controller_manager(layout),
            Self::Scheduler => scheduler(layout),
        };
        let mut command = Command::new(program(self.name())?);
        command.args(arguments);
        Ok(command)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

fn etcd(layout: &Layout) -> Vec<String> {
    vec![
        file(layout, "data-dir", "etcd"),
        format!("--listen-client-urls={ETCD}"),
        format!("--advertise-client-urls={ETCD}"),
        format!("--listen-peer-urls={ETCD_PEER}"),
        format!("--initial-advertise-peer-urls={ETCD_PEER}"),
        format!("--initial-cluster=default={ETCD_PEER}"),
        // Its disk is memory.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

fn api_server(layout: &Layout) -> Vec<String> {
    let first = layout.addresses()[0];
    let audit = layout.logs().join("audit.log");
    let mut arguments = vec![
        format!("--etcd-servers={ETCD}"),
        format!("--bind-address={}", address::unspecified(first)),
        format!("--secure-port={API_PORT}"),
        // There is no default route whose address it could take.
        format!("--advertise-address={first}"),
        format!("--service-cluster-ip-range={}", service_cidrs(layout)),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--allow-privileged".to_owned(),
        file(layout, "token-auth-file", "tokens.csv"),
        file(layout, "client-ca-file", "ca.crt"),
        file(layout, "tls-cert-file", "serving.crt"),
        file(layout, "tls-private-key-file", "serving.key"),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        file(layout, "service-account-key-file", "service-accounts.pub"),
        file(
            layout,
            "service-account-signing-key-file",
            "service-accounts.key",
        ),
        file(layout, "audit-policy-file", "audit-policy.yaml"),
        format!("--audit-log-path={}", audit.display()),
        format!("--audit-log-maxsize={AUDIT_LOG_MEBIBYTES}"),
    ];
    if layout.has_kubelets() {
        arguments.extend([
            // Without it kubelets refuse exec and logs.
            file(layout, "kubelet-client-certificate", "kubelet-client.crt"),
            file(layout, "kubelet-client-key", "kubelet-client.key"),
            // Nobody resolves the names of nodes.
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
        ]);
    }
    arguments
}

fn scheduler(layout: &Layout) -> Vec<String> {
    vec![
        file(layout, "kubeconfig", "scheduler.kubeconfig"),
        "--leader-elect=false".to_owned(),
        // It serves nothing that a test asks for.
        "--secure-port=0".to_owned(),
    ]
}

fn controller_manager(layout: &Layout) -> Vec<String> {
    let mut arguments = vec![
        file(layout, "kubeconfig", "controller-manager.kubeconfig"),
        file(layout, "root-ca-file", "ca.crt"),
        file(
            layout,
            "service-account-private-key-file",
            "service-accounts.key",
        ),
        "--use-service-account-credentials".to_owned(),
        "--leader-elect=false".to_owned(),
        "--allocate-node-cidrs".to_owned(),
        format!("--cluster-cidr={}", joined(layout.cluster_cidrs())),
        // It serves nothing that a test asks for.
        "--secure-port=0".to_owned(),
    ];
    // A family that the cluster has not must have no size.
    arguments.extend(layout.cluster_cidrs().iter().map(|cluster| {
        let version = IpVersion::of(cluster.addr());
        let prefix = address::pod_cidr(1, version).prefix_len();
        let family = match version {
            IpVersion::V4 => "ipv4",
            IpVersion::V6 => "ipv6",
        };
        format!("--node-cidr-mask-size-{family}={prefix}")
    }));
    arguments
}

/// A flag that names a file of the layout.
fn file(layout: &Layout, flag: &str, name: &str) -> String {
    format!("--{flag}={}", layout.path(name).display())
}

/// Networks for Services: of the API's own families, the first first.
fn service_cidrs(layout: &Layout) -> String {
    let has = |wanted| {
        layout
            .addresses()
            .iter()
            .any(|own| IpVersion::of(*own) == wanted)
    };
    let versions = [IpVersion::V4, IpVersion::V6].into_iter();
    let cidrs: Vec<_> = versions
        .filter(|version| has(*version))
        .map(address::services)
        .collect();
    joined(&cidrs)
}

fn joined(networks: &[IpNet]) -> String {
    let networks: Vec<_> = networks.iter().map(IpNet::to_string).collect();
    networks.join(",")
}
