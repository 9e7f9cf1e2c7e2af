use aws_lc_rs::aead::AES_256_GCM;

use super::*;

/// Both ways to compute it; on a processor without AVX-512 the second is the first once more.
const CIPHERS: [Cipher; 2] = [Cipher::AwsLc, Cipher::Avx512];

/// Lengths on both sides of every border: of a tag, of what AVX-512 takes, with and without a tag.
const LENGTHS: [usize; 7] = [
    0,
    1,
    1420,
    (1 << 17) - 16,
    1 << 17,
    (1 << 17) + 1,
    (1 << 17) + 16,
];

fn key(cipher: Cipher) -> LessSafeKey {
    let key = UnboundKey::new(&CHACHA20_POLY1305, &[0x42; KEY_BYTES]).expect("a key");
    LessSafeKey::with(cipher, key)
}

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([7; 12])
}

fn sealed(cipher: Cipher, aad: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut data = plain.to_vec();
    let tag = key(cipher)
        .seal_in_place_separate_tag(nonce(), Aad::from(aad), &mut data)
        .expect("it seals");
    data.extend_from_slice(tag.as_ref());
    data
}

#[test]
fn what_one_seals_the_other_opens_at_every_length() {
    for bytes in LENGTHS {
        let plain = vec![0x5a; bytes];
        for aad in [&[][..], b"a hash"] {
            for (one, other) in [(0, 1), (1, 0), (1, 1)] {
                let mut data = sealed(CIPHERS[one], aad, &plain);
                let opened = key(CIPHERS[other]).open_in_place(nonce(), Aad::from(aad), &mut data);
                assert_eq!(opened.expect("it opens"), &plain, "{bytes} bytes");
            }
        }
    }
}

#[test]
fn no_plaintext_is_left_of_what_is_not_authentic() {
    for cipher in CIPHERS {
        let plain = [0x5a; 300];
        let mut data = sealed(cipher, &[], &plain);
        *data.last_mut().expect("a tag") ^= 1;
        let before = data.clone();
        let opened = key(cipher).open_in_place(nonce(), Aad::from(&[]), &mut data);
        assert!(opened.is_err(), "{cipher}");
        let body = &data[..plain.len()];
        assert!(
            *body == before[..plain.len()] || body.iter().all(|byte| *byte == 0),
            "{cipher}"
        );
    }
}

#[test]
fn what_is_shorter_than_a_tag_is_refused() {
    for cipher in CIPHERS {
        for bytes in 0..TAG_BYTES {
            let mut data = vec![0; bytes];
            let opened = key(cipher).open_in_place(nonce(), Aad::from(&[]), &mut data);
            assert!(opened.is_err(), "{bytes} bytes by {cipher}");
        }
    }
}

#[test]
fn a_key_of_another_length_or_algorithm_is_none() {
    for bytes in [0, 31, 33] {
        assert!(UnboundKey::new(&CHACHA20_POLY1305, &vec![0; bytes]).is_err());
    }
    assert!(UnboundKey::new(&AES_256_GCM, &[0; KEY_BYTES]).is_err());
}

#[test]
fn a_key_is_never_printed() {
    let unbound = UnboundKey::new(&CHACHA20_POLY1305, &[0x42; KEY_BYTES]).expect("a key");
    assert_eq!(format!("{unbound:?}"), "UnboundKey");
    for cipher in CIPHERS {
        assert_eq!(format!("{:?}", key(cipher)), "LessSafeKey");
    }
}
