//! The own keys and their rotation: each step is on disk when it returns.

use std::time::SystemTime;

use podwire_core::key::PublicKey;
use podwire_core::rotation::{Generations, InUse, Rotation, Step, Told};
use podwire_dataplane::OwnKeys;

use super::error::StateError;
use super::keys::{self, KeySet, Keys};
use super::{State, calendar};

/// What is known in memory of the key file. The private keys are read when they are needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KnownKeys {
    /// When the current ones were made, RFC 3339.
    created: String,
    /// Public keys of all lanes on disk, lane 0 first.
    keys: Generations<Vec<PublicKey>>,
}

impl KnownKeys {
    pub(super) fn of(keys: &Keys) -> Self {
        Self {
            created: keys.current.created.clone(),
            keys: keys.as_ref().map(KeySet::public_keys),
        }
    }
}

impl State {
    /// Every own public key, of all lanes and generations: nobody else may claim one.
    pub(crate) fn public_keys(&self) -> Vec<PublicKey> {
        self.keys.keys.all().flatten().copied().collect()
    }

    /// The public keys that the record tells, of the lanes in use, lane 0 first.
    pub(crate) fn told_keys(&self) -> Told<Vec<PublicKey>> {
        let keys = self.keys.keys.as_ref().map(|keys| {
            let in_use = keys.iter().take(self.lanes);
            in_use.copied().collect()
        });
        keys.told()
    }

    /// Own private keys of the lanes in use, read from disk: they are in memory only where they are
    /// used.
    pub(crate) fn own_keys(&mut self) -> Result<OwnKeys, StateError> {
        let keys = self.read_keys()?.map(|mut set| {
            set.lanes.truncate(self.lanes);
            set.lanes
        });
        let InUse {
            base,
            newer,
            fading,
        } = keys.in_use();
        Ok(OwnKeys {
            base,
            newer,
            fading,
        })
    }

    /// Where the rotation of the own keys stands.
    pub(crate) const fn rotation(&self) -> Rotation {
        self.keys.keys.rotation
    }

    /// Generation of the keys; 1 for the first.
    pub(crate) const fn key_generation(&self) -> u64 {
        self.keys.keys.rotation.key_generation
    }

    /// When the keys were made, RFC 3339.
    pub(crate) fn key_created(&self) -> String {
        self.keys.created.clone()
    }

    /// Makes a step of the rotation; it is on disk when this returns.
    ///
    /// # Errors
    /// The disk's: then nothing has changed, or what this began counts from the next call on.
    pub(crate) fn rotate(&mut self, step: Step, now: SystemTime) -> Result<(), StateError> {
        let before = self.rotation();
        let keys = self.read_keys()?;
        if self.rotation() != before {
            // A step before this one was made after all: what is due now is to be decided anew.
            return Ok(());
        }
        self.keep_keys(&keys::after(keys, step, calendar(now))?)
    }

    /// Raises the generation above that of a published record which cannot be of these keys: keys
    /// made anew after the state was lost, or restored from an old backup, are a later generation
    /// to peers.
    pub(crate) fn continue_key_generation(&mut self, published: u64) -> Result<(), StateError> {
        let known = self.key_generation();
        if published > known || (self.keys_are_new && published == known) {
            let mut keys = self.read_keys()?;
            keys.rotation.key_generation = published.saturating_add(1);
            self.keep_keys(&keys)?;
        }
        self.keys_are_new = false;
        Ok(())
    }

    fn keep_keys(&mut self, keys: &Keys) -> Result<(), StateError> {
        let next = KnownKeys::of(keys);
        self.attempted = Some(next.clone());
        keys::write(keys, &self.folder)?;
        self.keys = next;
        self.attempted = None;
        Ok(())
    }

    /// The keys on disk, which must still be those of this process.
    fn read_keys(&mut self) -> Result<Keys, StateError> {
        let path = self.folder.join(keys::FILE);
        let Some(keys) = keys::read(&self.folder)? else {
            return Err(StateError::Missing { path });
        };
        let found = KnownKeys::of(&keys);
        if self.attempted.as_ref() == Some(&found) {
            // They are in place, but it was not sure that they would stay.
            self.keep_keys(&keys)?;
        } else if self.keys != found {
            return Err(StateError::Changed { path });
        }
        Ok(keys)
    }
}
