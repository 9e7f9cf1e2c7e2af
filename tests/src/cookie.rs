//! Random bytes that mark a payload as one that must never be seen in the clear.

use std::sync::atomic::{AtomicU64, Ordering};

use rustix::rand::{GetRandomFlags, getrandom};

/// Long enough that chance never makes one.
const COOKIE_BYTES: usize = 16;

/// What repeats in a payload: a cookie and a probe's number. Every run of 39 bytes has one whole
/// cookie, so that each fragment and each TCP segment of a payload can be recognised.
const TILE_BYTES: usize = COOKIE_BYTES + 8;

/// Numbers payloads, so that an answer is told from a late answer to an earlier one.
static NEXT_PROBE: AtomicU64 = AtomicU64::new(1);

/// Sixteen random bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookie([u8; COOKIE_BYTES]);

impl Cookie {
    /// A new one.
    ///
    /// # Panics
    /// Never: getrandom(2) gives up to 256 bytes at once.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; COOKIE_BYTES];
        let filled = getrandom(&mut bytes, GetRandomFlags::empty());
        assert_eq!(
            filled,
            Ok(COOKIE_BYTES),
            "getrandom(2) fills small buffers at once"
        );
        Self(bytes)
    }

    /// A new one that is text: half as random, which still no chance makes.
    pub(crate) fn random_text() -> (Self, String) {
        let text = format!("{:016x}", random_number());
        let bytes = text.as_bytes().first_chunk();
        (Self(*bytes.expect("sixteen digits")), text)
    }

    /// The bytes to search for.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// A payload of `bytes` full of this cookie and `number`.
    pub(crate) fn payload(&self, number: u64, bytes: usize) -> Vec<u8> {
        let mut tile = self.0.to_vec();
        tile.extend(number.to_be_bytes());
        debug_assert_eq!(tile.len(), TILE_BYTES);
        tile.iter().copied().cycle().take(bytes).collect()
    }
}

/// A random number.
pub(crate) fn random_number() -> u64 {
    let cookie = Cookie::random();
    let bytes = cookie.0.first_chunk().expect("a cookie has sixteen bytes");
    u64::from_be_bytes(*bytes)
}

/// A number that this process has not used yet.
pub(crate) fn next_number() -> u64 {
    NEXT_PROBE.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_run_of_39_bytes_has_a_whole_cookie() {
        let cookie = Cookie::random();
        let payload = cookie.payload(7, 500);
        for run in payload.windows(39) {
            assert!(
                run.windows(COOKIE_BYTES)
                    .any(|bytes| bytes == cookie.bytes())
            );
        }
    }
}
