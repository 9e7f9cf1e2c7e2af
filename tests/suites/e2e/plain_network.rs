//! A network of pods without any mesh: a bridge on each node, and routes between nodes. It shows
//! what the cluster itself does.

use anyhow::{Context as _, Result};
use ipnet::IpNet;
use podwire_testbed::{Cluster, ClusterNode, IpVersion, Testbed, address};
use serde_json::json;

/// Where containerd looks for it.
const FILE: &str = "/etc/cni/net.d/10-plain.conflist";

/// Gives every node its routes, and its configuration by which it goes Ready.
pub(crate) fn connect(bed: &Testbed, cluster: &Cluster) -> Result<()> {
    // Pods of several nodes talk in the clear, and hosts with pods.
    bed.allow_plaintext();
    bed.allow_one_sided();
    for node in cluster.nodes() {
        route(bed, cluster, node.number())?;
    }
    for node in cluster.nodes() {
        configure(cluster, node)?;
    }
    Ok(())
}

/// Gives a node's kernel, which may have booted, what it needs.
pub(crate) fn route(bed: &Testbed, cluster: &Cluster, number: u8) -> Result<()> {
    let node = bed.node(number);
    let mut lines = Vec::new();
    for other in cluster.nodes() {
        if other.number() != number {
            lines.extend(routes_to(cluster, other)?);
        }
    }
    node.namespace().ip(&lines)?;
    let [pods4, pods6] = [IpVersion::V4, IpVersion::V6].map(address::cluster_cidr);
    // The API need not have a way to pods that ask it.
    node.namespace().nft(&format!(
        "table inet plain {{
           chain leaving {{
             type nat hook postrouting priority srcnat
             ip saddr {pods4} ip daddr != {pods4} masquerade
             ip6 saddr {pods6} ip6 daddr != {pods6} masquerade
           }}
         }}"
    ))
}

/// What leads to a node's pods from its neighbours, for `ip`.
pub(crate) fn routes_to(cluster: &Cluster, node: &ClusterNode) -> Result<Vec<String>> {
    let cidrs = cluster.plane().pod_cidrs(node.name())?;
    let routes = cidrs.iter().map(|cidr| {
        let version = IpVersion::of(cidr.addr());
        let mut addresses = node.addresses().iter();
        let gateway = addresses.find(|own| IpVersion::of(**own) == version);
        let gateway = gateway.context("a node has an address of each family")?;
        Ok(format!("route replace {cidr} via {gateway}"))
    });
    routes.collect()
}

/// Writes a node's CNI configuration.
pub(crate) fn configure(cluster: &Cluster, node: &ClusterNode) -> Result<()> {
    let cidrs = cluster.plane().pod_cidrs(node.name())?;
    let ranges: Vec<_> = cidrs
        .iter()
        .map(|c| json!([{"subnet": c.to_string()}]))
        .collect();
    let routes: Vec<_> = cidrs.iter().map(default_route).collect();
    let configuration = json!({
        "cniVersion": "1.0.0",
        "name": "plain",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                "ipam": {"type": "host-local", "ranges": ranges, "routes": routes},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    node.write(FILE, &configuration.to_string())
}

fn default_route(cidr: &IpNet) -> serde_json::Value {
    let all = match IpVersion::of(cidr.addr()) {
        IpVersion::V4 => "0.0.0.0/0",
        IpVersion::V6 => "::/0",
    };
    json!({"dst": all})
}
