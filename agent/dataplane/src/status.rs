//! What the device tells about itself and its peers.

use std::net::SocketAddr;
use std::time::Duration;

use podwire_core::key::PublicKey;
use podwire_core::node::NodeName;

/// How a peer is reached at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerState {
    /// Nothing to send and no session: handshakes happen on the first packet.
    Idle,
    /// No confirmed session yet; a handshake is in flight.
    Handshaking,
    /// Lane 0 has a confirmed session.
    Connected,
}

impl PeerState {
    /// Every state.
    pub const ALL: &'static [Self] = &[Self::Idle, Self::Handshaking, Self::Connected];

    /// The value of the metric label `state`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Handshaking => "handshaking",
            Self::Connected => "connected",
        }
    }
}

/// A snapshot of one peer.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// The peer's node.
    pub name: NodeName,
    /// How it is reached.
    pub state: PeerState,
    /// The lanes that the pair has in common, lane 0 first.
    pub lanes: Vec<LaneStatus>,
}

impl PeerStatus {
    /// Whether every lane with a confirmed session has one under this node's newer key; of no
    /// meaning when no lane has a session.
    #[must_use]
    pub fn is_on_newer(&self) -> bool {
        let mut confirmed = self.lanes.iter().filter(|lane| lane.confirmed);
        confirmed.all(|lane| lane.is_on_newer)
    }

    /// The sums over all lanes.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.lanes
            .iter()
            .fold(Traffic::default(), |sum, lane| sum + lane.traffic)
    }
}

/// A snapshot of one lane of a peer.
#[derive(Clone, Debug)]
pub struct LaneStatus {
    /// Age of the newest completed handshake; none before the first, or when the state was dropped
    /// because the lane was idle for long.
    pub last_handshake: Option<Duration>,
    /// Whether a confirmed session exists, on which packets are sent.
    pub confirmed: bool,
    /// The peer's public key in that session: not the configured one while only a session under a
    /// replaced key lives. The peer has proved that it holds this key.
    pub confirmed_key: Option<PublicKey>,
    /// Whether a confirmed session exists under this node's newer key: see
    /// [`crate::OwnKeys::newer`].
    pub is_on_newer: bool,
    /// Whether an initiation of ours waits for its response.
    pub handshaking: bool,
    /// Where the next datagram goes.
    pub endpoint: Option<SocketAddr>,
    /// Members of the session set.
    pub sessions: usize,
    /// Packets that wait for a session.
    pub queued: usize,
    /// What passed since the peer was added.
    pub traffic: Traffic,
}

/// Counters of one lane of a peer; packets and bytes are the inner ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Inner bytes sent.
    pub sent_bytes: u64,
    /// Inner packets sent.
    pub sent_packets: u64,
    /// Inner bytes received and delivered.
    pub received_bytes: u64,
    /// Inner packets received and delivered.
    pub received_packets: u64,
    /// Handshakes completed.
    pub handshakes: u64,
    /// Packets of or for this peer that were dropped.
    pub drops: u64,
}

impl std::ops::Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            sent_bytes: self.sent_bytes + other.sent_bytes,
            sent_packets: self.sent_packets + other.sent_packets,
            received_bytes: self.received_bytes + other.received_bytes,
            received_packets: self.received_packets + other.received_packets,
            handshakes: self.handshakes + other.handshakes,
            drops: self.drops + other.drops,
        }
    }
}

/// Handshake messages of the whole device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandshakeCounts {
    /// Initiations sent.
    pub initiations_sent: u64,
    /// Initiations received with a valid mac1.
    pub initiations_received: u64,
    /// Responses sent.
    pub responses_sent: u64,
    /// Responses received and accepted.
    pub responses_received: u64,
    /// Cookie replies sent.
    pub cookie_replies_sent: u64,
    /// Cookie replies received and accepted.
    pub cookie_replies_received: u64,
}

/// What [`crate::Device::set_peers`] changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerChanges {
    /// Peers that were not there before.
    pub added: usize,
    /// Peers whose configuration differs from before.
    pub changed: usize,
    /// Peers that are gone, with all their sessions.
    pub removed: usize,
}

impl std::ops::Add for HandshakeCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            initiations_sent: self.initiations_sent + other.initiations_sent,
            initiations_received: self.initiations_received + other.initiations_received,
            responses_sent: self.responses_sent + other.responses_sent,
            responses_received: self.responses_received + other.responses_received,
            cookie_replies_sent: self.cookie_replies_sent + other.cookie_replies_sent,
            cookie_replies_received: self.cookie_replies_received + other.cookie_replies_received,
        }
    }
}
