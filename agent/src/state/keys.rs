//! The key file: the private keys of all lanes, and where their rotation stands. It is never
//! replaced by new keys on its own accord.
//!
//! ```text
//! podwire-keys 2
//! generation=4
//! phase=announced
//! lanes=2
//! current=2026-01-01T00:00:00Z
//! current-0=PRIVATE PUBLIC
//! current-1=PRIVATE PUBLIC
//! next=2026-02-01T00:00:00Z
//! next-0=PRIVATE PUBLIC
//! next-1=PRIVATE PUBLIC
//! ```
//! The second set is called as the phase says: next, previous, withdrawn, or there is none. The
//! public key beside each private one shows damage that base64 would hide. Not JSON: its readers
//! leave copies of the keys in memory. One file, so that no crash parts keys from their phase.

mod form;

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use podwire_core::key::{KEY_LENGTH, PrivateKey, PublicKey};
use podwire_core::rotation::{Generations, Step};
use podwire_registry::atomic_file;
use zeroize::Zeroizing;

use self::form::KeyFileDamage;
use super::error::StateError;
use super::folder::FILE_MODE;

/// Name of the file.
pub(super) const FILE: &str = "keys";

/// Version of the form that is written, and the newest that is read.
const VERSION: u64 = 2;

/// Largest file: room for more lanes than any node has, in a buffer that never grows, because
/// growing leaves a copy behind.
const SIZE_MAX: usize = 16 * 1024;

/// Most lanes of a file; an agent uses at most eight.
const LANES_MAX: usize = 64;

/// The keys of one key generation.
pub(super) struct KeySet {
    /// When lane 0's key was made, RFC 3339.
    pub(super) created: String,
    /// Private keys, lane 0 first; never empty.
    pub(super) lanes: Vec<PrivateKey>,
}

/// All keys of this node; each generation has as many lanes.
pub(super) type Keys = Generations<KeySet>;

impl KeySet {
    /// New keys for this many lanes.
    fn generate(lanes: usize, created: String) -> Result<Self, StateError> {
        let mut keys = Self {
            created,
            lanes: Vec::new(),
        };
        keys.extend(lanes)?;
        Ok(keys)
    }

    /// New keys for the lanes that have none.
    fn extend(&mut self, lanes: usize) -> Result<(), StateError> {
        while self.lanes.len() < lanes.min(LANES_MAX) {
            self.lanes.push(generate_key()?);
        }
        Ok(())
    }

    /// The public keys, lane 0 first.
    pub(super) fn public_keys(&self) -> Vec<PublicKey> {
        self.lanes.iter().map(PrivateKey::public_key).collect()
    }
}

/// The first keys of a node.
pub(super) fn generate(lanes: usize, created: String) -> Result<Keys, StateError> {
    Ok(Keys::first(KeySet::generate(lanes, created)?))
}

/// New keys for the lanes that have none, in each generation: peers know a lane by all of them.
pub(super) fn extend(keys: &mut Keys, lanes: usize) -> Result<(), StateError> {
    let beside = keys.beside.as_mut();
    keys.current.extend(lanes)?;
    beside.map_or(Ok(()), |beside| beside.extend(lanes))
}

/// The keys after a step; what it makes is made at `now`, RFC 3339.
pub(super) fn after(keys: Keys, step: Step, now: String) -> Result<Keys, StateError> {
    let lanes = keys.current.lanes.len();
    keys.after(step, || KeySet::generate(lanes, now))
}

/// Reads the key file of the folder; `None` when there is none.
pub(super) fn read(folder: &Path) -> Result<Option<Keys>, StateError> {
    let path = folder.join(FILE);
    let mut buffer = Zeroizing::new(vec![0; SIZE_MAX + 1]);
    let Some(length) = read_file(&path, &mut buffer)? else {
        return Ok(None);
    };
    let damaged = |damage| StateError::damaged(&path, damage);
    if length > SIZE_MAX {
        return Err(damaged(KeyFileDamage::TooLarge));
    }
    let text =
        std::str::from_utf8(&buffer[..length]).map_err(|_| damaged(KeyFileDamage::NotText))?;
    let version = form::version(text).map_err(damaged)?;
    if version > VERSION {
        return Err(StateError::FutureVersion {
            path,
            found: version,
            known: VERSION,
        });
    }
    form::parse(version, text).map(Some).map_err(damaged)
}

/// Writes the key file of the folder; once this returns the keys may be used.
pub(super) fn write(keys: &Keys, folder: &Path) -> Result<(), StateError> {
    let path = folder.join(FILE);
    let text = form::text(keys);
    Ok(atomic_file::replace(&path, text.as_bytes(), FILE_MODE)?)
}

fn generate_key() -> Result<PrivateKey, StateError> {
    let mut bytes = Zeroizing::new([0; KEY_LENGTH]);
    let flags = rustix::rand::GetRandomFlags::empty();
    let filled = rustix::rand::getrandom(bytes.as_mut_slice(), flags)
        .map_err(|error| StateError::Random(error.into()))?;
    // The kernel never gives less for so few.
    if filled < KEY_LENGTH {
        return Err(StateError::Random(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(PrivateKey::from_random(bytes))
}

/// Reads into a buffer of fixed size; how much was read.
fn read_file(path: &Path, buffer: &mut [u8]) -> Result<Option<usize>, StateError> {
    let refused = |source| StateError::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(error)),
    };
    let metadata = file.metadata().map_err(refused)?;
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o777);
    let expected_owner = rustix::process::geteuid().as_raw();
    if mode & 0o077 != 0 || owner != expected_owner {
        let path = path.to_owned();
        return Err(StateError::Exposed {
            path,
            owner,
            expected_owner,
            mode,
        });
    }
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(refused(error)),
        }
    }
    Ok(Some(length))
}

#[cfg(test)]
mod tests;
