//! Keys that seal and open: ring's types, but for the two that hold a key.

use std::fmt;

use aws_lc_rs::error::Unspecified;
use zeroize::Zeroizing;

pub use aws_lc_rs::aead::{Aad, Algorithm, CHACHA20_POLY1305, Nonce};

#[cfg(target_arch = "x86_64")]
use crate::avx512::Avx512;
use crate::cipher::Cipher;

/// Bytes of a key of ChaCha20-Poly1305.
const KEY_BYTES: usize = 32;

/// Bytes of its tag.
const TAG_BYTES: usize = 16;

/// What proves that a sealed packet is the key holder's.
#[derive(Debug, Clone, Copy)]
pub struct Tag([u8; TAG_BYTES]);

impl AsRef<[u8]> for Tag {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// On the heap, so that a moved key leaves no copy behind.
type KeyBytes = Box<Zeroizing<[u8; KEY_BYTES]>>;

/// A key that is bound to no way of using it, as ring has it.
pub struct UnboundKey(KeyBytes);

impl UnboundKey {
    /// A key of [`CHACHA20_POLY1305`], 32 bytes.
    ///
    /// # Errors
    /// Another algorithm or another length.
    pub fn new(algorithm: &'static Algorithm, key: &[u8]) -> Result<Self, Unspecified> {
        if *algorithm != CHACHA20_POLY1305 {
            return Err(Unspecified);
        }
        if key.len() != KEY_BYTES {
            return Err(Unspecified);
        }
        let mut bytes = Box::new(Zeroizing::new([0; KEY_BYTES]));
        bytes.copy_from_slice(key);
        Ok(Self(bytes))
    }
}

impl fmt::Debug for UnboundKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("UnboundKey")
    }
}

/// A key whose user sees to its nonces, as ring has it.
pub struct LessSafeKey(Code);

/// What a key is used with, chosen when it is made.
enum Code {
    AwsLc(aws_lc_rs::aead::LessSafeKey),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512, KeyBytes),
}

impl LessSafeKey {
    /// The same key, for the code that this process uses ([`crate::cipher`]).
    #[must_use]
    pub fn new(key: UnboundKey) -> Self {
        Self::with(crate::cipher::in_use(), key)
    }

    fn with(cipher: Cipher, key: UnboundKey) -> Self {
        #[cfg(target_arch = "x86_64")]
        if cipher == Cipher::Avx512
            && let Some(avx512) = Avx512::detect()
        {
            return Self(Code::Avx512(avx512, key.0));
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = cipher;
        Self(Code::AwsLc(aws_lc_key(&key.0)))
    }

    /// Encrypts data in place and returns their tag (RFC 8439 §2.8).
    ///
    /// # Errors
    /// More data than one nonce can encrypt.
    pub fn seal_in_place_separate_tag<A: AsRef<[u8]>>(
        &self,
        nonce: Nonce,
        aad: Aad<A>,
        data: &mut [u8],
    ) -> Result<Tag, Unspecified> {
        match &self.0 {
            Code::AwsLc(key) => seal_by_aws_lc(key, nonce, aad, data),
            #[cfg(target_arch = "x86_64")]
            Code::Avx512(avx512, key) if takes(&aad, data.len()) => {
                Ok(Tag(avx512.seal(key, nonce.as_ref(), data)))
            }
            #[cfg(target_arch = "x86_64")]
            Code::Avx512(_, key) => seal_by_aws_lc(&aws_lc_key(key), nonce, aad, data),
        }
    }

    /// Verifies the tag behind the data and decrypts them in place (RFC 8439 §2.8).
    ///
    /// # Errors
    /// The tag is not theirs: no plaintext is left then. The data are as they were (AVX-512), or
    /// zeros (AWS-LC).
    pub fn open_in_place<'data, A: AsRef<[u8]>>(
        &self,
        nonce: Nonce,
        aad: Aad<A>,
        data: &'data mut [u8],
    ) -> Result<&'data mut [u8], Unspecified> {
        match &self.0 {
            Code::AwsLc(key) => key.open_in_place(nonce, aad, data),
            #[cfg(target_arch = "x86_64")]
            Code::Avx512(avx512, key) if takes(&aad, data.len()) => {
                let (data, tag) = data.split_last_chunk_mut().ok_or(Unspecified)?;
                avx512.open(key, nonce.as_ref(), data, tag)?;
                Ok(data)
            }
            #[cfg(target_arch = "x86_64")]
            Code::Avx512(_, key) => aws_lc_key(key).open_in_place(nonce, aad, data),
        }
    }
}

impl fmt::Debug for LessSafeKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("LessSafeKey")
    }
}

/// Whether it is a packet of a tunnel, as boringtun 0.7 seals it: no additional data (those of its
/// handshakes are a hash), and no longer than such a packet can be.
#[cfg(target_arch = "x86_64")]
fn takes<A: AsRef<[u8]>>(aad: &Aad<A>, bytes: usize) -> bool {
    aad.as_ref().is_empty() && bytes <= crate::avx512::BYTES_MAX
}

fn seal_by_aws_lc<A: AsRef<[u8]>>(
    key: &aws_lc_rs::aead::LessSafeKey,
    nonce: Nonce,
    aad: Aad<A>,
    data: &mut [u8],
) -> Result<Tag, Unspecified> {
    let tag = key.seal_in_place_separate_tag(nonce, aad, data)?;
    tag.as_ref().try_into().map(Tag).map_err(|_| Unspecified)
}

/// AWS-LC's own key.
pub(crate) fn aws_lc_key(key: &[u8; KEY_BYTES]) -> aws_lc_rs::aead::LessSafeKey {
    let key = aws_lc_rs::aead::UnboundKey::new(&CHACHA20_POLY1305, key)
        .expect("a key of ChaCha20-Poly1305 has 32 bytes");
    aws_lc_rs::aead::LessSafeKey::new(key)
}

#[cfg(test)]
mod tests;
