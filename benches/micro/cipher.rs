//! Sealing and opening alone, by the code that this processor gets and by AWS-LC.

use std::hint::black_box;

use criterion::{Criterion, Throughput};

/// An acknowledgement, a small packet, a full one, a jumbo one.
const BYTES: [usize; 4] = [52, 576, 1420, 8921];

/// Bytes of a tag.
const TAG_BYTES: usize = 16;

/// Sealing and opening by one of the two crates, which have the same interface.
macro_rules! bench {
    ($criterion:ident, $name:expr, $aead:path) => {{
        use $aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
        let key = UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).expect("32 bytes");
        let key = LessSafeKey::new(key);
        let nonce = || Nonce::assume_unique_for_key([9; 12]);
        let mut group = $criterion.benchmark_group("cipher");
        for bytes in BYTES {
            group.throughput(Throughput::Bytes(bytes as u64));
            let mut data = vec![0x5a; bytes];
            group.bench_function(format!("seal/{bytes}/{}", $name), |bencher| {
                bencher.iter(|| {
                    let tag = key.seal_in_place_separate_tag(nonce(), Aad::from(&[]), &mut data);
                    black_box(tag.is_ok())
                });
            });
            let tag = key
                .seal_in_place_separate_tag(nonce(), Aad::from(&[]), &mut data)
                .expect("it seals");
            let sealed = [&data, tag.as_ref()].concat();
            let mut room = vec![0; bytes + TAG_BYTES];
            group.bench_function(format!("open/{bytes}/{}", $name), |bencher| {
                bencher.iter(|| {
                    // boringtun copies, too.
                    room.copy_from_slice(&sealed);
                    let opened = key.open_in_place(nonce(), Aad::from(&[]), &mut room);
                    black_box(opened.is_ok())
                });
            });
        }
        group.finish();
    }};
}

pub(super) fn benches(criterion: &mut Criterion) {
    bench!(criterion, "aws-lc", aws_lc_rs::aead);
    let in_use = ring::cipher::in_use();
    if in_use != ring::cipher::Cipher::AwsLc {
        bench!(criterion, in_use, ring::aead);
    }
}
