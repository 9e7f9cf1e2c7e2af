//! Somebody on the underlay who has a node's private key, and speaks as that node.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::address::IpVersion;
use crate::agent_view::drops;
use crate::forged::{self, Extra};
use crate::testbed::Testbed;
use crate::until::until;
use crate::wire::{Wire, put_into_device};
use crate::wireguard_daemon::{Key, PORT, WireguardDaemon, decode, endpoint, peer, public_key};

/// Messages that are refused before it is said that they are: WireGuard asks every five seconds.
const REFUSED: u64 = 3;

/// For that many, on a busy machine.
const REFUSED_DEADLINE: Duration = Duration::from_secs(60);

/// wireguard-go stamps its handshakes 27 s earlier than boringtun, as it counts no leap seconds:
/// those of a thief are taken once the node's own last one is as old.
const HEARD_DEADLINE: Duration = Duration::from_secs(90);

/// Where the pod listens to which the thief speaks.
const POD_PORT: u16 = 6666;

/// Whose key a thief has, and which.
#[derive(Debug, Clone, Copy)]
pub struct Stolen {
    /// The node.
    pub of: u8,
    /// `current` or `next`, as its state folder calls it.
    pub set: &'static str,
}

/// It ends with this value.
#[derive(Debug)]
pub struct Thief<'a> {
    bed: &'a Testbed,
    daemon: WireguardDaemon,
    secret: Key,
    /// A pod of the node whose key it is.
    source: SocketAddr,
    at: u8,
    to: u8,
    wire: Wire,
    pod: UdpSocket,
}

impl<'a> Thief<'a> {
    /// On node `at`, where no agent runs, with what a state folder holds now. It speaks to the pod
    /// of node `to`; `program` is wireguard-go.
    ///
    /// # Errors
    /// The kernel's, and when there is no such key.
    pub fn start(
        bed: &'a Testbed,
        program: &Path,
        stolen: Stolen,
        (at, to): (u8, u8),
    ) -> Result<Self> {
        let source = bed.pod(stolen.of, 1).host().address(IpVersion::V4)?;
        let pod = bed.pod(to, 1).host();
        let target = SocketAddr::new(pod.address(IpVersion::V4)?, POD_PORT);
        let pod = pod.namespace().run(|| UdpSocket::bind(target))?;
        pod.set_nonblocking(true)?;
        let thief = Self {
            bed,
            daemon: WireguardDaemon::start(bed, at, program)?,
            secret: private_key(bed, stolen)?,
            source: SocketAddr::new(source, POD_PORT),
            at,
            to,
            wire: Wire::tap(bed, at)?,
            pod,
        };
        thief.begin_anew()?;
        // No routes: an agent may have left its own there.
        thief.daemon.route(bed.node(at), &[])?;
        Ok(thief)
    }

    /// It is taken for the node: its handshake is answered, and the pod hears it.
    ///
    /// # Errors
    /// When it is not.
    pub fn is_heard(&self) -> Result<()> {
        until(HEARD_DEADLINE, "the pod to hear the thief", || {
            self.speak()?;
            ensure!(self.has_arrived(), "nothing has arrived");
            Ok(())
        })?;
        let is_answered = self.daemon.uapi().has_handshake()?;
        ensure!(is_answered, "heard without a handshake");
        Ok(())
    }

    /// The session that it has is closed at the other end.
    ///
    /// # Errors
    /// When it is not.
    pub fn is_cut_off(&self) -> Result<()> {
        while self.has_arrived() {}
        self.are_refused("unknown-index", || self.speak())?;
        ensure!(!self.has_arrived(), "its session still carries");
        Ok(())
    }

    /// It gets no session: no handshake of it is answered with anything.
    ///
    /// # Errors
    /// When it is.
    pub fn is_refused(&self) -> Result<()> {
        self.begin_anew()?;
        // What came before.
        self.wire.messages()?;
        while self.has_arrived() {}
        // More than once: a device that has just come up drops what comes before its daemon knows.
        self.are_refused("unknown-peer", || self.speak())?;
        let own = endpoint(self.bed, self.at, IpVersion::V4)?;
        let mut answers = self.wire.messages()?;
        answers.retain(|message| message.destination == own);
        ensure!(answers.is_empty(), "answered: {answers:?}");
        let is_answered = self.daemon.uapi().has_handshake()?;
        ensure!(!is_answered, "it has a session");
        ensure!(!self.has_arrived(), "the pod has heard it");
        Ok(())
    }

    /// Has no session any more.
    fn begin_anew(&self) -> Result<()> {
        let to = self.to;
        let endpoint = endpoint(self.bed, to, IpVersion::V4)?;
        let peer = peer(self.bed, to, public_key(self.bed, to)?, Some(endpoint));
        self.daemon.uapi().configure(&self.secret, PORT, &[peer])
    }

    /// A datagram as from a pod of the node.
    fn speak(&self) -> Result<()> {
        let packet = forged::udp(
            self.source,
            self.pod.local_addr()?,
            Extra::Nothing,
            b"stolen",
        );
        let namespace = self.bed.node(self.at).namespace();
        put_into_device(namespace, self.daemon.interface(), &packet)
    }

    fn has_arrived(&self) -> bool {
        self.pod.recv(&mut [0; 64]).is_ok()
    }

    /// Waits until the other end has counted [`REFUSED`] more drops of a reason.
    fn are_refused(&self, reason: &str, try_again: impl Fn() -> Result<()>) -> Result<()> {
        let count = || {
            let drops = drops(self.bed.node(self.to))?;
            drops.get(reason).copied().context("no such reason")
        };
        let before = count()?;
        until(REFUSED_DEADLINE, &format!("drops for {reason}"), || {
            try_again()?;
            let refused = count()? - before;
            ensure!(refused >= REFUSED, "{refused} only");
            Ok(())
        })
    }
}

/// The private key of lane 0, out of a node's state folder.
fn private_key(bed: &Testbed, Stolen { of, set }: Stolen) -> Result<Key> {
    let path = bed.node(of).state_dir().join("keys");
    let text = std::fs::read_to_string(&path)?;
    let name = format!("{set}-0=");
    let mut lines = text.lines();
    let keys = lines.find_map(|line| line.strip_prefix(&name));
    let (private, _public) = keys
        .and_then(|keys| keys.split_once(' '))
        .with_context(|| format!("no {name} in {}", path.display()))?;
    decode(private)
}
