use ::poly1305::Poly1305;
use ::poly1305::universal_hash::KeyInit;
use ::poly1305::universal_hash::UniversalHash;
use proptest::prelude::*;

use super::*;
use crate::avx512::Avx512;

/// Another implementation's tag.
fn expected(key: &[u8; 32], ciphertext: &[u8]) -> [u8; BLOCK_BYTES] {
    let mut poly1305 = Poly1305::new(key.into());
    poly1305.update_padded(ciphertext);
    let lengths = (ciphertext.len() as u128) << 64;
    poly1305.update_padded(&lengths.to_le_bytes());
    poly1305.finalize().into()
}

#[expect(
    unsafe_code,
    reason = "processor features cannot be shown to the compiler"
)]
fn computed(key: &[u8; 32], ciphertext: &[u8]) -> Option<[u8; BLOCK_BYTES]> {
    // SAFETY: `detect` found the features.
    Avx512::detect().map(|_| unsafe { tag(key, ciphertext) })
}

fn assert_is_expected(key: &[u8; 32], ciphertext: &[u8]) {
    if let Some(computed) = computed(key, ciphertext) {
        let bytes = ciphertext.len();
        assert_eq!(
            computed,
            expected(key, ciphertext),
            "{bytes} bytes under {key:02x?}"
        );
    }
}

/// All bits, no bits, the last and the first: what makes limbs carry, or not.
const EXTREMES: [u8; 6] = [0x00, 0x01, 0x0f, 0x7f, 0x80, 0xff];

#[test]
fn extreme_keys_and_messages_carry_as_they_should() {
    for r in EXTREMES {
        for s in EXTREMES {
            let mut key = [r; 32];
            key[16..].fill(s);
            for byte in EXTREMES {
                for bytes in [
                    0, 1, 15, 16, 17, 31, 32, 127, 128, 383, 384, 385, 512, 640, 1420, 1424,
                ] {
                    assert_is_expected(&key, &vec![byte; bytes]);
                }
            }
        }
    }
}

/// RFC 8439 §A.3: sums near 2^130 - 5, as blocks, r, s and the tag.
#[test]
fn sums_near_the_modulus_give_the_tags_of_rfc_8439() {
    let ones = u128::MAX;
    let nearly = u128::from_le_bytes([0xfe; 16]) - 3;
    let each_one = u128::from_le_bytes([0x01; 16]);
    // Test vectors 7 to 11.
    let cases: [(&[u128], u128, u128, u128); 5] = [
        (&[ones], 2, 0, 3),
        (&[2], 2, ones, 3),
        (&[ones, ones - 0xf, 0x11], 1, 0, 5),
        (&[ones, nearly, each_one], 1, 0, 0),
        (&[ones - 2], 2, 0, ones - 5),
    ];
    for (number, (blocks, r, s, expected)) in (7..).zip(cases) {
        let r = limbs(r);
        let sum = blocks
            .iter()
            .fold([0; 3], |sum, block| absorb(sum, *block, r));
        assert_eq!(
            u128::from_le_bytes(finish(sum, s)),
            expected,
            "vector {number}"
        );
    }
}

proptest! {
    #[test]
    fn random_messages_have_the_tags_of_another_implementation(
        key: [u8; 32],
        ciphertext in proptest::collection::vec(any::<u8>(), 0..3000),
    ) {
        assert_is_expected(&key, &ciphertext);
    }

    #[test]
    fn messages_of_extremes_have_the_tags_of_another_implementation(
        r in proptest::collection::vec(proptest::sample::select(&EXTREMES[..]), 32),
        ciphertext in proptest::collection::vec(proptest::sample::select(&EXTREMES[..]), 0..2000),
    ) {
        let key: [u8; 32] = r.try_into().expect("32 bytes were asked for");
        assert_is_expected(&key, &ciphertext);
    }
}
