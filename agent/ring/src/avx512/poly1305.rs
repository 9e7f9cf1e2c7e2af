//! Poly1305 (RFC 8439 §2.5) in limbs of 44, 44 and 42 bits, three being the fewest whose multiples
//! by 20 stay within the multiplier's 52: eight blocks at a time where there are enough, else one.
//!
//! Worst cases, all bits of key and message set, in bits of the greatest limb: into the multiplier
//! 45.0, multiples by 20 48.4; sums of products 54.6 and 44.1; out of `reduce` 44.1; the sum of
//! eight lanes 47.0, and with a block 47.2 into `multiply`, whose columns have 93.8 and whose carry
//! has 49.5.

use core::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_broadcastq_epi64, _mm512_castsi512_si128,
    _mm512_madd52hi_epu64, _mm512_madd52lo_epu64, _mm512_or_si512, _mm512_reduce_add_epi64,
    _mm512_set1_epi64, _mm512_setzero_si512, _mm512_slli_epi64, _mm512_srli_epi64,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi64,
};

/// Bytes of a block.
const BLOCK_BYTES: usize = 16;

/// Bytes of eight blocks.
const ROW_BYTES: usize = 8 * BLOCK_BYTES;

/// From so many rows on, eight at a time pays for the powers of r that it needs. Measured: 256
/// bytes take the same time either way.
const ROWS_MIN: usize = 2;

/// The two low limbs.
const MASK_44: u64 = (1 << 44) - 1;

/// The high limb.
const MASK_42: u64 = (1 << 42) - 1;

/// The bit 2^128 that each whole block has on top, in the high limb.
const TOP_BIT: u64 = 1 << (128 - 88);

/// Bits of r that may be set (RFC 8439 §2.5).
const CLAMP: u128 = 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;

/// A number modulo 2^130 - 5, least limb first; after a multiplication each limb is less than one
/// bit above its width, as the sum of eight lanes less than four.
type Limbs = [u64; 3];

/// The tag of ciphertext without additional data (RFC 8439 §2.8), by a key that is used once.
#[target_feature(enable = "avx512f,avx512ifma")]
pub(super) fn tag(one_time_key: &[u8; 32], ciphertext: &[u8]) -> [u8; BLOCK_BYTES] {
    let [r, s]: [[u8; BLOCK_BYTES]; 2] = bytemuck::cast(*one_time_key);
    let r = limbs(u128::from_le_bytes(r) & CLAMP);
    let (rows, behind) = ciphertext.as_chunks::<ROW_BYTES>();
    let (mut sum, rest) = if rows.len() < ROWS_MIN {
        ([0; 3], ciphertext)
    } else {
        (evaluate(rows, r), behind)
    };
    for block in rest.chunks(BLOCK_BYTES) {
        let mut padded = [0; BLOCK_BYTES];
        padded[..block.len()].copy_from_slice(block);
        sum = absorb(sum, u128::from_le_bytes(padded), r);
    }
    // The length of the additional data, then that of the ciphertext.
    let lengths = (ciphertext.len() as u128) << 64;
    finish(absorb(sum, lengths, r), u128::from_le_bytes(s))
}

/// Takes in one block (RFC 8439 §2.5.1).
fn absorb(sum: Limbs, block: u128, r: Limbs) -> Limbs {
    let [low, middle, high] = limbs(block);
    let sum = [sum[0] + low, sum[1] + middle, sum[2] + (high | TOP_BIT)];
    multiply(sum, r)
}

/// The tag of a sum.
fn finish(sum: Limbs, s: u128) -> [u8; BLOCK_BYTES] {
    let sum = whole(sum);
    // What is at least 2^130 - 5 becomes less by it: adding 5 then carries out of 130 bits.
    let less = carry([sum[0] + 5, sum[1], sum[2]]);
    let keep = 0_u64.wrapping_sub((less[2] >> 42) ^ 1);
    let pick = |limb: usize| u128::from((sum[limb] & keep) | (less[limb] & !keep));
    let number = pick(0) | pick(1) << 44 | pick(2) << 88;
    number.wrapping_add(s).to_le_bytes()
}

/// The limbs of less than 2^128.
#[expect(clippy::cast_possible_truncation, reason = "masked, or of 40 bits")]
fn limbs(number: u128) -> Limbs {
    [
        number as u64 & MASK_44,
        (number >> 44) as u64 & MASK_44,
        (number >> 88) as u64,
    ]
}

