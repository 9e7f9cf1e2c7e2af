//! Pseudo-random numbers for jitter and for the slot permutation. Nothing secret depends on them.

use std::time::Duration;

//= WireGuard §6.1
/// The most by which an initiation is delayed at random, so that peers that were woken together do
/// not handshake together.
pub(crate) const JITTER_MAX: Duration = Duration::from_millis(333);

/// The next number of the SplitMix64 sequence.
pub(crate) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// The upper half of [`next`], which is the better one.
pub(crate) fn next_u32(state: &mut u64) -> u32 {
    u32::try_from(next(state) >> u32::BITS).expect("half of 64 bits")
}

/// A delay of up to [`JITTER_MAX`].
pub(crate) fn delay(state: &mut u64) -> Duration {
    let span = u64::try_from(JITTER_MAX.as_millis()).expect("333 fits");
    Duration::from_millis(next(state) % (span + 1))
}
