//! Other people's WireGuard in user space: one daemon a node, configured by its socket.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use podwire_testbed::Node;
use podwire_testbed::uapi::{Peer, Uapi};
use x25519_dalek::{PublicKey, StaticSecret};

use super::{Contestant, Counter, Daemon, TUNNEL_MTU, node_address, pods_of};
use crate::implementation::Implementation;
use crate::programs::Programs;

/// Where Podwire's lane 0 listens too: the capture knows tunnels by it.
pub(super) const PORT: u16 = 51880;

/// A daemon has its socket by then.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// How often it is looked for.
const LOOK_INTERVAL: Duration = Duration::from_micros(200);

pub(super) fn start(contestant: &mut Contestant, programs: &Programs) -> Result<()> {
    let nodes = contestant.bed.nodes();
    contestant.secrets = secrets(nodes)?;
    contestant.daemons = nodes.iter().map(|_| None).collect();
    for index in 0..contestant.daemons.len() {
        start_node(contestant, index, programs)?;
        let uapi = Uapi::of(&interface(contestant, &contestant.bed.nodes()[index]));
        contestant.counters.push(Counter::Uapi(uapi));
    }
    Ok(())
}

/// Starts the daemon of a node and configures it.
pub(super) fn start_node(
    contestant: &mut Contestant,
    index: usize,
    programs: &Programs,
) -> Result<()> {
    let program = programs.of(contestant.implementation)?;
    let nodes = contestant.bed.nodes();
    let (node, secret) = (&nodes[index], &contestant.secrets[index]);
    let daemon = spawn(contestant, node, program)?;
    let uapi = Uapi::of(&interface(contestant, node));
    let peers = peers(nodes, &contestant.secrets, index)?;
    configure(contestant, node, &uapi, secret, &peers)?;
    contestant.daemons[index] = Some(daemon);
    Ok(())
}

/// One secret key for each node.
pub(super) fn secrets(nodes: &[Node]) -> Result<Vec<StaticSecret>> {
    let one = |_| {
        let mut bytes = [0; 32];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .context("the kernel gives no random bytes")?;
        Ok(StaticSecret::from(bytes))
    };
    nodes.iter().map(one).collect()
}

/// Everybody else's.
pub(super) fn peers(nodes: &[Node], secrets: &[StaticSecret], own: usize) -> Result<Vec<Peer>> {
    let others = nodes.iter().zip(secrets).enumerate();
    others
        .filter(|(index, _)| *index != own)
        .map(|(_, (node, secret))| {
            Ok(Peer {
                public_key: PublicKey::from(secret).to_bytes(),
                endpoint: Some(SocketAddr::new(node_address(node)?, PORT)),
                allowed_ips: vec![pods_of(node)],
            })
        })
        .collect()
}

/// Sockets of all interfaces are in one folder: each needs a name of its own, and at most fifteen
/// letters.
fn interface(contestant: &Contestant, node: &Node) -> String {
    let letter = if contestant.implementation == Implementation::WireguardGo {
        'g'
    } else if contestant.implementation == Implementation::BoringtunCli {
        'b'
    } else {
        'm'
    };
    let size = contestant.bed.nodes().len();
    format!("wg{letter}{size}n{}", node.number())
}

fn spawn(contestant: &Contestant, node: &Node, program: &Path) -> Result<Daemon> {
    let interface = interface(contestant, node);
    let path = contestant.bed.folder();
    let path = path.join(format!("logs/{interface}.log"));
    let log = File::create(&path).with_context(|| format!("making {}", path.display()))?;
    let mut command = Command::new(program);
    command.arg("--foreground");
    if contestant.implementation == Implementation::WireguardGo {
        command.env("LOG_LEVEL", "error");
    } else {
        // It would give up being root of the user namespace, and with it the device.
        command.arg("--disable-drop-privileges");
    }
    command
        .arg(&interface)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let mut daemon = Daemon(node.namespace().spawn(command)?);
    wait_socket(&mut daemon, &interface).with_context(|| {
        let said = fs::read_to_string(&path).unwrap_or_default();
        format!("{} said: {said}", program.display())
    })?;
    Ok(daemon)
}

/// Looks often: what is waited for too long would count as the daemon's start.
fn wait_socket(daemon: &mut Daemon, interface: &str) -> Result<()> {
    let socket = format!("/var/run/wireguard/{interface}.sock");
    let start = Instant::now();
    while UnixStream::connect(&socket).is_err() {
        if let Some(status) = daemon.0.try_wait()? {
            bail!("it ended at once: {status}");
        }
        ensure!(start.elapsed() < START_DEADLINE, "it made no {socket}");
        thread::sleep(LOOK_INTERVAL);
    }
    Ok(())
}

fn configure(
    contestant: &Contestant,
    node: &Node,
    uapi: &Uapi,
    secret: &StaticSecret,
    peers: &[Peer],
) -> Result<()> {
    let interface = interface(contestant, node);
    uapi.configure(&secret.to_bytes(), PORT, peers)?;
    let mut lines = vec![format!("link set {interface} mtu {TUNNEL_MTU} up")];
    let networks = peers.iter().flat_map(|peer| &peer.allowed_ips);
    lines.extend(networks.map(|network| format!("route add {network} dev {interface}")));
    node.namespace().ip(&lines)
}
