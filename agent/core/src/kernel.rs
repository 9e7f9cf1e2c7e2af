//! The kernel state that Podwire owns on a node, as a value: what is observed, what is desired, and
//! the changes from one to the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// The protocol number of every route and policy rule that is ours; no other is ever changed or
/// removed.
pub const ROUTE_PROTOCOL: u8 = 119;

/// Number of a route table of our own, so that no route of others wins over ours, whatever its
/// prefix and metric.
pub const TABLE_PEERS: u32 = 119;

/// The number of the main route table (`RT_TABLE_MAIN`).
pub const TABLE_MAIN: u32 = 254;

/// Priority of the first of our policy rules; the others follow it. Before what others usually
/// have, after the few that put themselves first on purpose.
pub const RULE_PRIORITY: u32 = 119;

/// Metric of the routes that carry traffic.
pub const METRIC: u32 = 1024;

/// Metric of the `unreachable` guard routes: worse than any route that carries traffic.
pub const METRIC_UNREACHABLE: u32 = 4_000_000;

/// How the underlay reaches an address, as the kernel answers for it (`ip route get`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Name of the link by which packets leave.
    pub link: String,
    /// Index of that link.
    pub link_index: u32,
    /// Whether the address is a neighbour, with no router in between.
    pub on_link: bool,
    /// Path MTU in bytes: the link's, or less where the kernel has learnt so.
    pub mtu: u32,
    /// Whether the data plane has found its peer at this address. The kernel does not know that.
    pub in_use: bool,
}

/// The observed underlay: the path to each node address that the mesh names. An address to which
/// the kernel has no route is absent.
pub type Underlay = BTreeMap<IpAddr, Path>;

/// The part of the kernel's state that is ours: observed and desired have the same shape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// The TUN device.
    pub device: Option<Device>,
    /// Addresses on the device, `/32` and `/128`.
    pub addresses: BTreeSet<IpNet>,
    /// Routes of protocol 119, by what the kernel tells them apart by.
    pub routes: BTreeMap<RouteKey, RouteAction>,
    /// Policy rules of protocol 119.
    pub rules: BTreeSet<Rule>,
    /// The table `inet podwire`.
    pub guard: Guard,
}

/// The settings of the TUN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Packets that the device queues while its readers are busy.
    pub transmit_queue_length: u32,
    /// Whether the settings that never differ are in place: loose reverse path filter, forwarding,
    /// no link-local address.
    pub fixed_settings: bool,
}

/// A policy rule (`ip rule`) for what goes to a prefix. In this order they are asked: own pods are
/// looked up where their links' routes are, the peers' in the table where nobody else's routes are,
/// and what is not found there goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// What it does.
    pub action: RuleAction,
    /// `to`.
    pub destination: IpNet,
}

/// What a policy rule of ours does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleAction {
    /// Own pods: `lookup main`.
    LookupMain,
    /// The cluster's pods: `lookup 119`.
    LookupPeers,
    /// What is left of the cluster's pods: `unreachable`.
    Refuse,
}

impl RuleAction {
    /// All of them, in the order in which they are asked.
    pub const ALL: [Self; 3] = [Self::LookupMain, Self::LookupPeers, Self::Refuse];

    /// The priority of the rule: lower is asked first.
    #[must_use]
    pub const fn priority(self) -> u32 {
        RULE_PRIORITY
            + match self {
                Self::LookupMain => 0,
                Self::LookupPeers => 1,
                Self::Refuse => 2,
            }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let priority = self.action.priority();
        write!(f, "rule {priority} to {}", self.destination)
    }
}

/// The route tables that ours are in. The routes to peers are in both: the rules lead to the one
/// that is our own, and where somebody has taken the rules away, or put `lookup main` before them
/// (wg-quick does), the other leads the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// The one that everybody uses.
    Main,
    /// [`TABLE_PEERS`].
    Peers,
}

impl Table {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Main, Self::Peers];

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Main => TABLE_MAIN,
            Self::Peers => TABLE_PEERS,
        }
    }
}

/// What the kernel tells two routes apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    /// The table that it is in.
    pub table: Table,
    /// Destination prefix.
    pub destination: IpNet,
    /// Metric (priority); lower wins.
    pub metric: u32,
}

impl RouteKey {
    /// The key of a peer's route, which carries traffic.
    #[must_use]
    pub const fn peer(table: Table, destination: IpNet) -> Self {
        Self {
            table,
            destination,
            metric: METRIC,
        }
    }

    /// The key of an `unreachable` guard route.
    #[must_use]
    pub const fn cover(destination: IpNet) -> Self {
        Self {
            table: Table::Main,
            destination,
            metric: METRIC_UNREACHABLE,
        }
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} metric {}", self.destination, self.metric)?;
        match self.table {
            Table::Main => Ok(()),
            Table::Peers => write!(f, " in table {TABLE_PEERS}"),
        }
    }
}

/// What a route does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteAction {
    /// Into the device, for an encrypted peer.
    Device {
        /// Source address that the node itself uses.
        source: IpAddr,
        /// Inner MTU in bytes: path MTU less WireGuard's overhead.
        mtu: u32,
    },
    /// Straight to a host-network peer on the same link.
    Via {
        /// The peer's node address.
        gateway: IpAddr,
        /// Index of the underlay link.
        link_index: u32,
    },
    /// Guard: ICMP unreachable.
    Unreachable,
}

/// The guard table as observed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Guard {
    /// No table of ours, or none with rules.
    #[default]
    Missing,
    /// A table of ours with contents that nobody vouches for: somebody changed it, or a predecessor
    /// left it.
    Altered,
    /// Exactly this table.
    Installed(GuardTable),
}

/// The contents of the nftables table `inet podwire` (DESIGN.md section 7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardTable {
    /// Name of the TUN device, by which pod traffic may cross nodes; `None` where no device is to
    /// be used: one of that name would be somebody else's.
    pub device: Option<String>,
    /// The cluster's pod CIDRs: no packet to or from them crosses nodes outside the device.
    pub cluster_cidrs: BTreeSet<IpNet>,
    /// Own pod CIDRs: the local pods.
    pub own_cidrs: BTreeSet<IpNet>,
    /// Pod CIDRs of declared host-network peers, which may pass in plaintext.
    pub host_network_cidrs: BTreeSet<IpNet>,
    /// Names of the links that lead to other machines: a packet for an own pod never leaves by one.
    pub underlay_links: BTreeSet<String>,
}

/// One step from the observed to the desired state. Applied in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Replace the whole table; one that is in force guards until this one does.
    InstallGuard(GuardTable),
    /// Create the TUN device (persistent), or attach to the one that exists.
    CreateDevice,
    /// Set MTU, queue length and state of the device.
    SetDevice(Device),
    /// Add an address to the device.
    AddAddress(IpNet),
    /// Remove an address of the device.
    RemoveAddress(IpNet),
    /// Add a route, or replace the one of ours that has its key.
    SetRoute(RouteKey, RouteAction),
    /// Remove a route of ours.
    RemoveRoute(RouteKey, RouteAction),
    /// Add a policy rule.
    AddRule(Rule),
    /// Remove a policy rule of ours.
    RemoveRule(Rule),
}
