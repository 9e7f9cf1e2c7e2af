//! A whole real cluster: a control plane with a scheduler, and nodes with kubelet, container
//! runtime and proxy.
//!
//! A node is a machine of this process: namespaces of every kind but the users', a root of its own
//! that is its disk, a part of the control groups that looks like the whole, and a first process
//! with which all others end. Disks are in this process's own memory: nothing is left when it ends,
//! in whatever way, but empty control groups, which the next one removes.
//!
//! ```no_run
//! use std::sync::Arc;
//! use podwire_testbed::cluster::{self, Cluster, ClusterPlan};
//! use podwire_testbed::Topology;
//!
//! cluster::enter()?;
//! let bed = Topology::new().nodes(3).container_runtime().start("a scenario")?;
//! let cluster = Cluster::start(&Arc::new(bed), &ClusterPlan::default())?;
//! cluster.plane().kubectl(&["get", "nodes"], "")?;
//! # anyhow::Ok(())
//! ```

mod archive;
mod cgroup;
mod conformance_images;
mod image;
mod images;
mod machine;
mod node;
pub(crate) mod pods;
mod root;
mod services;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1 as core;
use kube::Api;

use crate::control_plane::{self, ControlPlane};
use crate::cookie::Cookie;
use crate::sandbox;
use crate::testbed::Testbed;
use crate::until::until;

pub use conformance_images::{IMAGE_REGISTRIES, IMAGE_REGISTRIES_VARIABLE, conformance_images};
pub use images::{POD_IMAGE, POLICY_ENGINE_IMAGE, policy_engine_image};
pub use node::ClusterNode;
pub use services::{ProxyMode, Service};

/// Where disks are: in a `/run` that only this process has.
const FOLDER: &str = "/run/podwire-cluster";

/// Nodes go Ready, and pods start, within half a minute; the machine may be busy.
const READY_DEADLINE: Duration = Duration::from_secs(180);

/// Numbers the clusters of this process.
static CLUSTERS: AtomicU32 = AtomicU32::new(0);

/// What differs between clusters.
#[derive(Debug, Clone)]
pub struct ClusterPlan {
    /// What makes Services reachable.
    pub proxy: ProxyMode,
    /// Archives of further images, which every node has.
    pub images: Vec<PathBuf>,
}

impl Default for ClusterPlan {
    /// A proxy by nftables, and no further images.
    fn default() -> Self {
        Self {
            proxy: ProxyMode::Nftables,
            images: Vec::new(),
        }
    }
}

/// Builds what a cluster consists of and takes the process into its sandbox: to be called before
/// any thread exists.
///
/// # Errors
/// When the process is not root, which a kubelet must be; when a program cannot be built; and as
/// [`sandbox::enter`].
pub fn enter() -> Result<()> {
    enter_with(control_plane::build_node_servers)
}

/// As [`enter`], with what [`policy_engine_image`] has.
///
/// # Errors
/// As [`enter`].
pub fn enter_with_policy_engine() -> Result<()> {
    enter_with(control_plane::build_policy_servers)
}

/// As [`enter`], with Kubernetes' own tests and what [`conformance_images`] has.
///
/// # Errors
/// As [`enter`].
pub fn enter_with_conformance() -> Result<()> {
    enter_with(control_plane::build_conformance)
}

fn enter_with(build: impl FnOnce() -> Result<()>) -> Result<()> {
    // Before the build, which takes ten minutes the first time.
    require_root(rustix::process::geteuid().is_root())?;
    build()?;
    sandbox::enter()?;
    require_root(sandbox::is_real_root())?;
    sandbox::require_tun()?;
    sandbox::private_run_folder().context("making a /run of its own")
}

fn require_root(is_root: bool) -> Result<()> {
    ensure!(
        is_root,
        "kubelets and container runtimes need real root, not a user namespace: run as root, such \
         as with sudo"
    );
    Ok(())
}

/// A running cluster. Dropping it ends everything of it.
#[allow(
    missing_debug_implementations,
    reason = "the control plane, which it has, is not Debug"
)]
pub struct Cluster {
    // Nodes end before whom they ask.
    nodes: Vec<ClusterNode>,
    plane: ControlPlane,
    bed: Arc<Testbed>,
    folder: PathBuf,
    images: Vec<PathBuf>,
    secret: String,
}

