//! Own keys of all lanes: those that every peer knows and those that a key rotation adds.

use std::sync::Arc;

use podwire_core::key::{PrivateKey, PublicKey};

use crate::device::{DeviceError, LANES_MAX};
use crate::noise::LaneKey;

/// The private keys of this node. Each list has one for each lane, lane 0 first.
#[allow(missing_debug_implementations)] // holds private keys
pub struct OwnKeys {
    /// What every peer knows that has a record of this node: the current keys, or the previous ones
    /// while they are not retired.
    pub base: Vec<PrivateKey>,
    /// Announced, or promoted but not yet alone: used with each peer once it has used them.
    pub newer: Option<Vec<PrivateKey>>,
    /// Announced in vain: these receive and answer handshakes, and never ask for one.
    pub fading: Option<Vec<PrivateKey>>,
}

impl OwnKeys {
    /// The keys of a node that does not change them.
    #[must_use]
    pub const fn of(base: Vec<PrivateKey>) -> Self {
        Self {
            base,
            newer: None,
            fading: None,
        }
    }
}

/// What becomes of the sessions of own keys that are not named any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fate {
    /// They go on until a newer session is confirmed, and receive for 180 s. No handshake is
    /// answered under these keys.
    Replaced,
    /// They are closed at once: others may hold these keys.
    Revoked,
}

/// The own keys of one lane.
pub(crate) struct OwnLaneKeys {
    pub(crate) base: Arc<LaneKey>,
    pub(crate) newer: Option<Arc<LaneKey>>,
    pub(crate) fading: Option<Arc<LaneKey>>,
}

impl OwnLaneKeys {
    /// Every key by which the lane can be asked: at most three.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<LaneKey>> {
        let others = [&self.newer, &self.fading];
        std::iter::once(&self.base).chain(others.into_iter().flatten())
    }

    /// The one with this public key.
    pub(crate) fn find(&self, key: &PublicKey) -> Option<&Arc<LaneKey>> {
        self.all().find(|own| own.public_key() == key)
    }
}

/// The own keys of every lane at some time: immutable, shared by all peers.
pub(crate) struct KeyRing {
    lanes: Box<[OwnLaneKeys]>,
    /// How often keys were revoked before.
    pub(crate) revocations: u64,
}

impl KeyRing {
    /// The first keys of a device.
    pub(crate) fn new(keys: OwnKeys) -> Result<Self, DeviceError> {
        let lanes = keys.base.len();
        if lanes == 0 || lanes > LANES_MAX {
            return Err(DeviceError::Lanes(lanes));
        }
        Self::make(keys, lanes, 0, |key| Arc::new(LaneKey::new(key)))
    }

    /// The next keys of the same lanes. A key that stays keeps what was told to others by it: a
    /// cookie is valid on.
    pub(crate) fn next(&self, keys: OwnKeys, fate: Fate) -> Result<Self, DeviceError> {
        let revocations = self.revocations + u64::from(fate == Fate::Revoked);
        Self::make(keys, self.lanes.len(), revocations, |key| {
            let public = key.public_key();
            let known = self.lanes.iter().find_map(|lane| lane.find(&public));
            known.map_or_else(|| Arc::new(LaneKey::new(key)), Arc::clone)
        })
    }

    fn make(
        keys: OwnKeys,
        lanes: usize,
        revocations: u64,
        lane_key: impl Fn(PrivateKey) -> Arc<LaneKey>,
    ) -> Result<Self, DeviceError> {
        let OwnKeys {
            base,
            newer,
            fading,
        } = keys;
        let lists = || std::iter::once(&base).chain(newer.iter()).chain(&fading);
        if let Some(list) = lists().find(|list| list.len() != lanes) {
            return Err(DeviceError::Keys(list.len(), lanes));
        }
        let publics = lists().flatten().map(PrivateKey::public_key);
        let publics: Vec<_> = publics.collect();
        for (number, key) in publics.iter().enumerate() {
            // A lane may keep its own.
            let is_other = |(earlier, other): &(usize, &PublicKey)| {
                *other == key && earlier % lanes != number % lanes
            };
            if let Some((other, _)) = publics[..number].iter().enumerate().find(is_other) {
                return Err(DeviceError::SameKey(other % lanes, number % lanes));
            }
        }
        let mut newer = newer.map(Vec::into_iter);
        let mut fading = fading.map(Vec::into_iter);
        let one = |list: &mut Option<std::vec::IntoIter<_>>| list.as_mut().and_then(Iterator::next);
        let lanes = base.into_iter().map(|base| OwnLaneKeys {
            base: lane_key(base),
            newer: one(&mut newer).map(&lane_key),
            fading: one(&mut fading).map(&lane_key),
        });
        Ok(Self {
            lanes: lanes.collect(),
            revocations,
        })
    }

    /// The keys of one lane.
    pub(crate) fn lane(&self, lane: usize) -> &OwnLaneKeys {
        &self.lanes[lane]
    }
}
