use aws_lc_rs::aead::{Aad, Nonce};
use proptest::prelude::*;

use super::*;
use crate::aead::aws_lc_key;

/// On a processor without AVX-512 there is nothing here to test: the code never runs there.
fn with_avx512(test: impl FnOnce(Avx512)) {
    match Avx512::detect() {
        Some(avx512) => test(avx512),
        None => eprintln!("this processor has no AVX-512: nothing was tested"),
    }
}

/// What AWS-LC makes of it: ciphertext and tag.
fn sealed_by_aws_lc(key: &[u8; 32], nonce: [u8; 12], plain: &[u8]) -> (Vec<u8>, [u8; TAG_BYTES]) {
    let mut data = plain.to_vec();
    let tag = aws_lc_key(key)
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut data)
        .expect("AWS-LC seals");
    (data, tag.as_ref().try_into().expect("a tag has 16 bytes"))
}

fn assert_is_aws_lcs(avx512: Avx512, key: &[u8; 32], nonce: [u8; 12], plain: &[u8]) {
    let (ciphertext, tag) = sealed_by_aws_lc(key, nonce, plain);
    let mut data = plain.to_vec();
    let bytes = plain.len();
    assert_eq!(
        avx512.seal(key, &nonce, &mut data),
        tag,
        "tag of {bytes} bytes"
    );
    assert_eq!(data, ciphertext, "ciphertext of {bytes} bytes");
    assert!(
        avx512.open(key, &nonce, &mut data, &tag).is_ok(),
        "{bytes} bytes"
    );
    assert_eq!(data, plain, "plaintext of {bytes} bytes");
}

#[test]
fn every_length_of_a_packet_is_sealed_as_aws_lc_seals_it() {
    with_avx512(|avx512| {
        let key = std::array::from_fn(|place| place.to_le_bytes()[0] ^ 0x3c);
        let plain: Vec<u8> = (0..9100_usize)
            .map(|place| (place * 7).to_le_bytes()[0])
            .collect();
        for bytes in (0..=2200_usize).chain(8900..=9100).chain([65_535]) {
            let nonce = [0, 0, 0, 0, 9, 8, 7, 6, 5, 4, 3, bytes.to_le_bytes()[0]];
            let plain: Vec<u8> = plain.iter().copied().cycle().take(bytes).collect();
            assert_is_aws_lcs(avx512, &key, nonce, &plain);
        }
    });
}

#[test]
fn the_longest_is_sealed_as_aws_lc_seals_it() {
    with_avx512(|avx512| assert_is_aws_lcs(avx512, &[1; 32], [2; 12], &vec![3; BYTES_MAX]));
}

#[test]
fn nothing_is_decrypted_when_any_bit_is_wrong() {
    with_avx512(|avx512| {
        let (key, nonce) = ([5; 32], [6; 12]);
        for bytes in [0, 1, 100, 200, 500, 1000, 1420, 3000] {
            let mut sealed = vec![0x77; bytes];
            let tag = avx512.seal(&key, &nonce, &mut sealed);
            for bit in 0..TAG_BYTES * 8 {
                let mut wrong = tag;
                wrong[bit / 8] ^= 1 << (bit % 8);
                let mut data = sealed.clone();
                assert!(avx512.open(&key, &nonce, &mut data, &wrong).is_err());
                assert_eq!(data, sealed, "wrong bit {bit} of the tag of {bytes} bytes");
            }
            for place in 0..bytes {
                let mut data = sealed.clone();
                data[place] ^= 0x80;
                let before = data.clone();
                assert!(avx512.open(&key, &nonce, &mut data, &tag).is_err());
                assert_eq!(data, before, "wrong byte {place} of {bytes}");
            }
            let (other_key, other_nonce) = ([4; 32], [7; 12]);
            assert!(
                avx512
                    .open(&other_key, &nonce, &mut sealed.clone(), &tag)
                    .is_err()
            );
            assert!(
                avx512
                    .open(&key, &other_nonce, &mut sealed.clone(), &tag)
                    .is_err()
            );
        }
    });
}

#[test]
fn the_text_of_rfc_8439_is_encrypted_as_it_says() {
    // RFC 8439 §2.4.2, whose counter begins at 1, as an AEAD's does.
    let plain = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for \
        the future, sunscreen would be it.";
    let key = std::array::from_fn(|place| place.to_le_bytes()[0]);
    let nonce = [0, 0, 0, 0, 0, 0, 0, 0x4a, 0, 0, 0, 0];
    let begins = [0x6e, 0x2e, 0x35, 0x9a, 0x25, 0x68, 0xf9, 0x80];
    let ends = [0x5e, 0x42, 0x87, 0x4d];
    with_avx512(|avx512| {
        let mut data = plain.to_vec();
        avx512.seal(&key, &nonce, &mut data);
        assert_eq!(data[..8], begins);
        assert_eq!(data[data.len() - 4..], ends);
    });
}

proptest! {
    #[test]
    fn random_packets_are_sealed_as_aws_lc_seals_them(
        key: [u8; 32],
        nonce: [u8; 12],
        plain in proptest::collection::vec(any::<u8>(), 0..5000),
    ) {
        with_avx512(|avx512| assert_is_aws_lcs(avx512, &key, nonce, &plain));
    }
}
