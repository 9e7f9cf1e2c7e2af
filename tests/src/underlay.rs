//! The network between nodes: one LAN, or two behind a router, and a host outside.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::address::{self, Family, IpVersion};
use crate::namespace::Namespace;

/// How nodes reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnderlayKind {
    /// Every node is on-link for every other.
    OneLan,
    /// Odd nodes are in LAN 0 and even ones in LAN 1; a router is between.
    TwoLans,
}

impl UnderlayKind {
    pub(crate) fn lans(self) -> u8 {
        match self {
            Self::OneLan => 1,
            Self::TwoLans => 2,
        }
    }

    /// The LAN of a node.
    #[must_use]
    pub fn lan_of(self, node: u8) -> u8 {
        match self {
            Self::OneLan => 0,
            Self::TwoLans => 1 - node % 2,
        }
    }
}

/// The link from the underlay to the host outside.
const OUTSIDE_LINK: &str = "outside";

/// The namespace that has the LANs' bridges and is the router between them, and to the outside.
#[derive(Debug)]
pub struct Underlay {
    namespace: Arc<Namespace>,
    outside: Arc<Namespace>,
    kind: UnderlayKind,
    family: Family,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    mtu: u16,
    ports: Vec<u8>,
}

impl Underlay {
    pub(crate) fn new(kind: UnderlayKind, family: Family, mtu: u16) -> Result<Self> {
        let namespace = Arc::new(Namespace::new("underlay")?);
        let outside = Arc::new(Namespace::new("outside")?);
        prepare(&namespace, family)?;
        prepare(&outside, family)?;
        namespace.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        let underlay = Self {
            namespace,
            outside,
            kind,
            family,
            state: Mutex::new(State {
                mtu,
                ports: Vec::new(),
            }),
        };
        underlay.make_links(mtu)?;
        Ok(underlay)
    }

    /// The router's namespace, which also has all bridges.
    #[must_use]
    pub fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// The namespace of the host outside.
    #[must_use]
    pub fn outside(&self) -> &Arc<Namespace> {
        &self.outside
    }

    /// One LAN or two.
    #[must_use]
    pub fn kind(&self) -> UnderlayKind {
        self.kind
    }

    /// The versions that the underlay speaks.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// Names of the bridges: a capture of the ports leaves them out.
    pub(crate) fn bridges(&self) -> Vec<String> {
        (0..self.kind.lans()).map(bridge).collect()
    }

    pub(crate) fn mtu(&self) -> u16 {
        self.lock().mtu
    }

    /// Plugs nodes' links, which their owners made, into their LANs; one that was there before
    /// comes back.
    pub(crate) fn attach(&self, nodes: &[u8]) -> Result<()> {
        let mut state = self.lock();
        let lines: Vec<_> = nodes
            .iter()
            .map(|node| {
                let lan = bridge(self.kind.lan_of(*node));
                format!("link set {} master {lan} up", port(*node))
            })
            .collect();
        self.namespace.ip(&lines)?;
        state.ports.retain(|port| !nodes.contains(port));
        state.ports.extend(nodes);
        // A bridge takes the least MTU of its ports until it is told one.
        self.set_bridges(state.mtu)
    }

    /// Takes a node's cable out of its switch, or plugs it in again: addresses and routes stay.
    ///
    /// # Errors
    /// ip's.
    pub fn set_plugged(&self, node: u8, is_plugged: bool) -> Result<()> {
        let state = if is_plugged { "up" } else { "down" };
        self.namespace
            .ip(&[format!("link set {} {state}", port(node))])
    }

    /// Sets the MTU of every link's underlay end; nodes set theirs.
    pub(crate) fn set_mtu(&self, mtu: u16) -> Result<()> {
        let mut state = self.lock();
        state.mtu = mtu;
        self.set_ports(&state.ports, mtu)?;
        self.set_bridges(mtu)?;
        self.namespace
            .ip(&[format!("link set {OUTSIDE_LINK} mtu {mtu}")])?;
        self.outside.ip(&[format!("link set eth0 mtu {mtu}")])
    }

