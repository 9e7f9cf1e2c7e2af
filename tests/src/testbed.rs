//! A whole network, from the underlay to the pods, and what must be true of it at the end.

mod explain;
mod verdict;

use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::{fs, thread};

use anyhow::{Context as _, Result};
use tokio::runtime::{self, Runtime};

use crate::address::{self, IpVersion, NODES_MAX};
use crate::capture::Capture;
use crate::cookie::Cookie;
use crate::counter::{TcpCounter, UdpCounter};
use crate::echo::EchoServers;
use crate::host::Host;
use crate::impair::{self, Impairment, ImpairmentId};
use crate::matrix::Matrix;
use crate::node::{self, Node};
use crate::pod::Pod;
use crate::probe::{Probe, Protocol};
use crate::registry::Directory;
use crate::scratch::Scratch;
use crate::sender::Sender;
use crate::topology::Topology;
use crate::underlay::Underlay;
use verdict::Expectations;

/// Port 51880 of lane 0, and one more for each further lane; an agent has at most eight.
pub const WIREGUARD_PORTS: Range<u16> = 51880..51888;

/// Set to any value, it writes every testbed's underlay traffic beside its logs.
const PCAP_VARIABLE: &str = "PODWIRE_TESTBED_PCAP";

/// A running network. Dropping it ends every process and namespace of it.
#[derive(Debug)]
pub struct Testbed {
    name: String,
    topology: Topology,
    // Agents end before their network, and servers before their runtime: in this order.
    nodes: Vec<Node>,
    outside: Host,
    capture: Capture,
    underlay: Underlay,
    servers: EchoServers,
    directory: Directory,
    secret: Cookie,
    open: Cookie,
    impairments: AtomicU32,
    expectations: Mutex<Expectations>,
    scratch: Scratch,
    runtime: Option<Runtime>,
}

impl Testbed {
    pub(crate) fn start(name: &str, topology: &Topology) -> Result<Self> {
        let scratch = Scratch::new().context("making a folder in memory")?;
        let folder = scratch.path();
        let directory = Directory::create(folder.join("registry"))?;
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("servers")
            .enable_all()
            .build()?;
        let servers = EchoServers::new(&runtime);
        let underlay = Underlay::new(topology.underlay, topology.underlay_family(), topology.mtu)?;
        let secret = Cookie::random();
        let capture = start_capture(&underlay, &secret)?;
        fs::create_dir_all(folder.join("logs"))?;
        if std::env::var_os(PCAP_VARIABLE).is_some() {
            capture.record(&folder.join("logs/underlay.pcap"))?;
        }
        let outside = Host::new(Arc::clone(underlay.outside()), &servers);
        let versions = topology.underlay_family().versions();
        outside.set_addresses(versions.iter().map(|v| address::outside_host(*v)).collect())?;
        let numbers: Vec<u8> = (1..=topology.nodes).collect();
        let nodes = make_nodes(&numbers, topology, &underlay, &servers, &directory, &folder)?;
        Ok(Self {
            name: name.to_owned(),
            topology: topology.clone(),
            nodes,
            outside,
            capture,
            underlay,
            servers,
            directory,
            secret,
            open: Cookie::random(),
            impairments: AtomicU32::new(0),
            expectations: Mutex::new(Expectations::none()),
            scratch,
            runtime: Some(runtime),
        })
    }

    /// What it was made from.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// All nodes, in order.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node by its number, from 1.
    ///
    /// # Panics
    /// When the topology has no such node.
    #[must_use]
    pub fn node(&self, number: u8) -> &Node {
        &self.nodes[usize::from(number) - 1]
    }

    /// A pod by its node's number and its own, from 1.
    ///
    /// # Panics
    /// When the topology has no such pod.
    #[must_use]
    pub fn pod(&self, node: u8, pod: u8) -> &Pod {
        self.node(node).pod(pod)
    }

