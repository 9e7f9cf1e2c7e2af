//! What an agent has made of its node's kernel, and nothing that differs when it is made anew:
//! equal to an earlier one, it is all there again, and nothing is there twice.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::Node;

/// Routes of all protocols, the table, the device: as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelState {
    routes: Vec<String>,
    table: Vec<String>,
    device: Vec<String>,
}

impl KernelState {
    /// The state of a node now.
    ///
    /// # Errors
    /// When a part of it is not there.
    pub fn of(node: &Node) -> Result<Self> {
        let lines = |program: &str, arguments: &[&str]| -> Result<Vec<String>> {
            let text = node.namespace().output(program, arguments, "")?;
            Ok(text.lines().map(|line| line.trim().to_owned()).collect())
        };
        let mut routes = lines("ip", &["-4", "route", "show", "table", "main"])?;
        routes.extend(lines("ip", &["-6", "route", "show", "table", "main"])?);
        // A device without an agent has no carrier, and keeps its routes.
        for route in &mut routes {
            *route = route.replace(" linkdown", "");
        }
        routes.sort();
        let mut table = lines("nft", &["list", "table", "inet", "podwire"])?;
        // Counters count.
        table.retain(|line| !line.starts_with("packets "));
        Ok(Self {
            routes,
            table,
            device: device(node)?,
        })
    }

    /// Whether a node is in this state, neither less nor more.
    ///
    /// # Errors
    /// What differs.
    pub fn is_kept(&self, node: &Node) -> Result<()> {
        let now = Self::of(node)?;
        for (what, before, after) in [
            ("routes", &self.routes, &now.routes),
            ("table", &self.table, &now.table),
            ("device", &self.device, &now.device),
        ] {
            let missing: Vec<_> = before.iter().filter(|l| !after.contains(l)).collect();
            let more: Vec<_> = after.iter().filter(|l| !before.contains(l)).collect();
            ensure!(
                before == after,
                "{what} of {}: missing {missing:#?}, more {more:#?} ({} lines, then {})",
                node.name(),
                before.len(),
                after.len()
            );
        }
        Ok(())
    }
}

/// Settings and addresses of the device.
fn device(node: &Node) -> Result<Vec<String>> {
    let arguments = ["-j", "-d", "address", "show", "podwire0"];
    let text = node.namespace().output("ip", &arguments, "")?;
    let links: Value = serde_json::from_str(&text)?;
    let link = &links[0];
    let mut lines: Vec<_> = ["flags", "mtu", "txqlen", "inet6_addr_gen_mode"]
        .iter()
        .map(|field| format!("{field} {}", link[field]))
        .collect();
    let addresses = link["addr_info"].as_array().into_iter().flatten();
    lines.extend(addresses.map(|info| format!("{}/{}", info["local"], info["prefixlen"])));
    for setting in ["forwarding", "rp_filter"] {
        let path = format!("/proc/sys/net/ipv4/conf/podwire0/{setting}");
        let value = node.namespace().run(|| fs::read_to_string(&path))?;
        lines.push(format!("{setting} {}", value.trim()));
    }
    Ok(lines)
}
