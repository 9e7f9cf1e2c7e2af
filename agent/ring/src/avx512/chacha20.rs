//! ChaCha20 (RFC 8439 §2.3 and §2.4), four blocks in four registers: register i holds row i of
//! each block's state, a block in every 128 bits.

use core::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_rol_epi32, _mm512_shuffle_epi32, _mm512_shuffle_i32x4,
    _mm512_xor_si512,
};

/// Bytes of a block.
pub(super) const BLOCK_BYTES: usize = 64;

/// Blocks that four registers hold.
pub(super) const BLOCKS_OF_A_QUAD: usize = 4;

/// By so much a quad's counters are above those of the one before.
const STEP: u32 = 4;

/// "expand 32-byte k" (RFC 8439 §2.3).
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// Twenty rounds are ten of columns and ten of diagonals.
const DOUBLE_ROUNDS: usize = 10;

/// The rows of four blocks.
type Quad = [__m512i; 4];

/// So many quads of key stream, from block `counter` on.
#[target_feature(enable = "avx512f")]
pub(super) fn key_stream<const QUADS: usize>(
    key: &[u8; 32],
    nonce: &[u8; 12],
    counter: u32,
) -> [[u8; BLOCKS_OF_A_QUAD * BLOCK_BYTES]; QUADS] {
    let start = start::<QUADS>(key, nonce, counter);
    let mut quads = start;
    for _ in 0..DOUBLE_ROUNDS {
        round(&mut quads);
        for [_, b, c, d] in &mut quads {
            *b = _mm512_shuffle_epi32::<0b00_11_10_01>(*b);
            *c = _mm512_shuffle_epi32::<0b01_00_11_10>(*c);
            *d = _mm512_shuffle_epi32::<0b10_01_00_11>(*d);
        }
        round(&mut quads);
        for [_, b, c, d] in &mut quads {
            *b = _mm512_shuffle_epi32::<0b10_01_00_11>(*b);
            *c = _mm512_shuffle_epi32::<0b01_00_11_10>(*c);
            *d = _mm512_shuffle_epi32::<0b00_11_10_01>(*d);
        }
    }
    let mut stream = [[0; BLOCKS_OF_A_QUAD * BLOCK_BYTES]; QUADS];
    for ((stream, quad), start) in stream.iter_mut().zip(quads).zip(start) {
        let mut sums = quad;
        for (sum, start) in sums.iter_mut().zip(start) {
            *sum = _mm512_add_epi32(*sum, start);
        }
        *stream = bytemuck::cast(blocks(sums));
    }
    stream
}

/// The states before the first round: the blocks of a quad and the quads count on.
#[target_feature(enable = "avx512f")]
fn start<const QUADS: usize>(key: &[u8; 32], nonce: &[u8; 12], counter: u32) -> [Quad; QUADS] {
    let key: [[u8; 16]; 2] = bytemuck::cast(*key);
    let constants = [CONSTANTS; BLOCKS_OF_A_QUAD];
    let [low, high] = key.map(|half| [half; BLOCKS_OF_A_QUAD]);
    let nonce: [u32; 3] = bytemuck::cast(*nonce);
    let mut row = [[0, nonce[0], nonce[1], nonce[2]]; BLOCKS_OF_A_QUAD];
    for (number, row) in (0..).zip(&mut row) {
        row[0] = counter.wrapping_add(number);
    }
    let mut last: __m512i = bytemuck::cast(row);
    let step: __m512i = bytemuck::cast([[STEP, 0, 0, 0]; BLOCKS_OF_A_QUAD]);
    let mut quads = [[last; 4]; QUADS];
    for quad in &mut quads {
        *quad = [
            bytemuck::cast(constants),
            bytemuck::cast(low),
            bytemuck::cast(high),
            last,
        ];
        last = _mm512_add_epi32(last, step);
    }
    quads
}

/// A quarter round (RFC 8439 §2.1) of every column of every block.
#[inline]
#[target_feature(enable = "avx512f")]
fn round<const QUADS: usize>(quads: &mut [Quad; QUADS]) {
    for [a, b, _, d] in &mut *quads {
        *a = _mm512_add_epi32(*a, *b);
        *d = _mm512_rol_epi32::<16>(_mm512_xor_si512(*d, *a));
    }
    for [_, b, c, d] in &mut *quads {
        *c = _mm512_add_epi32(*c, *d);
        *b = _mm512_rol_epi32::<12>(_mm512_xor_si512(*b, *c));
    }
    for [a, b, _, d] in &mut *quads {
        *a = _mm512_add_epi32(*a, *b);
        *d = _mm512_rol_epi32::<8>(_mm512_xor_si512(*d, *a));
    }
    for [_, b, c, d] in &mut *quads {
        *c = _mm512_add_epi32(*c, *d);
        *b = _mm512_rol_epi32::<7>(_mm512_xor_si512(*b, *c));
    }
}

/// From the rows of four blocks the blocks.
#[inline]
#[target_feature(enable = "avx512f")]
fn blocks([a, b, c, d]: Quad) -> [__m512i; BLOCKS_OF_A_QUAD] {
    let ab_low = _mm512_shuffle_i32x4::<0b01_00_01_00>(a, b);
    let ab_high = _mm512_shuffle_i32x4::<0b11_10_11_10>(a, b);
    let cd_low = _mm512_shuffle_i32x4::<0b01_00_01_00>(c, d);
    let cd_high = _mm512_shuffle_i32x4::<0b11_10_11_10>(c, d);
    [
        _mm512_shuffle_i32x4::<0b10_00_10_00>(ab_low, cd_low),
        _mm512_shuffle_i32x4::<0b11_01_11_01>(ab_low, cd_low),
        _mm512_shuffle_i32x4::<0b10_00_10_00>(ab_high, cd_high),
        _mm512_shuffle_i32x4::<0b11_01_11_01>(ab_high, cd_high),
    ]
}

/// Adds key stream, at least as long, to data without carry.
#[target_feature(enable = "avx512f")]
pub(super) fn apply(stream: &[u8], data: &mut [u8]) {
    let (streams, stream) = stream[..data.len()].as_chunks::<BLOCK_BYTES>();
    let (blocks, rest) = data.as_chunks_mut::<BLOCK_BYTES>();
    for (block, stream) in blocks.iter_mut().zip(streams) {
        let sum = _mm512_xor_si512(bytemuck::cast(*block), bytemuck::cast(*stream));
        *block = bytemuck::cast(sum);
    }
    for (byte, stream) in rest.iter_mut().zip(stream) {
        *byte ^= stream;
    }
}
