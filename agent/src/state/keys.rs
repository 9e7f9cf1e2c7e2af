//! The key file: the private keys of all lanes. It is never replaced by new keys on its own accord.
//!
//! ```text
//! podwire-keys 1
//! generation=1
//! created=2026-01-01T00:00:00Z
//! lanes=2
//! lane-0=PRIVATE PUBLIC
//! lane-1=PRIVATE PUBLIC
//! ```
//! The public key beside each private one shows damage that base64 would hide. Not JSON: its
//! readers leave copies of the keys in memory.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use podwire_core::key::{InvalidKey, KEY_LENGTH, PrivateKey, PublicKey};
use podwire_registry::atomic_file;
use zeroize::Zeroizing;

use super::error::StateError;
use super::folder::FILE_MODE;

/// Name of the file.
pub(super) const FILE: &str = "keys";

/// Version of the form that is written, and the newest that is read.
const VERSION: u64 = 1;

/// Largest file: room for more lanes than any node has, in a buffer that never grows, because
/// growing leaves a copy behind.
const SIZE_MAX: usize = 16 * 1024;

/// Most lanes of a file; an agent uses at most eight.
const LANES_MAX: usize = 64;

/// The keys of one key generation.
pub(super) struct Keys {
    pub(super) generation: u64,
    /// When lane 0's key was made, RFC 3339.
    pub(super) created: String,
    /// Private keys, lane 0 first; never empty.
    pub(super) lanes: Vec<PrivateKey>,
}

/// What is wrong with a key file. No text of it is repeated: it may be a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyFileDamage {
    #[error("it is larger than {SIZE_MAX} bytes")]
    TooLarge,
    #[error("it is not text")]
    NotText,
    #[error("it ends before {0}")]
    Truncated(&'static str),
    #[error("{0} is not what it should be")]
    Invalid(&'static str),
    #[error("the private key of lane {lane} is damaged")]
    PrivateKey {
        lane: usize,
        #[source]
        source: InvalidKey,
    },
    #[error("the public key of lane {lane} does not belong to its private key")]
    Mismatch { lane: usize },
    #[error("something follows the last lane")]
    TrailingText,
}

impl Keys {
    /// New keys for this many lanes.
    pub(super) fn generate(lanes: usize, created: String) -> Result<Self, StateError> {
        let mut keys = Self {
            generation: 1,
            created,
            lanes: Vec::new(),
        };
        keys.extend(lanes)?;
        Ok(keys)
    }

    /// New keys for the lanes that have none.
    pub(super) fn extend(&mut self, lanes: usize) -> Result<(), StateError> {
        while self.lanes.len() < lanes.min(LANES_MAX) {
            self.lanes.push(generate()?);
        }
        Ok(())
    }

    /// The public keys, lane 0 first.
    pub(super) fn public_keys(&self) -> Vec<PublicKey> {
        self.lanes.iter().map(PrivateKey::public_key).collect()
    }

    /// Reads the key file of the folder; `None` when there is none.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, StateError> {
        let path = folder.join(FILE);
        let mut buffer = Zeroizing::new(vec![0; SIZE_MAX + 1]);
        let Some(length) = read(&path, &mut buffer)? else {
            return Ok(None);
        };
        let damaged = |damage| StateError::damaged(&path, damage);
        if length > SIZE_MAX {
            return Err(damaged(KeyFileDamage::TooLarge));
        }
        let text =
            std::str::from_utf8(&buffer[..length]).map_err(|_| damaged(KeyFileDamage::NotText))?;
        let version = version(text).map_err(damaged)?;
        if version > VERSION {
            return Err(StateError::FutureVersion {
                path,
                found: version,
                known: VERSION,
            });
        }
        parse(text).map(Some).map_err(damaged)
    }

    /// Writes the key file of the folder; once this returns the keys may be used.
    pub(super) fn write(&self, folder: &Path) -> Result<(), StateError> {
        let path = folder.join(FILE);
        Ok(atomic_file::replace(
            &path,
            self.to_text().as_bytes(),
            FILE_MODE,
        )?)
    }

    fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(SIZE_MAX));
        let head = format!(
            "podwire-keys {VERSION}\ngeneration={}\ncreated={}\nlanes={}\n",
            self.generation,
            self.created,
            self.lanes.len()
        );
        text.push_str(&head);
        for (lane, key) in self.lanes.iter().enumerate() {
            text.push_str(&format!("lane-{lane}="));
            text.push_str(&key.to_base64());
            text.push_str(&format!(" {}\n", key.public_key()));
        }
        text
    }
}

fn generate() -> Result<PrivateKey, StateError> {
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
fn read(path: &Path, buffer: &mut [u8]) -> Result<Option<usize>, StateError> {
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

fn version(text: &str) -> Result<u64, KeyFileDamage> {
    let (first, _) = text
        .split_once('\n')
        .ok_or(KeyFileDamage::Truncated("its first line's end"))?;
    first
        .strip_prefix("podwire-keys ")
        .and_then(|version| version.parse().ok())
        .filter(|version| *version >= 1)
        .ok_or(KeyFileDamage::Invalid("the first line"))
}

fn parse(text: &str) -> Result<Keys, KeyFileDamage> {
    // Each line is whole only with its end: a cut in the last one must not pass.
    let mut lines = text
        .split_inclusive('\n')
        .map(|line| line.strip_suffix('\n'))
        .skip(1);
    let mut value = |name: &'static str| {
        let line = lines
            .next()
            .flatten()
            .ok_or(KeyFileDamage::Truncated(name))?;
        line.strip_prefix(name)
            .and_then(|rest| rest.strip_prefix('='))
            .ok_or(KeyFileDamage::Invalid(name))
    };
    let number = |text: &str, name| text.parse().map_err(|_| KeyFileDamage::Invalid(name));
    let generation: u64 = number(value("generation")?, "generation")?;
    let created = value("created")?.to_owned();
    if generation == 0 || created.parse::<jiff::Timestamp>().is_err() {
        return Err(KeyFileDamage::Invalid(if generation == 0 {
            "generation"
        } else {
            "created"
        }));
    }
    let count = usize::try_from(number(value("lanes")?, "lanes")?)
        .ok()
        .filter(|count| (1..=LANES_MAX).contains(count))
        .ok_or(KeyFileDamage::Invalid("lanes"))?;
    let lanes = (0..count)
        .map(|lane| parse_lane(lane, lines.next()))
        .collect::<Result<_, _>>()?;
    if lines.next().is_some() {
        return Err(KeyFileDamage::TrailingText);
    }
    Ok(Keys {
        generation,
        created,
        lanes,
    })
}

fn parse_lane(lane: usize, line: Option<Option<&str>>) -> Result<PrivateKey, KeyFileDamage> {
    let line = line
        .flatten()
        .ok_or(KeyFileDamage::Truncated("the last lane"))?;
    let (private, public) = line
        .strip_prefix(&format!("lane-{lane}="))
        .and_then(|keys| keys.split_once(' '))
        .ok_or(KeyFileDamage::Invalid("the line of a lane"))?;
    let key = PrivateKey::from_base64(private)
        .map_err(|source| KeyFileDamage::PrivateKey { lane, source })?;
    if public.parse() == Ok(key.public_key()) {
        Ok(key)
    } else {
        Err(KeyFileDamage::Mismatch { lane })
    }
}

#[cfg(test)]
mod tests;
