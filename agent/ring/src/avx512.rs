//! ChaCha20-Poly1305 (RFC 8439 §2.8) without additional data, in AVX-512 with IFMA: servers from
//! Ice Lake on, and Zen 4 and later.
//!
//! A packet of 1,420 bytes and the block of its one-time key are just 24 blocks of ChaCha20, which
//! 24 of the 32 registers hold at once; its tag is computed from eight blocks of 16 bytes at a
//! time. No branch and no address depends on a secret: all there is are additions, rotations,
//! shuffles and multiplications of registers, and lengths.

mod chacha20;
mod poly1305;

use aws_lc_rs::error::Unspecified;

use self::chacha20::{BLOCK_BYTES, BLOCKS_OF_A_QUAD};

/// The longest that is taken: more than any packet that UDP carries, and far from the end of the
/// counter of blocks.
pub(crate) const BYTES_MAX: usize = 1 << 17;

/// Most quads of blocks at once: six fill 24 of 32 registers.
const QUADS_MAX: usize = 6;

/// Bytes of a tag.
pub(crate) const TAG_BYTES: usize = 16;

/// Proof that the processor has what this code needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// The proof, on a processor that has it.
    pub(crate) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512ifma");
        has.then_some(Self(()))
    }

    /// Encrypts at most [`BYTES_MAX`] in place and returns their tag.
    #[expect(
        unsafe_code,
        reason = "processor features cannot be shown to the compiler"
    )]
    pub(crate) fn seal(self, key: &[u8; 32], nonce: &[u8; 12], data: &mut [u8]) -> [u8; TAG_BYTES] {
        // SAFETY: a value of this type exists only where `detect` found the features.
        unsafe { seal(key, nonce, data) }
    }

    /// Verifies the tag of at most [`BYTES_MAX`] and only then decrypts them in place.
    ///
    /// # Errors
    /// The tag is not theirs; they are as they were.
    #[expect(
        unsafe_code,
        reason = "processor features cannot be shown to the compiler"
    )]
    pub(crate) fn open(
        self,
        key: &[u8; 32],
        nonce: &[u8; 12],
        data: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<(), Unspecified> {
        // SAFETY: a value of this type exists only where `detect` found the features.
        unsafe { open(key, nonce, data, tag) }
    }
}

/// Bytes of data whose key stream and one-time key are `quads` quads.
const fn bytes_of(quads: usize) -> usize {
    (quads * BLOCKS_OF_A_QUAD - 1) * BLOCK_BYTES
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn seal(key: &[u8; 32], nonce: &[u8; 12], data: &mut [u8]) -> [u8; TAG_BYTES] {
    match data.len() {
        bytes if bytes <= bytes_of(1) => seal_with::<1>(key, nonce, data),
        bytes if bytes <= bytes_of(2) => seal_with::<2>(key, nonce, data),
        bytes if bytes <= bytes_of(4) => seal_with::<4>(key, nonce, data),
        _ => seal_with::<QUADS_MAX>(key, nonce, data),
    }
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn open(
    key: &[u8; 32],
    nonce: &[u8; 12],
    data: &mut [u8],
    tag: &[u8; TAG_BYTES],
) -> Result<(), Unspecified> {
    match data.len() {
        bytes if bytes <= bytes_of(1) => open_with::<1>(key, nonce, data, tag),
        bytes if bytes <= bytes_of(2) => open_with::<2>(key, nonce, data, tag),
        bytes if bytes <= bytes_of(4) => open_with::<4>(key, nonce, data, tag),
        _ => open_with::<QUADS_MAX>(key, nonce, data, tag),
    }
}

/// With a first stretch of key stream of so many quads.
#[target_feature(enable = "avx512f,avx512ifma")]
fn seal_with<const QUADS: usize>(
    key: &[u8; 32],
    nonce: &[u8; 12],
    data: &mut [u8],
) -> [u8; TAG_BYTES] {
    let stream = chacha20::key_stream::<QUADS>(key, nonce, 0);
    let (one_time_key, stream) = split_one_time_key(&stream);
    encrypt(key, nonce, stream, data);
    poly1305::tag(one_time_key, data)
}

/// With a first stretch of key stream of so many quads.
#[target_feature(enable = "avx512f,avx512ifma")]
fn open_with<const QUADS: usize>(
    key: &[u8; 32],
    nonce: &[u8; 12],
    data: &mut [u8],
    claimed: &[u8; TAG_BYTES],
) -> Result<(), Unspecified> {
    let stream = chacha20::key_stream::<QUADS>(key, nonce, 0);
    let (one_time_key, stream) = split_one_time_key(&stream);
    let computed = poly1305::tag(one_time_key, data);
    let difference = u128::from_le_bytes(computed) ^ u128::from_le_bytes(*claimed);
    // One comparison of the whole, whose time tells nothing of where they differ.
    if difference != 0 {
        return Err(Unspecified);
    }
    encrypt(key, nonce, stream, data);
    Ok(())
}

/// Block 0 gives the one-time key, all others are for the data (RFC 8439 §2.6 and §2.8).
fn split_one_time_key(stream: &[[u8; 256]]) -> (&[u8; 32], &[u8]) {
    let (first, stream) = stream.as_flattened().split_at(BLOCK_BYTES);
    let key = first.first_chunk().expect("a block has 64 bytes");
    (key, stream)
}

/// Encrypts or decrypts with the first stretch of key stream and as many more as it takes.
#[target_feature(enable = "avx512f,avx512ifma")]
fn encrypt(key: &[u8; 32], nonce: &[u8; 12], stream: &[u8], data: &mut [u8]) {
    let (first, mut rest) = data.split_at_mut(stream.len().min(data.len()));
    chacha20::apply(stream, first);
    let mut block = stream.len() / BLOCK_BYTES + 1;
    while !rest.is_empty() {
        let counter = u32::try_from(block).expect("BYTES_MAX are some thousand blocks");
        let stream = chacha20::key_stream::<QUADS_MAX>(key, nonce, counter);
        let stream = stream.as_flattened();
        let (next, behind) = rest.split_at_mut(stream.len().min(rest.len()));
        chacha20::apply(stream, next);
        rest = behind;
        block += QUADS_MAX * BLOCKS_OF_A_QUAD;
    }
}

#[cfg(test)]
mod tests;
