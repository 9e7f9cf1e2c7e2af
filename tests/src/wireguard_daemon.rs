//! Other people's WireGuard as a process on a node.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::address::IpVersion;
use crate::agent_view::status;
use crate::node::Node;
use crate::testbed::{Testbed, WIREGUARD_PORTS};
use crate::uapi::{Peer, Uapi};

/// Where it listens, as Podwire's lane 0 does: the capture knows tunnels by it.
pub const PORT: u16 = WIREGUARD_PORTS.start;

/// A path of 1,500 bytes less what WireGuard needs over IPv6.
const MTU: u16 = 1420;

/// A daemon has its socket by then.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// How often that is looked for: a bench counts what is waited too long as the daemon's start.
const LOOK_INTERVAL: Duration = Duration::from_micros(200);

/// A private or a public one.
pub type Key = [u8; 32];

/// It ends with this value.
#[derive(Debug)]
pub struct WireguardDaemon {
    process: Child,
    interface: String,
}

impl WireguardDaemon {
    /// Starts it on a node, one of those that [`crate::foreign_wireguard`] builds, with a name of
    /// its own.
    ///
    /// # Errors
    /// As [`Self::start_as`].
    pub fn start(bed: &Testbed, number: u8, program: &Path) -> Result<Self> {
        let interface = format!("wg{}-{number}", bed.node(1).agent_pid()?);
        Self::start_as(interface, bed.node(number), &bed.folder(), program)
    }

    /// Starts it by the name of its device: at most fifteen letters, and no other's on this
    /// machine, as the sockets of all are in one folder. What it says goes to the testbed's logs.
    ///
    /// # Errors
    /// When it ends, or makes no socket: with what it said.
    pub fn start_as(interface: String, node: &Node, folder: &Path, program: &Path) -> Result<Self> {
        let path = folder.join(format!("logs/{interface}.log"));
        let log = File::create(&path).with_context(|| format!("making {}", path.display()))?;
        let mut command = Command::new(program);
        command.arg("--foreground");
        if program.ends_with("boringtun-cli") {
            // It would give up being root of the user namespace, and with it the device.
            command.arg("--disable-drop-privileges");
        }
        command
            .arg(&interface)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = node.namespace().spawn(command)?;
        let mut daemon = Self { process, interface };
        daemon.wait_socket().with_context(|| {
            let said = fs::read_to_string(&path).unwrap_or_default();
            format!("{} said: {said}", program.display())
        })?;
        Ok(daemon)
    }

    fn wait_socket(&mut self) -> Result<()> {
        let socket = format!("/var/run/wireguard/{}.sock", self.interface);
        let start = Instant::now();
        while UnixStream::connect(&socket).is_err() {
            if let Some(status) = self.process.try_wait()? {
                bail!("it ended at once: {status}");
            }
            ensure!(start.elapsed() < START_DEADLINE, "it made no {socket}");
            thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }

    /// Its process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The name of its device.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Where it is configured.
    #[must_use]
    pub fn uapi(&self) -> Uapi {
        Uapi::of(&self.interface)
    }

    /// Sets its device up on its node, and sends by it what is for these peers' networks.
    ///
    /// # Errors
    /// ip's.
    pub fn route(&self, node: &Node, peers: &[Peer]) -> Result<()> {
        let interface = &self.interface;
        let mut lines = vec![format!("link set {interface} mtu {MTU} up")];
        let networks = peers.iter().flat_map(|peer| &peer.allowed_ips);
        lines.extend(networks.map(|network| format!("route add {network} dev {interface}")));
        node.namespace().ip(&lines)
    }
}

impl Drop for WireguardDaemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where lane 0 of a node is.
///
/// # Errors
/// When the underlay has no such version.
pub fn endpoint(bed: &Testbed, number: u8, version: IpVersion) -> Result<SocketAddr> {
    let address = bed.node(number).host().address(version)?;
    Ok(SocketAddr::new(address, PORT))
}

/// A node as its peers configure it.
#[must_use]
pub fn peer(bed: &Testbed, number: u8, public_key: Key, endpoint: Option<SocketAddr>) -> Peer {
    Peer {
        public_key,
        endpoint,
        allowed_ips: bed.node(number).manifest().pod_cidrs,
    }
}

/// The public key of a node's lane 0, as its agent shows it.
///
/// # Errors
/// When the agent does not answer, or has no key.
pub fn public_key(bed: &Testbed, number: u8) -> Result<Key> {
    decode(&status(bed.node(number))?.public_key.context("no key")?)
}

/// A key out of its text.
///
/// # Errors
/// When it is none.
pub fn decode(key: &str) -> Result<Key> {
    let key = STANDARD.decode(key).map_err(|error| anyhow!("{error}"))?;
    key.as_slice().try_into().context("not a key")
}
