//! What an agent keeps in the kernel of its node, and how soon it is back after damage.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::agent_view::{CONVERGENCE, peers, routes, rules};
use crate::node::Node;
use crate::until::until;

/// Settings of the device that the agent writes, below `/proc/sys/net`.
const SETTINGS: [&str; 3] = [
    "ipv4/conf/podwire0/rp_filter",
    "ipv4/conf/podwire0/forwarding",
    "ipv6/conf/podwire0/addr_gen_mode",
];

/// The testbed's underlay, and what WireGuard and the headers in front of it take of it.
const UNDERLAY_MTU: u32 = 1500;
const OVERHEAD_IPV4: u32 = 60;
const OVERHEAD_IPV6: u32 = 80;

/// Device, addresses, routes, rules and guard table of a node, in lines that change only when what
/// they stand for does: no index, no handle, no counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelState {
    lines: Vec<String>,
}

impl KernelState {
    /// What `ip`, `nft` and `/proc/sys` say now, or as soon as no table is being replaced.
    ///
    /// # Errors
    /// Also when there is no device or no table.
    pub fn of(node: &Node) -> Result<Self> {
        until(CONVERGENCE, "the guard table to be whole", || {
            guard_table(node)
        })?;
        Self::read(node)
    }

    fn read(node: &Node) -> Result<Self> {
        let mut lines = device(node)?;
        lines.extend(routes(node)?);
        lines.extend(rules(node)?);
        lines.extend(guard_table(node)?.lines().map(str::to_owned));
        Ok(Self { lines })
    }

    /// This state, with the endpoints that a node of two families uses now: a fault of one family
    /// leaves a lane on the other, and a route has the MTU that the larger header leaves.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn with_endpoints_of(&self, node: &Node) -> Result<Self> {
        let over = |header: u32| format!(" mtu {}", UNDERLAY_MTU - header);
        let (ipv4, ipv6) = (over(OVERHEAD_IPV4), over(OVERHEAD_IPV6));
        let peers = peers(node)?;
        let (smaller, others): (Vec<_>, Vec<_>) = peers.iter().partition(|peer| {
            let mut endpoints = peer.lane_endpoints.iter().flatten();
            endpoints.any(SocketAddr::is_ipv6)
        });
        let is_smaller = |line: &str| {
            let mut cidrs = smaller.iter().flat_map(|peer| &peer.pod_cidrs);
            cidrs.any(|cidr| line.starts_with(&format!("{cidr} ")))
                // The device has the largest of them.
                || others.is_empty() && line.starts_with("device ")
        };
        let with_endpoints = |line: &String| match is_smaller(line) {
            true => line.replace(&ipv4, &ipv6),
            false => line.clone(),
        };
        Ok(Self {
            lines: self.lines.iter().map(with_endpoints).collect(),
        })
    }

    /// That a node is in this state, or what of it is missing and what is there instead.
    ///
    /// # Errors
    /// The difference.
    pub fn is_that_of(&self, node: &Node) -> Result<()> {
        let now = Self::read(node)?;
        let missing = difference(&self.lines, &now.lines);
        let added = difference(&now.lines, &self.lines);
        ensure!(
            missing.is_empty() && added.is_empty() && *self == now,
            "{} has another state; missing: {missing:?}; there instead: {added:?}",
            node.name()
        );
        Ok(())
    }
}

/// The guard table as nft lists it, without its counters' values.
///
/// # Errors
/// Also while an agent replaces it: then it has no rules for some milliseconds, and a standby has.
pub fn guard_table(node: &Node) -> Result<String> {
    let arguments = ["-s", "list", "table", "inet", "podwire"];
    let table = node.namespace().output("nft", &arguments, "")?;
    let last = "counter name \"ingress_dropped\" drop";
    ensure!(table.contains(last), "no rules: {table}");
    let tables = node.namespace().output("nft", &["list", "tables"], "")?;
    ensure!(
        !tables.contains("podwire_"),
        "it is being replaced: {tables}"
    );
    Ok(table)
}

fn difference<'a>(one: &'a [String], other: &[String]) -> Vec<&'a String> {
    one.iter().filter(|line| !other.contains(line)).collect()
}

fn device(node: &Node) -> Result<Vec<String>> {
    let shown = ["-j", "address", "show", "dev", "podwire0"];
    let text = node.namespace().output("ip", &shown, "")?;
    let shown: Value = serde_json::from_str(&text)?;
    let link = &shown[0];
    let is_up = link["flags"]
        .as_array()
        .with_context(|| format!("no flags in {text}"))?
        .contains(&Value::from("UP"));
    let mut lines = vec![format!(
        "device up {is_up} mtu {} queue {}",
        link["mtu"], link["txqlen"]
    )];
    let mut addresses: Vec<_> = link["addr_info"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|info| format!("address {}/{}", info["local"], info["prefixlen"]))
        .collect();
    addresses.sort();
    lines.extend(addresses);
    let settings = node.namespace().run(|| {
        let read = |setting: &&str| {
            let path = format!("/proc/sys/net/{setting}");
            let value = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
            Ok(format!("{setting} {}", value.trim()))
        };
        SETTINGS.iter().map(read).collect::<Result<Vec<_>>>()
    })?;
    lines.extend(settings);
    Ok(lines)
}

/// How long a node takes, from the beginning of this damage, to be `whole` again.
///
/// # Errors
/// The damage's, and when the node is not whole within a generous deadline.
pub fn time_to_heal(
    node: &Node,
    whole: &KernelState,
    damage: impl FnOnce() -> Result<()>,
) -> Result<Duration> {
    let start = Instant::now();
    damage()?;
    until(CONVERGENCE, &format!("{} to be whole", node.name()), || {
        whole.is_that_of(node)
    })?;
    Ok(start.elapsed())
}
