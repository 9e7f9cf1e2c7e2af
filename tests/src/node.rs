//! A node: a namespace on the underlay with a bridge, pods behind it, and an agent's process.

mod agent;
pub(crate) mod agent_log;
mod clock;
mod mute;
mod reboot;
mod view;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fs, thread};

use anyhow::{Context as _, Result};
use ipnet::IpNet;

use crate::address;
use crate::echo::EchoServers;
use crate::host::Host;
use crate::link::{Link, NODE_END};
use crate::namespace::Namespace;
use crate::pod::{Pod, PodId};
use crate::registry::{Directory, Manifest};
use crate::topology::Topology;
use crate::underlay::{Underlay, address_line, port, prepare};
use agent::AgentState;

/// A node.
#[derive(Debug)]
pub struct Node {
    number: u8,
    host: Host,
    pods: Vec<Pod>,
    link: Option<Link>,
    folders: Folders,
    directory: Directory,
    topology: Topology,
    state: Mutex<State>,
}

#[derive(Debug)]
struct Folders {
    state: PathBuf,
    run: PathBuf,
    logs: PathBuf,
}

#[derive(Debug)]
struct State {
    manifest: Manifest,
    agent: AgentState,
}

impl Node {
    /// Makes the node with its pods; the underlay's end of its link is there and not yet plugged.
    pub(crate) fn new(
        number: u8,
        topology: &Topology,
        underlay: &Underlay,
        servers: &EchoServers,
        directory: &Directory,
        folder: &Path,
    ) -> Result<Self> {
        let name = format!("node-{number}");
        let namespace = Arc::new(Namespace::new(&name)?);
        prepare_node(&namespace, topology)?;
        let folders = Folders {
            state: folder.join(&name).join("state"),
            run: folder.join(&name).join("run"),
            logs: folder.join("logs"),
        };
        for path in [&folders.state, &folders.run, &folders.logs] {
            fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))?;
        }
        let pods = (1..=topology.pods_per_node)
            .map(|pod| Pod::new(PodId { node: number, pod }, topology.family, servers))
            .collect::<Result<Vec<_>>>()?;
        let lan = topology.underlay.lan_of(number);
        let versions = topology.underlay_family().versions();
        let addresses: Vec<_> = versions
            .iter()
            .map(|version| address::node(address::lan(lan, *version), number))
            .collect();
        let cidrs = pod_cidrs(topology, number);
        let link = if topology.has_userspace_link(number) {
            Some(Link::new(&format!("link-{number}"))?)
        } else {
            None
        };
        let mut node = Self {
            number,
            host: Host::new(namespace, servers),
            pods,
            link,
            folders,
            directory: directory.clone(),
            topology: topology.clone(),
            state: Mutex::new(State {
                manifest: Manifest {
                    uid: format!("00000000-0000-4000-8000-{number:012}"),
                    name,
                    created: "2026-01-01T00:00:00Z".to_owned(),
                    annotations: [].into(),
                    pod_cidrs: cidrs.clone(),
                    addresses: addresses.clone(),
                },
                agent: AgentState::new(topology.agent_arguments.clone()),
            }),
        };
        node.make_links(underlay, &addresses, &cidrs)?;
        node.host.set_addresses(addresses)?;
        node.pods.iter().try_for_each(|pod| pod.configure(&cidrs))?;
        Ok(node)
    }

    /// Its number, from 1.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// Its name in the registry, `node-N`.
    #[must_use]
    pub fn name(&self) -> &str {
        self.host.name()
    }

    /// The node itself as an end of probes.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its network namespace.
    #[must_use]
    pub fn namespace(&self) -> &Arc<Namespace> {
        self.host.namespace()
    }

    /// Its pods, in order.
    #[must_use]
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// A pod by its number, from 1.
    ///
    /// # Panics
    /// When the topology has no such pod.
    #[must_use]
    pub fn pod(&self, number: u8) -> &Pod {
        &self.pods[usize::from(number) - 1]
    }

    /// Where its agent keeps its keys.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.folders.state
    }

    /// Loses all that its agent, which must not run, keeps on disk.
    ///
    /// # Errors
    /// The file system's.
    pub fn forget_state(&self) -> Result<()> {
        for entry in fs::read_dir(self.state_dir())? {
            let path = entry?.path();
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
        Ok(())
    }

    /// Where its agent's socket is.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.folders.run
    }

    /// The manifest as it was last written or is to be written.
    #[must_use]
    pub fn manifest(&self) -> Manifest {
        self.lock().manifest.clone()
    }

    /// Changes the manifest and writes it to the registry.
    ///
    /// # Errors
    /// The file system's.
    pub fn edit_manifest(&self, edit: impl FnOnce(&mut Manifest)) -> Result<()> {
        let mut state = self.lock();
        edit(&mut state.manifest);
        self.directory.apply(&state.manifest)
    }

    /// Deletes the node's manifest; [`Self::edit_manifest`] creates it again.
    ///
    /// # Errors
    /// The file system's.
    pub fn delete_manifest(&self) -> Result<()> {
        self.directory.delete(self.name())
    }

    /// Gives the node the address of node `number`, which must be free, in its own LAN, and
    /// writes it to the manifest.
    ///
    /// # Errors
    /// ip's or the file system's.
    pub fn change_address(&self, number: u8) -> Result<()> {
        let lan = self.topology.underlay.lan_of(self.number);
        let mut lines = vec!["address flush dev eth0 scope global".to_owned()];
        let mut addresses = Vec::new();
        for version in self.topology.underlay_family().versions() {
            let network = address::lan(lan, *version);
            let own = address::node(network, number);
            lines.push(address_line("eth0", own, network));
            lines.push(format!(
                "route replace default via {}",
                address::router(network)
            ));
            addresses.push(own);
        }
        self.namespace().ip(&lines)?;
        self.host.set_addresses(addresses.clone())?;
        self.edit_manifest(|manifest| manifest.addresses = addresses)
    }

    /// Moves the node's bridge and pods into the pod CIDRs with another number, and writes them
    /// to the manifest.
    ///
    /// # Errors
    /// ip's or the file system's.
    pub fn change_pod_cidrs(&self, number: u8) -> Result<()> {
        self.set_pod_cidrs(pod_cidrs(&self.topology, number))
    }

    /// Moves the node's bridge and pods into these pod CIDRs, such as a controller's, and writes
    /// them to the manifest.
    ///
    /// # Errors
    /// ip's or the file system's.
    pub fn set_pod_cidrs(&self, cidrs: Vec<IpNet>) -> Result<()> {
        // A controller may give those that it has: ip(8) would say that they are there.
        if self.manifest().pod_cidrs == cidrs {
            return Ok(());
        }
        let mut lines = vec!["address flush dev cni0 scope global".to_owned()];
        lines.extend(cidrs.iter().map(|cidr| bridge_line(*cidr)));
        self.namespace().ip(&lines)?;
        self.pods.iter().try_for_each(|pod| pod.configure(&cidrs))?;
        self.edit_manifest(|manifest| manifest.pod_cidrs = cidrs)
    }

    /// The node's link, where the topology made it a userspace link.
    ///
    /// # Errors
    /// Where it did not.
    pub fn link(&self) -> Result<&Link> {
        self.link
            .as_ref()
            .with_context(|| format!("{} has no userspace link", self.name()))
    }

    /// Sets the MTU of the node's own link, not of the underlay's end of it.
    ///
    /// # Errors
    /// ip's.
    pub fn set_mtu(&self, mtu: u16) -> Result<()> {
        self.link
            .as_ref()
            .map_or(Ok(()), |link| link.set_mtu(mtu))?;
        self.namespace().ip(&[format!("link set eth0 mtu {mtu}")])
    }

    fn make_links(
        &mut self,
        underlay: &Underlay,
        addresses: &[IpAddr],
        cidrs: &[IpNet],
    ) -> Result<()> {
        let mut lines = self.underlay_lines(underlay, addresses);
        if !self.topology.has_container_runtime {
            lines.extend(self.pod_lines(cidrs));
        }
        self.namespace().ip(&lines)?;
        let (mtu, own_port) = (underlay.mtu(), port(self.number));
        match &mut self.link {
            Some(link) => link.start(underlay.namespace(), &own_port, mtu),
            None => Ok(()),
        }
    }

    /// The lines of ip(8) that make the node's own link.
    fn underlay_lines(&self, underlay: &Underlay, addresses: &[IpAddr]) -> Vec<String> {
        let (mtu, own_port) = (underlay.mtu(), port(self.number));
        let (end, end_namespace) = match &self.link {
            Some(link) => (NODE_END, link.namespace().path()),
            None => (own_port.as_str(), underlay.namespace().path()),
        };
        let mut lines = vec![
            "link set lo up".to_owned(),
            format!(
                "link add eth0 mtu {mtu} type veth peer name {end} mtu {mtu} netns {}",
                end_namespace.display()
            ),
            "link set eth0 up".to_owned(),
        ];
        let lan = underlay.kind().lan_of(self.number);
        for own in addresses {
            let network = address::lan(lan, address::IpVersion::of(*own));
            lines.push(address_line("eth0", *own, network));
            lines.push(format!(
                "route add default via {}",
                address::router(network)
            ));
        }
        lines
    }

    /// The lines that make the bridge and the links of all pods.
    fn pod_lines(&self, cidrs: &[IpNet]) -> Vec<String> {
        let mut lines = vec![
            "link add cni0 type bridge".to_owned(),
            "link set cni0 up".to_owned(),
        ];
        lines.extend(cidrs.iter().map(|cidr| bridge_line(*cidr)));
        for pod in &self.pods {
            lines.extend(pod.link_lines(self.topology.pod_mtu));
        }
        lines
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pod_cidrs(topology: &Topology, number: u8) -> Vec<IpNet> {
    topology
        .family
        .versions()
        .iter()
        .map(|version| address::pod_cidr(number, *version))
        .collect()
}

fn bridge_line(cidr: IpNet) -> String {
    address_line("cni0", address::bridge(cidr), cidr)
}

fn prepare_node(namespace: &Namespace, topology: &Topology) -> Result<()> {
    let family = topology.whole_family();
    prepare(namespace, family)?;
    namespace.sysctl(&[
        ("ipv4/ip_forward", "1"),
        // What systemd sets on Debian and Ubuntu nodes.
        ("ipv4/conf/default/rp_filter", "2"),
    ])?;
    if family.has(address::IpVersion::V6) {
        namespace.sysctl(&[("ipv6/conf/all/forwarding", "1")])?;
    }
    Ok(())
}

/// Runs an action on every node, a few at a time, and returns the first error.
pub(crate) fn on_all(nodes: &[Node], action: impl Fn(&Node) -> Result<()> + Sync) -> Result<()> {
    /// More would only queue for the kernel's one lock over network configuration.
    const WORKERS: usize = 4;
    let share = nodes.len().div_ceil(WORKERS).max(1);
    thread::scope(|scope| {
        let workers: Vec<_> = nodes
            .chunks(share)
            .map(|nodes| scope.spawn(|| nodes.iter().try_for_each(&action)))
            .collect();
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}