/// Moves what exceeds a limb into the next; the last keeps what exceeds it.
fn carry([low, middle, high]: Limbs) -> Limbs {
    let middle = middle + (low >> 44);
    let high = high + (middle >> 44);
    [low & MASK_44, middle & MASK_44, high]
}

/// The same number below 2^130, each limb within its width.
fn whole(sum: Limbs) -> Limbs {
    let mut sum = carry(sum);
    // Once for what was above, once for what that may carry.
    for _ in 0..2 {
        let above = sum[2] >> 42;
        sum[2] &= MASK_42;
        sum[0] += 5 * above;
        sum = carry(sum);
    }
    sum
}

/// The product. 2^132 is 20: limbs above come down multiplied by it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "masked, or a carry of less than 64 bits"
)]
fn multiply(a: Limbs, b: Limbs) -> Limbs {
    debug_assert!(
        a.iter().chain(&b).all(|limb| *limb < 1 << 48),
        "{a:?} {b:?}"
    );
    let [a, [b0, b1, b2]] = [a.map(u128::from), b.map(u128::from)];
    let (b1_down, b2_down) = (b1 * 20, b2 * 20);
    let low = a[0] * b0 + a[1] * b2_down + a[2] * b1_down;
    let middle = a[0] * b1 + a[1] * b0 + a[2] * b2_down + (low >> 44);
    let high = a[0] * b2 + a[1] * b1 + a[2] * b0 + (middle >> 44);
    let low = (low as u64 & MASK_44) + 5 * (high >> 42) as u64;
    [
        low & MASK_44,
        (middle as u64 & MASK_44) + (low >> 44),
        high as u64 & MASK_42,
    ]
}

/// Eight numbers, limb by limb.
type WideLimbs = [__m512i; 3];

/// Eight numbers to multiply by, with the two limbs that come down multiplied by 20.
#[derive(Clone, Copy)]
struct Factor {
    limbs: WideLimbs,
    down: [__m512i; 2],
}

/// Sums of products: the low 52 bits and the high 52 bits of each, apart.
#[derive(Clone, Copy)]
struct Products {
    low: WideLimbs,
    high: WideLimbs,
}

/// The sum of whole rows, at least one: each lane takes every eighth block and goes on by r^8; at
/// the end it is multiplied by the power of its last block.
#[target_feature(enable = "avx512f,avx512ifma")]
fn evaluate(rows: &[[u8; ROW_BYTES]], r: Limbs) -> Limbs {
    let powers = powers(r);
    let r8 = factor(broadcast_first(powers.limbs));
    let r16 = factor(reduce(add_products(none(), r8.limbs, &r8)));
    let (first, rows) = rows.split_first().expect("there is a row");
    let mut lanes = split_row(first);
    let (pairs, odd) = rows.as_chunks::<2>();
    for [one, other] in pairs {
        let products = add_products(none(), lanes, &r16);
        let products = add_products(products, split_row(one), &r8);
        lanes = add(reduce(products), split_row(other));
    }
    for one in odd {
        lanes = add(reduce(add_products(none(), lanes, &r8)), split_row(one));
    }
    let lanes = reduce(add_products(none(), lanes, &powers));
    let mut sum = [0; 3];
    for (sum, lanes) in sum.iter_mut().zip(lanes) {
        *sum = _mm512_reduce_add_epi64(lanes).cast_unsigned();
    }
    sum
}

/// The powers 8, 4, 7, 3, 6, 2, 5 and 1 of r: those of a row's blocks, in [`split_row`]'s order.
#[target_feature(enable = "avx512f,avx512ifma")]
fn powers(r: Limbs) -> Factor {
    let r2 = multiply(r, r);
    let (r3, r4) = (multiply(r2, r), multiply(r2, r2));
    let one = [1, 0, 0];
    let low = lanes([r4, r4, r3, r3, r2, r2, r, r]);
    let up = factor(lanes([r4, one, r4, one, r4, one, r4, one]));
    factor(reduce(add_products(none(), low, &up)))
}

/// Eight numbers, a lane each.
#[target_feature(enable = "avx512f")]
fn lanes(numbers: [Limbs; 8]) -> WideLimbs {
    [0, 1, 2].map(|limb| bytemuck::cast(numbers.map(|number| number[limb])))
}