    /// All pods, node by node.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.nodes.iter().flat_map(Node::pods)
    }

    /// The host outside the cluster.
    #[must_use]
    pub fn outside(&self) -> &Host {
        &self.outside
    }

    /// The network between nodes.
    #[must_use]
    pub fn underlay(&self) -> &Underlay {
        &self.underlay
    }

    /// The capture of the underlay.
    #[must_use]
    pub fn capture(&self) -> &Capture {
        &self.capture
    }

    /// The registry that agents read.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The cookie of payloads that nobody on the underlay may see.
    #[must_use]
    pub fn secret(&self) -> &Cookie {
        &self.secret
    }

    /// A folder in memory for whatever a test needs; gone with the testbed.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.scratch.path()
    }

    /// Writes every manifest, starts every agent and waits until all are ready.
    ///
    /// # Errors
    /// The first agent's that is not.
    pub fn start_agents(&self) -> Result<()> {
        for node in &self.nodes {
            node.edit_manifest(|_| ())?;
        }
        node::on_all(&self.nodes, Node::start_agent)?;
        self.nodes.iter().try_for_each(Node::wait_ready)
    }

    /// A question from a host to an address. What goes to a pod carries the secret cookie;
    /// anything else is sent in the clear by design and carries one that nobody searches for.
    #[must_use]
    pub fn probe<'a>(&self, from: &'a Host, protocol: Protocol, target: IpAddr) -> Probe<'a> {
        let cookie = self.cookie_for(target).clone();
        Probe::new(
            from.namespace(),
            protocol,
            target,
            cookie,
            self.servers.witness().clone(),
        )
    }

    /// Starts to count messages over one TCP connection to a pod's or node's address.
    ///
    /// # Errors
    /// When the connection cannot be made.
    pub fn tcp_counter(&self, from: &Host, target: IpAddr, per_second: u32) -> Result<TcpCounter> {
        let cookie = self.cookie_for(target);
        TcpCounter::start(self.runtime(), from.namespace(), target, per_second, cookie)
    }

    /// Starts to count datagrams from one host to another.
    ///
    /// # Errors
    /// The kernel's.
    pub fn udp_counter(
        &self,
        from: &Host,
        to: &Host,
        version: IpVersion,
        per_second: u32,
    ) -> Result<UdpCounter> {
        let target = to.address(version)?;
        let cookie = self.cookie_for(target);
        let (from, to) = (from.namespace(), to.namespace());
        UdpCounter::start(self.runtime(), from, to, target, per_second, cookie)
    }

    /// Starts to send to pods' addresses, whatever becomes of it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn sender(
        &self,
        from: &Host,
        targets: &[IpAddr],
        protocols: &[Protocol],
        per_second: u32,
    ) -> Result<Sender> {
        Sender::start(
            from.namespace(),
            targets,
            protocols,
            per_second,
            &self.secret,
        )
    }

    /// Every pod to every other pod.
    #[must_use]
    pub fn matrix(&self) -> Matrix<'_> {
        Matrix::new(self)
    }

    /// Puts an impairment of the underlay in force.
    ///
    /// # Errors
    /// nft's.
    pub fn impair(&self, impairment: &Impairment) -> Result<ImpairmentId> {
        let number = self.impairments.fetch_add(1, Ordering::Relaxed);
        let destinations = impairment.target().map_or_else(Vec::new, |target| {
            let manifest = self.node(target).manifest();
            let mut networks = manifest.pod_cidrs;
            networks.extend(impair::single(&manifest.addresses));
            networks
        });
        impair::add(self.underlay.namespace(), number, impairment, &destinations)
    }

    /// Ends an impairment.
    ///
    /// # Errors
    /// nft's.
    pub fn heal(&self, id: ImpairmentId) -> Result<()> {
        impair::remove(self.underlay.namespace(), id)
    }

    /// How many packets an impairment has dropped.
    ///
    /// # Errors
    /// nft's.
    pub fn dropped_by(&self, id: ImpairmentId) -> Result<u64> {
        impair::dropped(self.underlay.namespace(), id)
    }

    /// Changes the MTU of every underlay link, both ends.
    ///
    /// # Errors
    /// ip's.
    pub fn set_mtu(&self, mtu: u16) -> Result<()> {
        self.underlay.set_mtu(mtu)?;
        self.nodes.iter().try_for_each(|node| node.set_mtu(mtu))
    }

    /// Takes a node's power away and boots it: what its disk holds is left, and its link. Its agent
    /// is not running, and it has no pods until [`Node::create_pods`].
    ///
    /// # Errors
    /// The kernel's and ip's.
    pub fn reboot(&self, node: u8) -> Result<()> {
        self.node(node).reboot(&self.underlay)
    }

    fn cookie_for(&self, target: IpAddr) -> &Cookie {
        let is_pod = address::cluster_cidr(IpVersion::of(target)).contains(&target);
        if is_pod { &self.secret } else { &self.open }
    }

    fn runtime(&self) -> &runtime::Handle {
        self.runtime
            .as_ref()
            .expect("only dropping takes it")
            .handle()
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        self.nodes.clear();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn start_capture(underlay: &Underlay, secret: &Cookie) -> Result<Capture> {
    let bridges = underlay.bridges();
    let bridges: Vec<_> = bridges.iter().map(String::as_str).collect();
    let cidrs = [IpVersion::V4, IpVersion::V6]
        .map(address::cluster_cidr)
        .to_vec();
    let capture = Capture::start(underlay.namespace(), &bridges, cidrs, WIREGUARD_PORTS)?;
    capture.search_for(secret);
    Ok(capture)
}

/// Makes nodes a few at a time, then plugs them all in.
fn make_nodes(
    numbers: &[u8],
    topology: &Topology,
    underlay: &Underlay,
    servers: &EchoServers,
    directory: &Directory,
    folder: &Path,
) -> Result<Vec<Node>> {
    debug_assert!(numbers.len() <= usize::from(NODES_MAX));
    /// More would only queue for the kernel's one lock over network configuration.
    const WORKERS: usize = 4;
    let share = numbers.len().div_ceil(WORKERS).max(1);
    let made: Vec<Result<Node>> = thread::scope(|scope| {
        let workers: Vec<_> = numbers
            .chunks(share)
            .map(|numbers| {
                scope.spawn(move || {
                    let make = |number: &u8| {
                        Node::new(*number, topology, underlay, servers, directory, folder)
                    };
                    numbers.iter().map(make).collect::<Vec<_>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| {
                worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });
    let nodes = made.into_iter().collect::<Result<Vec<_>>>()?;
    underlay.attach(numbers)?;
    Ok(nodes)
}