    /// Makes the way between nodes narrower than their links. Between two LANs the router then
    /// answers with ICMP "too big"; inside one LAN frames that are too long vanish, as on a
    /// switch that is set up wrongly; but super-frames pass there, whatever their segments' size.
    /// The links' MTU undoes it.
    ///
    /// # Errors
    /// When `mtu` is more than the links'.
    pub fn narrow_path(&self, mtu: u16) -> Result<()> {
        let state = self.lock();
        ensure!(
            mtu <= state.mtu,
            "a path of {mtu} bytes over links of {}",
            state.mtu
        );
        match self.kind {
            UnderlayKind::OneLan => self.set_ports(&state.ports, mtu),
            UnderlayKind::TwoLans => self.set_bridges(mtu),
        }
    }

    fn make_links(&self, mtu: u16) -> Result<()> {
        let outside = self.outside.path();
        let mut router = vec!["link set lo up".to_owned()];
        for lan in 0..self.kind.lans() {
            let name = bridge(lan);
            // Snooping without a querier would lose neighbour solicitations after a while.
            router.push(format!("link add {name} type bridge mcast_snooping 0"));
            for version in self.family.versions() {
                let network = address::lan(lan, *version);
                router.push(address_line(&name, address::router(network), network));
            }
            router.push(format!("link set {name} up"));
        }
        router.push(format!(
            "link add {OUTSIDE_LINK} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}",
            outside.display()
        ));
        let mut host = vec!["link set lo up".to_owned(), "link set eth0 up".to_owned()];
        for version in self.family.versions() {
            let network = address::outside(*version);
            let gateway = address::outside_router(*version);
            router.push(address_line(OUTSIDE_LINK, gateway, network));
            host.push(address_line(
                "eth0",
                address::outside_host(*version),
                network,
            ));
        }
        router.push(format!("link set {OUTSIDE_LINK} up"));
        for version in self.family.versions() {
            host.push(format!(
                "route add default via {}",
                address::outside_router(*version)
            ));
        }
        self.namespace.ip(&router)?;
        self.outside.ip(&host)
    }

    fn set_ports(&self, ports: &[u8], mtu: u16) -> Result<()> {
        let lines: Vec<_> = ports
            .iter()
            .map(|node| format!("link set {} mtu {mtu}", port(*node)))
            .collect();
        self.namespace.ip(&lines)
    }

    fn set_bridges(&self, mtu: u16) -> Result<()> {
        let lines: Vec<_> = self
            .bridges()
            .iter()
            .map(|name| format!("link set {name} mtu {mtu}"))
            .collect();
        self.namespace.ip(&lines)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The underlay's end of a node's link.
pub(crate) fn port(node: u8) -> String {
    format!("node{node}")
}

fn bridge(lan: u8) -> String {
    format!("lan{lan}")
}

/// `ip address add`, usable at once: no duplicate address detection.
pub(crate) fn address_line(
    interface: &str,
    address: std::net::IpAddr,
    network: ipnet::IpNet,
) -> String {
    let address = address::with_prefix(address, network);
    let nodad = if network.addr().is_ipv6() {
        " nodad"
    } else {
        ""
    };
    format!("address add {address} dev {interface}{nodad}")
}

/// What every namespace of a testbed has before its first interface.
pub(crate) fn prepare(namespace: &Namespace, family: Family) -> Result<()> {
    namespace.sysctl(&[
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        // IPv4 settings are inherited from the machine, which may filter by reverse path.
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        // The probes' unprivileged ICMP sockets.
        ("ipv4/ping_group_range", "0 0"),
    ])?;
    if !family.has(IpVersion::V6) {
        namespace.sysctl(&[
            ("ipv6/conf/all/disable_ipv6", "1"),
            ("ipv6/conf/default/disable_ipv6", "1"),
        ])?;
    }
    Ok(())
}
