//! What a testbed consists of, written as a scenario reads.

use std::path::PathBuf;

use serde::Serialize;

use crate::address::{Family, NODES_MAX, PODS_MAX};
use crate::testbed::Testbed;
use crate::underlay::UnderlayKind;

/// Ethernet's MTU.
const DEFAULT_MTU: u16 = 1500;

/// A description of nodes, pods and the network between them.
///
/// ```no_run
/// # use podwire_testbed::{Family, Topology, UnderlayKind};
/// let bed = Topology::new()
///     .nodes(3)
///     .pods_per_node(2)
///     .family(Family::Dual)
///     .underlay(UnderlayKind::TwoLans)
///     .mtu(1400)
///     .start("a scenario")?;
/// # anyhow::Ok(())
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct Topology {
    pub(crate) nodes: u8,
    pub(crate) pods_per_node: u8,
    pub(crate) family: Family,
    underlay_family: Option<Family>,
    pub(crate) underlay: UnderlayKind,
    pub(crate) mtu: u16,
    pub(crate) pod_mtu: u16,
    pub(crate) has_container_runtime: bool,
    without_tun: Vec<u8>,
    userspace_links: Vec<u8>,
    pub(crate) agent_program: Option<PathBuf>,
    pub(crate) agent_arguments: Vec<String>,
}

impl Default for Topology {
    fn default() -> Self {
        Self::new()
    }
}

impl Topology {
    /// Three dual-stack nodes of two pods each in one LAN of MTU 1500, without agents.
    #[must_use]
    pub fn new() -> Self {
        Self {
            nodes: 3,
            pods_per_node: 2,
            family: Family::Dual,
            underlay_family: None,
            underlay: UnderlayKind::OneLan,
            mtu: DEFAULT_MTU,
            pod_mtu: DEFAULT_MTU,
            has_container_runtime: false,
            without_tun: Vec::new(),
            userspace_links: Vec::new(),
            agent_program: None,
            agent_arguments: Vec::new(),
        }
    }

    /// How many nodes.
    ///
    /// # Panics
    /// Above [`NODES_MAX`].
    #[must_use]
    pub fn nodes(mut self, nodes: u8) -> Self {
        assert!(
            nodes <= NODES_MAX,
            "the addressing plan has room for {NODES_MAX} nodes"
        );
        self.nodes = nodes;
        self
    }

    /// How many pods each node has.
    ///
    /// # Panics
    /// Above [`PODS_MAX`].
    #[must_use]
    pub fn pods_per_node(mut self, pods: u8) -> Self {
        assert!(
            pods <= PODS_MAX,
            "the addressing plan has room for {PODS_MAX} pods a node"
        );
        self.pods_per_node = pods;
        self
    }

    /// The versions of pods, and of the underlay unless that is told otherwise.
    #[must_use]
    pub fn family(mut self, family: Family) -> Self {
        self.family = family;
        self
    }

    /// The versions of the underlay alone.
    #[must_use]
    pub fn underlay_family_only(mut self, family: Family) -> Self {
        self.underlay_family = Some(family);
        self
    }

    /// One LAN or two.
    #[must_use]
    pub fn underlay(mut self, kind: UnderlayKind) -> Self {
        self.underlay = kind;
        self
    }

    /// The MTU of every underlay link.
    #[must_use]
    pub fn mtu(mut self, mtu: u16) -> Self {
        self.mtu = mtu;
        self
    }

    /// The MTU of the links between pods and their node.
    #[must_use]
    pub fn pod_mtu(mut self, mtu: u16) -> Self {
        self.pod_mtu = mtu;
        self
    }

    /// Pods, and the bridge to them, are a container runtime's: nodes have none to begin with.
    #[must_use]
    pub fn container_runtime(mut self) -> Self {
        self.has_container_runtime = true;
        self.pods_per_node = 0;
        self
    }

    /// Agents of this node see no `/dev/net/tun`.
    #[must_use]
    pub fn without_tun(mut self, node: u8) -> Self {
        self.without_tun.push(node);
        self
    }

    /// This node's link can delay, reorder and duplicate: see [`crate::Node::link`]. It is slower.
    #[must_use]
    pub fn userspace_link(mut self, node: u8) -> Self {
        self.userspace_links.push(node);
        self
    }

    /// The program that is a node's agent; see [`crate::binaries::agent`].
    #[must_use]
    pub fn agent(mut self, program: impl Into<PathBuf>) -> Self {
        self.agent_program = Some(program.into());
        self
    }

    /// Further arguments of every agent, such as `["--lanes", "2"]`.
    #[must_use]
    pub fn agent_arguments(mut self, arguments: &[&str]) -> Self {
        self.agent_arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
        self
    }

    /// Makes it all, without starting agents. `name` is for messages and for the folder of logs.
    ///
    /// # Errors
    /// ip's, nft's and the kernel's.
    pub fn start(&self, name: &str) -> anyhow::Result<Testbed> {
        Testbed::start(name, self)
    }

    pub(crate) fn underlay_family(&self) -> Family {
        self.underlay_family.unwrap_or(self.family)
    }

    /// What a node needs: the pods' versions and the underlay's.
    pub(crate) fn whole_family(&self) -> Family {
        if self.family == self.underlay_family() {
            self.family
        } else {
            Family::Dual
        }
    }

    pub(crate) fn has_userspace_link(&self, node: u8) -> bool {
        self.userspace_links.contains(&node)
    }

    pub(crate) fn has_tun(&self, node: u8) -> bool {
        !self.without_tun.contains(&node)
    }
}