/// The first number in every lane.
#[target_feature(enable = "avx512f")]
fn broadcast_first(mut limbs: WideLimbs) -> WideLimbs {
    for limb in &mut limbs {
        *limb = _mm512_broadcastq_epi64(_mm512_castsi512_si128(*limb));
    }
    limbs
}

/// The eight blocks 0, 4, 1, 5, 2, 6, 3 and 7 of a row, a lane each.
#[inline]
#[target_feature(enable = "avx512f")]
fn split_row(row: &[u8; ROW_BYTES]) -> WideLimbs {
    let [before, behind]: [__m512i; 2] = bytemuck::cast(*row);
    let low = _mm512_unpacklo_epi64(before, behind);
    let high = _mm512_unpackhi_epi64(before, behind);
    let middle = _mm512_or_si512(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high));
    [
        _mm512_and_si512(low, all(MASK_44)),
        _mm512_and_si512(middle, all(MASK_44)),
        _mm512_or_si512(_mm512_srli_epi64::<24>(high), all(TOP_BIT)),
    ]
}

/// One number in every lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn all(number: u64) -> __m512i {
    _mm512_set1_epi64(number.cast_signed())
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add(a: WideLimbs, b: WideLimbs) -> WideLimbs {
    let mut sums = a;
    for (sum, b) in sums.iter_mut().zip(b) {
        *sum = _mm512_add_epi64(*sum, b);
    }
    sums
}

#[inline]
#[target_feature(enable = "avx512f")]
fn factor(limbs: WideLimbs) -> Factor {
    let mut down = [limbs[1], limbs[2]];
    for limb in &mut down {
        // By 20 as by 16 and 4: a multiplication of 64 bits takes three times as long.
        let (sixteen, four) = (_mm512_slli_epi64::<4>(*limb), _mm512_slli_epi64::<2>(*limb));
        *limb = _mm512_add_epi64(sixteen, four);
    }
    Factor { limbs, down }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn none() -> Products {
    Products {
        low: [_mm512_setzero_si512(); 3],
        high: [_mm512_setzero_si512(); 3],
    }
}

/// Adds the products of each lane. Of more than 52 bits of a limb or of its multiple by 20 the
/// multiplier would take the low ones and say nothing.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn add_products(products: Products, a: WideLimbs, b: &Factor) -> Products {
    let [b0, b1, b2] = b.limbs;
    let [b1_down, b2_down] = b.down;
    let columns = [[b0, b2_down, b1_down], [b1, b0, b2_down], [b2, b1, b0]];
    let Products { mut low, mut high } = products;
    for (limb, column) in columns.into_iter().enumerate() {
        for (a, b) in a.into_iter().zip(column) {
            low[limb] = _mm512_madd52lo_epu64(low[limb], a, b);
            high[limb] = _mm512_madd52hi_epu64(high[limb], a, b);
        }
    }
    Products { low, high }
}

/// The sums as numbers again, the low limb of 44 bits and the others of less than one bit more.
///
/// A high half weighs 2^52 of its limb: 2^8 of the next one, and behind the last limb, where 2^132
/// is 20, 5 times 2^10 of the first.
#[inline]
#[target_feature(enable = "avx512f")]
fn reduce(Products { low, high }: Products) -> WideLimbs {
    let (mask_44, mask_42) = (all(MASK_44), all(MASK_42));
    let middle = _mm512_add_epi64(low[1], _mm512_slli_epi64::<8>(high[0]));
    let middle = _mm512_add_epi64(middle, _mm512_srli_epi64::<44>(low[0]));
    let last = _mm512_add_epi64(low[2], _mm512_slli_epi64::<8>(high[1]));
    let last = _mm512_add_epi64(last, _mm512_srli_epi64::<44>(middle));
    let above = _mm512_slli_epi64::<10>(high[2]);
    let above = _mm512_add_epi64(above, _mm512_srli_epi64::<42>(last));
    let above = _mm512_add_epi64(above, _mm512_slli_epi64::<2>(above));
    let first = _mm512_add_epi64(_mm512_and_si512(low[0], mask_44), above);
    let middle = _mm512_and_si512(middle, mask_44);
    [
        _mm512_and_si512(first, mask_44),
        _mm512_add_epi64(middle, _mm512_srli_epi64::<44>(first)),
        _mm512_and_si512(last, mask_42),
    ]
}

#[cfg(test)]
mod tests;