impl Cluster {
    /// Starts the control plane and every node of a testbed whose topology leaves pods to a
    /// container runtime, and creates the DNS server. Every node is registered when this returns;
    /// none is Ready before a CNI configuration appears in its `/etc/cni/net.d`.
    ///
    /// # Errors
    /// When [`enter`] was not called, and when a program does not start.
    pub fn start(bed: &Arc<Testbed>, plan: &ClusterPlan) -> Result<Self> {
        require_root(sandbox::is_real_root())?;
        ensure!(
            bed.topology().has_container_runtime,
            "the topology's nodes have bridges of their own: ask it for Topology::container_runtime"
        );
        cgroup::remove_stale()?;
        let name = CLUSTERS.fetch_add(1, Ordering::Relaxed).to_string();
        let folder = Path::new(FOLDER).join(&name);
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let mut images = images::write_all(&folder)?;
        images.extend(plan.images.iter().cloned());
        let logs = bed.folder().join("logs");
        let (cookie, secret) = Cookie::random_text();
        bed.capture().search_for(&cookie);
        let make = |node| ClusterNode::new(node, plan.proxy, &name, &folder, &logs);
        let cluster = Self {
            nodes: bed.nodes().iter().map(make).collect(),
            plane: ControlPlane::start_for_kubelets(bed, &[])?,
            bed: Arc::clone(bed),
            folder,
            images,
            secret,
        };
        cluster.on_all(|node| cluster.boot_anew(node))?;
        for node in &cluster.nodes {
            cluster.plane.pod_cidrs(node.name())?;
        }
        let dns = include_str!("cluster/coredns.yaml");
        cluster.plane.kubectl(&["apply", "-f", "-"], dns)?;
        Ok(cluster)
    }

    /// Its control plane.
    #[must_use]
    pub fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// What pods say to each other: no frame of the underlay may have it in the clear.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// All nodes, in order.
    #[must_use]
    pub fn nodes(&self) -> &[ClusterNode] {
        &self.nodes
    }

    /// A node by its number, from 1.
    ///
    /// # Panics
    /// When the cluster has no such node.
    #[must_use]
    pub fn node(&self, number: u8) -> &ClusterNode {
        &self.nodes[usize::from(number) - 1]
    }

    /// Gives every node the images of further archives.
    ///
    /// # Errors
    /// ctr's.
    pub fn import(&self, archives: &[PathBuf]) -> Result<()> {
        self.on_all(|node| node.import(archives))
    }

    /// Takes a node's power away and boots it: every process, interface, route and table is gone,
    /// and what is under `/run`; its disk is as it was.
    ///
    /// # Errors
    /// The kernel's and ip's.
    pub fn reboot(&self, number: u8) -> Result<()> {
        let node = self.node(number);
        node.power_off()?;
        self.bed.reboot(number)?;
        node.power_on()
    }

    /// Puts another machine with an empty disk in a node's place, under its name and addresses:
    /// its Node is deleted and comes anew. Pods that were on it start there again: they are missed
    /// only after a while.
    ///
    /// # Errors
    /// The kernel's, ip's and the API's.
    pub fn replace(&self, number: u8) -> Result<()> {
        let node = self.node(number);
        node.power_off()?;
        self.bed.reboot(number)?;
        self.plane.delete_node(node.name())?;
        self.boot_anew(node)?;
        self.plane.pod_cidrs(node.name()).map(drop)
    }

    /// Waits until every node is Ready.
    ///
    /// # Errors
    /// When one is not in time, with what it says.
    pub fn wait_ready(&self) -> Result<()> {
        until(READY_DEADLINE, "every node to be Ready", || {
            for node in &self.nodes {
                let condition = self.ready_condition(node.name())?;
                ensure!(
                    condition.status == "True",
                    "{}: {}",
                    node.name(),
                    condition.message.unwrap_or_default()
                );
            }
            Ok(())
        })
    }

    /// What a Node says of its being Ready.
    ///
    /// # Errors
    /// When it says nothing yet.
    pub fn ready_condition(&self, node: &str) -> Result<core::NodeCondition> {
        let status = self.plane.node(node)?.status.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        let ready = conditions.into_iter().find(|it| it.type_ == "Ready");
        ready.with_context(|| format!("{node} does not say whether it is Ready"))
    }

