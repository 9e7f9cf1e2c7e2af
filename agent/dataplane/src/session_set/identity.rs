//! Who talks to whom: one key of each end, in one epoch of each.

use podwire_core::key::PublicKey;
use podwire_core::mesh::EncryptedPair;

/// Both ends of a member's sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// This node's key.
    pub(super) own: PublicKey,
    /// The peer's key.
    pub(super) peer: PublicKey,
    /// The peer's epoch.
    pub(super) epoch: u64,
    /// This node's epoch.
    pub(super) own_epoch: u64,
}

/// The keys of one lane of the peer, as its record has them.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerKeys {
    current: PublicKey,
    next: Option<PublicKey>,
    previous: Option<PublicKey>,
    pub(super) epoch: u64,
    /// Others may hold the keys that are not named.
    pub(super) is_revoked: bool,
}

impl PeerKeys {
    /// None when the peer does not have the lane.
    pub(super) fn of(pair: &EncryptedPair, lane: usize) -> Option<Self> {
        let (next, previous) = (pair.next.get(lane), pair.previous.get(lane));
        Some(Self {
            current: pair.lanes.get(lane)?.key,
            next: next.map(|lane| lane.key),
            previous: previous.map(|lane| lane.key),
            epoch: pair.epoch,
            is_revoked: pair.is_revoked,
        })
    }

    /// The keys that the peer may be asked by, the best one first: it has the next one before it
    /// announces it, unless the record is not of the peer as it is now.
    pub(super) fn choices(&self) -> [PublicKey; 2] {
        match self.next {
            Some(next) => [next, self.current],
            None => [self.current, self.previous.unwrap_or(self.current)],
        }
    }

    /// Whether these follow the keys of `before` with nothing lost in between: a peer that has lost
    /// its keys, and its sessions with them, has one that it never announced.
    pub(super) fn continue_from(&self, before: &Self) -> bool {
        before.names(&self.current)
    }

    pub(super) fn names(&self, key: &PublicKey) -> bool {
        let others = [self.next, self.previous];
        self.current == *key || others.contains(&Some(*key))
    }
}
