//! Why a packet died: one enum, one metric label each.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $label:literal,)+) => {
        /// Why a packet or a datagram was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason { $($(#[$doc])* $variant,)+ }

        impl DropReason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The value of the metric label `reason`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}

drop_reasons! {
    /// Overlay: no peer owns the destination. Answered with ICMP unreachable.
    NoPeer = "no-peer",
    /// Overlay: the peer's record names no endpoint and the peer has not shown itself yet. Answered
    /// with ICMP unreachable.
    NoEndpoint = "no-endpoint",
    /// Overlay: pushed out of the queue of a peer without a session by a younger packet, or refused
    /// there since the queues of all peers have no room.
    QueueFull = "no-session-queue-full",
    /// Overlay: waited too long for a session.
    QueueExpired = "no-session-expired",
    /// Overlay: longer than the peer's inner MTU. Answered with ICMP too-big, unless it may be
    /// fragmented, which the kernel does by the route's MTU before us.
    TooBig = "too-big",
    /// Not an IP packet, or its lengths contradict each other (both directions).
    MalformedInner = "malformed-inner",
    /// Names further addresses that it wants to go to (both directions): an IPv4 source route, or
    /// an IPv6 routing header. Its destination, by which it is routed, is not where it would end.
    SourceRouted = "source-routed",
    /// Underlay: not a WireGuard message by type and length.
    MalformedMessage = "malformed-message",
    /// Underlay: the inner source belongs to another peer or to none.
    SourceNotAllowed = "source-not-allowed",
    /// Underlay: the receiver index is of this process and names no session of this lane.
    UnknownIndex = "unknown-index",
    /// Underlay: the receiver index was issued by another process of this node.
    ForeignGeneration = "foreign-generation",
    /// Underlay: an initiation with a key that no peer has on this lane.
    UnknownPeer = "unknown-peer",
    /// Underlay: an initiation with our own key.
    OwnKey = "own-key",
    /// Underlay: a handshake message that was not made for our public key.
    BadMac = "bad-mac",
    /// Underlay: above the handshake limit of the node; answered with a cookie reply, unless the
    /// source has its cookie and is above its own limit.
    HandshakeLimited = "handshake-limited",
    /// Underlay: a handshake message that is replayed, outdated or fails its checks.
    HandshakeRejected = "handshake-rejected",
    /// Underlay: we initiated at the same time and ours goes first.
    HandshakeCrossed = "handshake-crossed",
    /// Underlay: a message for a session that has expired.
    SessionExpired = "session-expired",
    /// Underlay: a queue on the way marked it as congested, and its sender does not understand that
    /// (RFC 6040 §4.2).
    Congested = "congested",
    /// Underlay: fails authentication.
    DecryptFailed = "decrypt-failed",
    /// Underlay: its counter was seen, or lies behind the replay window.
    Replayed = "replayed",
    /// No room in an output (only ICMP and cookie replies die of it; packets wait in their batch).
    OutputFull = "output-full",
}

/// One counter for each reason. Written by one lane thread, read by anyone.
#[derive(Debug)]
pub(crate) struct DropCounters([AtomicU64; DropReason::ALL.len()]);

impl DropCounters {
    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    pub(crate) fn add_many(&self, reason: DropReason, count: u64) {
        self.0[reason as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_its_own_label_and_counter() {
        let labels: BTreeSet<_> = DropReason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(labels.len(), DropReason::ALL.len());
        let counters = DropCounters::new();
        for (count, reason) in (1..).zip(DropReason::ALL) {
            counters.add_many(*reason, count);
        }
        for (count, reason) in (1..).zip(DropReason::ALL) {
            assert_eq!(counters.get(*reason), count);
        }
    }
}