    /// Waits until a Deployment or DaemonSet, such as `daemonset/x`, is rolled out.
    ///
    /// # Errors
    /// kubectl's message when it is not in time.
    pub fn wait_rolled_out(&self, namespace: &str, what: &str) -> Result<()> {
        let timeout = format!("--timeout={}s", READY_DEADLINE.as_secs());
        let arguments = [
            "--namespace",
            namespace,
            "rollout",
            "status",
            what,
            &timeout,
        ];
        self.plane.kubectl(&arguments, "").map(drop)
    }

    /// Waits until pods are Ready that are there already: those with these labels.
    ///
    /// # Errors
    /// kubectl's message when they are not in time.
    pub fn wait_pods_ready(&self, namespace: &str, labels: &str) -> Result<()> {
        let timeout = format!("--timeout={}s", READY_DEADLINE.as_secs());
        let mut arguments = vec![
            "--namespace",
            namespace,
            "wait",
            "pod",
            "--selector",
            labels,
        ];
        arguments.extend(["--for=condition=Ready", &timeout]);
        self.plane.kubectl(&arguments, "").map(drop)
    }

    /// A pod as the API has it.
    ///
    /// # Errors
    /// When there is none.
    pub fn pod(&self, namespace: &str, name: &str) -> Result<core::Pod> {
        let pods: Api<core::Pod> = Api::namespaced(self.plane.client(), namespace);
        let pod = self.plane.run(pods.get(name));
        pod.with_context(|| format!("reading the Pod {namespace}/{name}"))
    }

    /// A pod's addresses, the cluster's first family first.
    ///
    /// # Errors
    /// When it has none yet.
    pub fn pod_addresses(&self, namespace: &str, name: &str) -> Result<Vec<IpAddr>> {
        let status = self.pod(namespace, name)?.status.unwrap_or_default();
        let addresses = status.pod_ips.unwrap_or_default();
        ensure!(!addresses.is_empty(), "{name} has no address yet");
        let parsed = addresses.iter().map(|address| address.ip.parse());
        Ok(parsed.collect::<Result<_, _>>()?)
    }

    /// Runs a command in a pod's first container and returns what it prints.
    ///
    /// # Errors
    /// With what it writes to standard error, when it fails.
    pub fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Result<String> {
        let before = ["--namespace", namespace, "exec", pod, "--"];
        self.plane.kubectl(&[&before, command].concat(), "")
    }

    /// What a pod's first container has written.
    ///
    /// # Errors
    /// kubectl's message.
    pub fn logs(&self, namespace: &str, pod: &str) -> Result<String> {
        let arguments = ["--namespace", namespace, "logs", pod];
        self.plane.kubectl(&arguments, "")
    }

    /// Installs a node's disk anew and boots it with all images.
    fn boot_anew(&self, node: &ClusterNode) -> Result<()> {
        node.install(&self.plane)?;
        node.power_on()?;
        node.import(&self.images)
    }

    /// Does it on all nodes at once, and returns the first error.
    fn on_all(&self, action: impl Fn(&ClusterNode) -> Result<()> + Sync) -> Result<()> {
        thread::scope(|scope| {
            let nodes = self.nodes.iter();
            let workers: Vec<_> = nodes.map(|node| scope.spawn(|| action(node))).collect();
            workers.into_iter().try_for_each(|worker| {
                let done = worker.join();
                done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })
    }

    /// Writes what helps to understand a failure into the folder of logs, which goes with the
    /// testbed unless a test has failed.
    fn keep_state(&self) {
        let logs = self.bed.folder().join("logs");
        for (file, what) in [
            ("cluster.log", "nodes,pods,services,daemonsets,deployments"),
            ("events.log", "events"),
        ] {
            let arguments = ["get", what, "--all-namespaces", "--output=wide"];
            let said = self.plane.kubectl(&arguments, "");
            let text = said.unwrap_or_else(|error| format!("{error:#}\n"));
            // For people: what cannot be kept is no failure of a test.
            let _ = fs::write(logs.join(file), text);
        }
        self.nodes.iter().for_each(ClusterNode::keep_pods_logs);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.keep_state();
        self.nodes.clear();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
