//! What the kernel carries by itself: no process, no time of one.

use std::fmt;

use anyhow::{Context as _, Result};
use podwire_testbed::Node;
use podwire_testbed::wireguard_daemon::PORT;

use super::wireguard::{peers, secrets};
use super::{Contestant, Counter, TUNNEL_MTU, VXLAN_MTU, node_address, pods_of};

/// What this kernel was built without, or whose module is not there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NotInKernel(&'static str);

impl fmt::Display for NotInKernel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "this kernel has no {}", self.0)
    }
}

/// Host routes to every other node's pods.
pub(super) fn plain(contestant: &mut Contestant) -> Result<()> {
    let nodes = contestant.bed.nodes();
    contestant.bed.allow_plaintext();
    for node in nodes {
        let lines = others(nodes, node)
            .map(|other| {
                let gateway = node_address(other)?;
                Ok(format!("route add {} via {gateway}", pods_of(other)))
            })
            .collect::<Result<Vec<_>>>()?;
        node.namespace().ip(&lines)?;
    }
    contestant.counters = devices(nodes, |_| "eth0".to_owned());
    Ok(())
}

/// As flannel sets it up: fixed neighbours and forwarding entries, nothing learnt.
pub(super) fn vxlan(contestant: &mut Contestant) -> Result<()> {
    let nodes = contestant.bed.nodes();
    for node in nodes {
        let own = node_address(node)?;
        let mut lines = vec![
            format!(
                "link add vx0 mtu {VXLAN_MTU} address {} type vxlan id 1 dstport 4789 local {own} \
                 dev eth0 nolearning",
                link_address(node)
            ),
            format!("address add {}/32 dev vx0", endpoint(node)),
            "link set vx0 up".to_owned(),
        ];
        for other in others(nodes, node) {
            let (link, inner) = (link_address(other), endpoint(other));
            lines.push(format!(
                "neighbour add {inner} lladdr {link} dev vx0 nud permanent"
            ));
            lines.push(format!(
                "route add {} via {inner} dev vx0 onlink",
                pods_of(other)
            ));
        }
        node.namespace().ip(&lines).context(NotInKernel("vxlan"))?;
        for other in others(nodes, node) {
            let (link, outer) = (link_address(other), node_address(other)?.to_string());
            let entry = ["fdb", "append", &link, "dev", "vx0", "dst", &outer];
            node.namespace().output("bridge", &entry, "")?;
        }
    }
    contestant.counters = devices(nodes, |_| "vx0".to_owned());
    Ok(())
}

/// The kernel's own WireGuard, configured by `wg`.
pub(super) fn wireguard(contestant: &mut Contestant) -> Result<()> {
    let nodes = contestant.bed.nodes();
    let secrets = secrets(nodes)?;
    for (index, node) in nodes.iter().enumerate() {
        node.namespace()
            .ip(&[format!("link add wg0 mtu {TUNNEL_MTU} type wireguard")])
            .context(NotInKernel("WireGuard"))?;
        let mut settings = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n",
            base64(&secrets[index].to_bytes())
        );
        let mut lines = vec!["link set wg0 up".to_owned()];
        for peer in peers(nodes, &secrets, index)? {
            let networks: Vec<_> = peer.allowed_ips.iter().map(ToString::to_string).collect();
            let endpoint = peer.endpoint.context("these peers are told theirs")?;
            settings.push_str(&format!(
                "[Peer]\nPublicKey = {}\nEndpoint = {endpoint}\nAllowedIPs = {}\n",
                base64(&peer.public_key),
                networks.join(", ")
            ));
            let routes = networks
                .iter()
                .map(|network| format!("route add {network} dev wg0"));
            lines.extend(routes);
        }
        node.namespace()
            .output("wg", &["setconf", "wg0", "/dev/stdin"], &settings)
            .context("it takes the package wireguard-tools")?;
        node.namespace().ip(&lines)?;
    }
    contestant.counters = devices(nodes, |_| "wg0".to_owned());
    Ok(())
}

fn others<'a>(nodes: &'a [Node], node: &Node) -> impl Iterator<Item = &'a Node> + use<'a> {
    let own = node.number();
    nodes.iter().filter(move |other| other.number() != own)
}

fn devices(nodes: &[Node], name: impl Fn(&Node) -> String) -> Vec<Counter> {
    nodes
        .iter()
        .map(|node| Counter::Device(name(node)))
        .collect()
}

/// The network address of the node's pods: as flannel's.
fn endpoint(node: &Node) -> std::net::IpAddr {
    pods_of(node).network()
}

fn link_address(node: &Node) -> String {
    format!("02:00:00:00:00:{:02x}", node.number())
}

fn base64(bytes: &[u8; 32]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
