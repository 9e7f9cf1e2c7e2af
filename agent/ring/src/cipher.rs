//! Which code seals and opens the packets of this process.

use std::fmt;
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use crate::avx512::Avx512;

/// Whose code it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cipher {
    /// `avx512` of this crate.
    Avx512,
    /// AWS-LC, as fast as ring: its code has the same origin.
    AwsLc,
}

impl fmt::Display for Cipher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Avx512 => "avx512",
            Self::AwsLc => "aws-lc",
        })
    }
}

/// What a processor's AVX-512 is worth here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// It computes what AWS-LC computes.
    Agrees,
    /// It computes something else: a broken processor or emulator. One that claims what it has not
    /// at all ends the process by SIGILL; [`use_aws_lc`] comes without this.
    Disagrees,
    /// There is none.
    Missing,
}

static FOUND: OnceLock<Finding> = OnceLock::new();

static CHOSEN: OnceLock<Cipher> = OnceLock::new();

/// What keys are used with: AVX-512 where the processor's agrees, unless [`use_aws_lc`] came first.
pub fn in_use() -> Cipher {
    *CHOSEN.get_or_init(|| match found() {
        Finding::Agrees => Cipher::Avx512,
        Finding::Disagrees | Finding::Missing => Cipher::AwsLc,
    })
}

/// Leaves all to AWS-LC. Returns what holds: the first call of this or of [`in_use`] decides for
/// the life of the process, so that no session changes its code.
pub fn use_aws_lc() -> Cipher {
    *CHOSEN.get_or_init(|| Cipher::AwsLc)
}

/// What this processor's AVX-512 is worth, found out once, in some microseconds.
pub fn found() -> Finding {
    *FOUND.get_or_init(find)
}

#[cfg(not(target_arch = "x86_64"))]
const fn find() -> Finding {
    Finding::Missing
}

#[cfg(target_arch = "x86_64")]
fn find() -> Finding {
    match Avx512::detect() {
        Some(avx512) if agrees(avx512) => Finding::Agrees,
        Some(_) => Finding::Disagrees,
        None => Finding::Missing,
    }
}

/// Lengths that reach every path of the code: nothing, part of a block, each number of quads, rows
/// in pairs and an odd one, more than one stretch of key stream.
#[cfg(target_arch = "x86_64")]
const CHECKED_BYTES: [usize; 10] = [0, 15, 192, 255, 256, 700, 961, 1300, 1420, 4000];

/// What is sealed: bytes that count, and all bits set, so that every limb carries.
#[cfg(target_arch = "x86_64")]
const CHECKED_DATA: [fn(usize) -> u8; 2] = [|place| place.to_le_bytes()[0], |_| u8::MAX];

#[cfg(target_arch = "x86_64")]
fn agrees(avx512: Avx512) -> bool {
    let key = std::array::from_fn(|place| place.to_le_bytes()[0] ^ 0xa5);
    let nonce = [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    CHECKED_DATA.into_iter().all(|byte| {
        CHECKED_BYTES.into_iter().all(|bytes| {
            let plain: Vec<u8> = (0..bytes).map(byte).collect();
            agrees_on(avx512, &key, nonce, &plain)
        })
    })
}

/// Whether it seals as AWS-LC does, opens what it has sealed, and nothing else.
#[cfg(target_arch = "x86_64")]
fn agrees_on(avx512: Avx512, key: &[u8; 32], nonce: [u8; 12], plain: &[u8]) -> bool {
    let (mut ours, mut expected) = (plain.to_vec(), plain.to_vec());
    let tag = avx512.seal(key, &nonce, &mut ours);
    let aws_lcs = crate::aead::aws_lc_key(key).seal_in_place_separate_tag(
        aws_lc_rs::aead::Nonce::assume_unique_for_key(nonce),
        aws_lc_rs::aead::Aad::empty(),
        &mut expected,
    );
    let mut wrong = tag;
    wrong[0] ^= 1;
    let is_sealed = aws_lcs.is_ok_and(|aws_lcs| aws_lcs.as_ref() == tag) && ours == expected;
    let refusal = avx512.open(key, &nonce, &mut ours, &wrong);
    let is_refused = refusal.is_err() && ours == expected;
    let is_opened = avx512.open(key, &nonce, &mut ours, &tag).is_ok() && ours == plain;
    is_sealed && is_refused && is_opened
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn a_processor_with_avx512_agrees() {
        let expected = match Avx512::detect() {
            Some(_) => Finding::Agrees,
            None => Finding::Missing,
        };
        assert_eq!(found(), expected);
    }

    /// As `avx512.rs` and `avx512/poly1305.rs` tell them apart.
    #[test]
    fn the_check_reaches_every_path() {
        let rows = |bytes: usize| bytes / 128;
        let reaches = |path: &dyn Fn(usize) -> bool| CHECKED_BYTES.into_iter().any(path);
        for quads in [0..=192, 193..=448, 449..=960, 961..=1472, 1473..=usize::MAX] {
            assert!(reaches(&|bytes| quads.contains(&bytes)), "{quads:?}");
        }
        assert!(
            reaches(&|bytes| bytes % 64 == 0 && bytes > 0),
            "whole blocks"
        );
        assert!(reaches(&|bytes| bytes % 16 > 0), "part of a block");
        assert!(reaches(&|bytes| rows(bytes) == 0), "no row");
        assert!(reaches(&|bytes| rows(bytes) == 2), "an odd row alone");
        assert!(
            reaches(&|bytes| rows(bytes) > 2 && rows(bytes) % 2 == 0),
            "pairs and an odd one"
        );
        assert!(
            reaches(&|bytes| rows(bytes) > 2 && rows(bytes) % 2 == 1),
            "pairs"
        );
    }
}
