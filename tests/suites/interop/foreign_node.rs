//! A node that is no node of Podwire's: a daemon of WireGuard in user space, and a record that says
//! what its peers need to know.

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use podwire_testbed::agent_view::status;
use podwire_testbed::uapi::{Peer, Uapi};
use podwire_testbed::{IpVersion, Node, Testbed, address, until};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::Initiator;

/// Where Podwire's lane 0 listens too.
const PORT: u16 = 51_880;

/// A path of 1,500 bytes less what WireGuard needs over IPv6.
const MTU: u16 = 1420;

const START_DEADLINE: Duration = Duration::from_secs(20);

/// The daemon of node 2; it ends with this value.
pub(crate) struct ForeignNode(Child);

impl ForeignNode {
    /// Starts and configures it, and publishes its record. Who is not to initiate is told no
    /// endpoint.
    pub(crate) fn start(
        bed: &Testbed,
        program: &Path,
        version: IpVersion,
        initiator: Initiator,
    ) -> Result<Self> {
        let node = bed.node(2);
        let mut secret = [0; 32];
        rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty())?;
        let secret = StaticSecret::from(secret);
        // Sockets of all interfaces are in one folder.
        let interface = format!("wg{}", bed.node(1).agent_pid()?);
        let daemon = spawn(bed, node, program, &interface)?;
        let own_key = status(bed.node(1))?.public_key.context("no key")?;
        let own_key = STANDARD
            .decode(own_key)
            .map_err(|error| anyhow!("{error}"))?;
        let endpoint = SocketAddr::new(bed.node(1).host().address(version)?, PORT);
        let mut peer = Peer {
            public_key: own_key.as_slice().try_into()?,
            endpoint: Some(endpoint),
            allowed_ips: pods(1),
        };
        peer.endpoint.take_if(|_| initiator == Initiator::Podwire);
        Uapi::of(&interface).configure(&secret.to_bytes(), PORT, &[peer])?;
        route(node, &interface)?;
        let endpoint = SocketAddr::new(node.host().address(version)?, PORT);
        let endpoint = (initiator == Initiator::Podwire).then_some(endpoint);
        publish(bed, node, &PublicKey::from(&secret), endpoint)?;
        Ok(daemon)
    }
}

impl Drop for ForeignNode {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn pods(node: u8) -> Vec<ipnet::IpNet> {
    [IpVersion::V4, IpVersion::V6]
        .map(|version| address::pod_cidr(node, version))
        .to_vec()
}

fn spawn(bed: &Testbed, node: &Node, program: &Path, interface: &str) -> Result<ForeignNode> {
    let path = bed.folder().join(format!("logs/{interface}.log"));
    let log = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    let mut command = Command::new(program);
    command.arg("--foreground");
    if program.ends_with("boringtun-cli") {
        // It would give up being root of the user namespace, and with it the device.
        command.arg("--disable-drop-privileges");
    }
    command
        .arg(interface)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let mut daemon = ForeignNode(node.namespace().spawn(command)?);
    let socket = format!("/var/run/wireguard/{interface}.sock");
    until(START_DEADLINE, "the daemon's socket", || {
        let ended = daemon.0.try_wait()?;
        ensure!(ended.is_none(), "it ended: {ended:?}");
        UnixStream::connect(&socket)?;
        Ok(())
    })?;
    Ok(daemon)
}

/// The other node's pods by its device, from this node's own pod addresses.
fn route(node: &Node, interface: &str) -> Result<()> {
    let mut lines = vec![format!("link set {interface} mtu {MTU} up")];
    let routes = pods(1);
    let routes = routes
        .iter()
        .map(|pods| format!("route add {pods} dev {interface}"));
    lines.extend(routes);
    node.namespace().ip(&lines)
}

fn publish(
    bed: &Testbed,
    node: &Node,
    key: &PublicKey,
    endpoint: Option<SocketAddr>,
) -> Result<()> {
    let manifest = node.manifest();
    let cidrs: Vec<String> = pods(2).iter().map(ToString::to_string).collect();
    let mut annotations = vec![
        ("mode", "encrypted".to_owned()),
        ("public-key", STANDARD.encode(key.as_bytes())),
        ("pod-cidrs", cidrs.join(",")),
        ("key-generation", "1".to_owned()),
        ("epoch", "1".to_owned()),
    ];
    annotations.extend(endpoint.map(|endpoint| ("endpoints", endpoint.to_string())));
    let lines = annotations
        .iter()
        .map(|(name, value)| format!("    podwire.dev/{name}: '{value}'\n"));
    let text = format!(
        "apiVersion: v1\nkind: Node\nmetadata:\n  name: {}\n  uid: {}\n  annotations:\n{}",
        manifest.name,
        manifest.uid,
        lines.collect::<String>()
    );
    bed.directory()
        .replace(&bed.directory().record_path(node.name()), &text)
}
