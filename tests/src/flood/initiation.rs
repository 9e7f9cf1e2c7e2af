//! Handshake initiations as anybody can make them: no key of a peer is in them.

use anyhow::{Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput as _, KeyInit as _, Update as _};
use blake2::{Blake2s256, Blake2sMac, Digest as _};
use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

/// Bytes of an initiation.
const BYTES: usize = 148;
/// Where its two message authentication codes are.
const MAC1: usize = 116;
const MAC2: usize = 132;
/// Bytes of a cookie reply.
pub(super) const COOKIE_BYTES: usize = 64;

/// An initiation, which may be sent again and again.
#[derive(Debug, Clone)]
pub(super) struct Initiation {
    bytes: [u8; BYTES],
    /// Opens the receiver's cookies.
    cookie_key: [u8; 32],
}

impl Initiation {
    /// One that no key could have made.
    pub(super) fn forged() -> Self {
        let mut bytes = [0x5a; BYTES];
        bytes[..4].copy_from_slice(&[1, 0, 0, 0]);
        Self {
            bytes,
            cookie_key: [0; 32],
        }
    }

    /// One with a mac1 for a public key in base64. The rest is forged.
    pub(super) fn sealed(key: &str) -> Result<Self> {
        let key = STANDARD
            .decode(key)
            .map_err(|error| anyhow!("{key} is no public key in base64: {error}"))?;
        let mut initiation = Self::forged();
        //= WireGuard §5.4.4
        let mac1 = mac(&hash(b"mac1----", &key), &initiation.bytes[..MAC1]);
        initiation.bytes[MAC1..MAC2].copy_from_slice(&mac1);
        initiation.bytes[MAC2..].fill(0);
        initiation.cookie_key = hash(b"cookie--", &key);
        Ok(initiation)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes the cookie of a reply, by which the next copy proves its address; whether it was one.
    pub(super) fn take_cookie(&mut self, reply: &[u8]) -> bool {
        //= WireGuard §5.4.7
        // Type, receiver, nonce, sealed cookie.
        if reply.len() != COOKIE_BYTES || reply[..4] != [3, 0, 0, 0] {
            return false;
        }
        let sealed = Payload {
            msg: &reply[32..],
            aad: &self.bytes[MAC1..MAC2],
        };
        let cipher = XChaCha20Poly1305::new(&self.cookie_key.into());
        let Ok(cookie) = cipher.decrypt(XNonce::from_slice(&reply[8..32]), sealed) else {
            return false;
        };
        let mac2 = mac(&cookie, &self.bytes[..MAC2]);
        self.bytes[MAC2..].copy_from_slice(&mac2);
        true
    }
}

fn hash(label: &[u8; 8], key: &[u8]) -> [u8; 32] {
    Blake2s256::new()
        .chain_update(label)
        .chain_update(key)
        .finalize()
        .into()
}

/// Keyed BLAKE2s of 16 bytes.
fn mac(key: &[u8], bytes: &[u8]) -> [u8; 16] {
    let mut mac = Blake2sMac::<U16>::new_from_slice(key).expect("hashes and cookies are short");
    mac.update(bytes);
    mac.finalize_fixed().into()
}
