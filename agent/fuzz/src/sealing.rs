//! A key, a nonce and a packet, sealed and opened by three implementations, and one bit of it
//! changed.
//!
//! A byte that says how often what is behind is repeated, two for the bit that is changed, 32 for
//! the key, 12 for the nonce, and the packet.

use aws_lc_rs::aead as aws_lc;
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use ring::aead;

use crate::input::Input;

/// More than a jumbo packet: no more paths are behind it.
const BYTES_MAX: usize = 16_384;

/// Bytes of a tag.
const TAG_BYTES: usize = 16;

/// One input.
pub fn one(data: &[u8]) {
    let mut input = Input::new(data);
    let times = usize::from(input.byte()) + 1;
    let bit = usize::from(input.word());
    let (mut key, mut nonce) = ([0; 32], [0; 12]);
    for place in key.iter_mut().chain(&mut nonce) {
        *place = input.byte();
    }
    let plain = input.rest();
    let plain = plain.repeat(times);
    let plain = &plain[..plain.len().min(BYTES_MAX)];

    let sealed = seal(&key, nonce, plain);
    assert_eq!(sealed, seal_by_aws_lc(&key, nonce, plain));
    assert_eq!(sealed, seal_by_rust_crypto(&key, nonce, plain));
    assert_eq!(open(&key, nonce, sealed.clone()).as_deref(), Some(plain));

    let mut changed = sealed;
    let bit = bit % (8 * changed.len());
    changed[bit / 8] ^= 1 << (bit % 8);
    assert_eq!(open(&key, nonce, changed), None);
}

fn key(key: &[u8]) -> aead::LessSafeKey {
    let key = aead::UnboundKey::new(&aead::CHACHA20_POLY1305, key).expect("a key has 32 bytes");
    aead::LessSafeKey::new(key)
}

fn seal(bytes: &[u8], nonce: [u8; 12], plain: &[u8]) -> Vec<u8> {
    let mut data = plain.to_vec();
    let nonce = aead::Nonce::assume_unique_for_key(nonce);
    let tag = key(bytes)
        .seal_in_place_separate_tag(nonce, aead::Aad::from(&[]), &mut data)
        .expect("a packet is short enough");
    data.extend_from_slice(tag.as_ref());
    data
}

fn open(bytes: &[u8], nonce: [u8; 12], mut data: Vec<u8>) -> Option<Vec<u8>> {
    let nonce = aead::Nonce::assume_unique_for_key(nonce);
    let opened = key(bytes).open_in_place(nonce, aead::Aad::from(&[]), &mut data);
    opened.ok().map(|plain| plain.to_vec())
}

fn seal_by_aws_lc(key: &[u8], nonce: [u8; 12], plain: &[u8]) -> Vec<u8> {
    let key = aws_lc::UnboundKey::new(&aws_lc::CHACHA20_POLY1305, key).expect("32 bytes");
    let mut data = plain.to_vec();
    let nonce = aws_lc::Nonce::assume_unique_for_key(nonce);
    aws_lc::LessSafeKey::new(key)
        .seal_in_place_append_tag(nonce, aws_lc::Aad::empty(), &mut data)
        .expect("a packet is short enough");
    data
}

fn seal_by_rust_crypto(key: &[u8; 32], nonce: [u8; 12], plain: &[u8]) -> Vec<u8> {
    let mut data = plain.to_vec();
    let tag = ChaCha20Poly1305::new(key.into())
        .encrypt_in_place_detached(&nonce.into(), &[], &mut data)
        .expect("a packet is short enough");
    data.extend_from_slice(&tag);
    assert_eq!(data.len(), plain.len() + TAG_BYTES);
    data
}
