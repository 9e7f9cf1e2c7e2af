//! Which code seals and opens the packets of this process.

use std::fmt;
use std::sync::OnceLock;

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
    /// It computes something else: a broken processor, or an emulator that claims too much.
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
    match crate::avx512::Avx512::detect() {
        Some(avx512) if agrees(avx512) => Finding::Agrees,
        Some(_) => Finding::Disagrees,
        None => Finding::Missing,
    }
}

/// Lengths that reach every path of the code: nothing, part of a block, each number of quads, more
/// than one stretch of key stream.
#[cfg(target_arch = "x86_64")]
const CHECKED_BYTES: [usize; 8] = [0, 15, 192, 255, 700, 961, 1420, 4000];

#[cfg(target_arch = "x86_64")]
fn agrees(avx512: crate::avx512::Avx512) -> bool {
    let key = std::array::from_fn(|place| place.to_le_bytes()[0] ^ 0xa5);
    let nonce = [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    CHECKED_BYTES.into_iter().all(|bytes| {
        let plain: Vec<u8> = (0..bytes).map(|place| place.to_le_bytes()[0]).collect();
        let (mut ours, mut expected) = (plain.clone(), plain.clone());
        let tag = avx512.seal(&key, &nonce, &mut ours);
        let aws_lcs = crate::aead::aws_lc_key(&key).seal_in_place_separate_tag(
            aws_lc_rs::aead::Nonce::assume_unique_for_key(nonce),
            aws_lc_rs::aead::Aad::empty(),
            &mut expected,
        );
        aws_lcs.is_ok_and(|aws_lcs| aws_lcs.as_ref() == tag)
            && ours == expected
            && avx512.open(&key, &nonce, &mut ours, &tag).is_ok()
            && ours == plain
    })
}
