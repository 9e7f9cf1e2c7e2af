//! Receiver indices: how a datagram finds its session.
//!
//! boringtun gives us the upper 24 bits of each index and counts in the lower 8. Ours are 4 bits of
//! process generation, by which two processes of one node tell their datagrams apart, and 20 bits
//! of slot. Slots on the wire are permuted, so that an index does not tell how many peers a node
//! has. Looking one up takes no lock.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Bits of an index that name the process.
const GENERATION_BITS: u32 = 4;
/// Bits of an index that name the slot.
const SLOT_BITS: u32 = 20;
/// Slots of a process: a node of 10,000 peers with 8 lanes and 4 members each takes a third.
const SLOTS: u32 = 1 << SLOT_BITS;
/// Slots that are allocated together.
const CHUNK: u32 = 1024;
/// Time before a slot is given to another session: datagrams of the old one may still arrive as
/// long as a session lives.
pub(crate) const REUSE_AFTER: Duration = Duration::from_secs(180);

const _: () = assert!(GENERATION_BITS + SLOT_BITS == 24);

/// Whom a slot belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Ordinal of the peer in the peer table.
    pub(crate) peer: u32,
    /// Own lane.
    pub(crate) lane: usize,
}

impl Owner {
    /// 0 is a free slot.
    fn pack(self) -> u64 {
        1 | (self.lane as u64) << 8 | u64::from(self.peer) << 32
    }

    fn unpack(word: u64) -> Option<Self> {
        let lane = usize::try_from(word >> 8 & 0xff).ok()?;
        let peer = u32::try_from(word >> 32).ok()?;
        (word != 0).then_some(Self { peer, lane })
    }
}

/// A slot that is taken: the 24 bits of its indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(u32);

impl Slot {
    /// The 24 bits that boringtun takes.
    pub(crate) fn index(self) -> u32 {
        self.0
    }

    /// The slot that a whole receiver index of this process names.
    pub(crate) fn of(receiver: u32) -> Self {
        Self(receiver >> 8)
    }
}

/// Why an index finds nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unroutable {
    /// Issued by another process.
    ForeignGeneration,
    /// Not issued, or its session is gone.
    Unknown,
}

type Chunk = Box<[AtomicU64]>;

/// All indices of this process.
pub(crate) struct ReceiverIndices {
    generation: u32,
    keys: [u32; 4],
    chunks: Box<[OnceLock<Chunk>]>,
    free: Mutex<FreeSlots>,
}

/// Which slots can be taken.
struct FreeSlots {
    /// Slots from here on were never taken.
    unused: u32,
    /// Released slots, the longest free first.
    released: VecDeque<(Instant, u32)>,
}

impl ReceiverIndices {
    /// `generation` is of 4 bits; `seed` decides the permutation.
    pub(crate) fn new(generation: u8, seed: u64) -> Self {
        let mut seed = seed;
        Self {
            generation: u32::from(generation) & ((1 << GENERATION_BITS) - 1),
            keys: std::array::from_fn(|_| crate::jitter::next_u32(&mut seed)),
            chunks: (0..SLOTS / CHUNK).map(|_| OnceLock::new()).collect(),
            free: Mutex::new(FreeSlots {
                unused: 0,
                released: VecDeque::new(),
            }),
        }
    }

    /// Takes a slot. None when all are taken, or were too short a time ago.
    pub(crate) fn take(&self, owner: Owner, now: Instant) -> Option<Slot> {
        let slot = {
            let mut free = self.free.lock();
            let rested = |at: Instant| now.saturating_duration_since(at) >= REUSE_AFTER;
            match free.released.front() {
                Some((at, slot)) if rested(*at) => {
                    let slot = *slot;
                    free.released.pop_front();
                    slot
                }
                _ if free.unused < SLOTS => {
                    free.unused += 1;
                    free.unused - 1
                }
                _ => return None,
            }
        };
        let chunk = self.chunks[(slot / CHUNK) as usize]
            .get_or_init(|| (0..CHUNK).map(|_| AtomicU64::new(0)).collect());
        chunk[(slot % CHUNK) as usize].store(owner.pack(), Ordering::Release);
        Some(Slot(self.generation << SLOT_BITS | self.permute(slot)))
    }

    /// Gives a slot back.
    pub(crate) fn release(&self, slot: Slot, now: Instant) {
        let slot = self.unpermute(slot.0 & (SLOTS - 1));
        if let Some(chunk) = self.chunks[(slot / CHUNK) as usize].get() {
            chunk[(slot % CHUNK) as usize].store(0, Ordering::Release);
            self.free.lock().released.push_back((now, slot));
        }
    }

    /// Whom a receiver index belongs to.
    pub(crate) fn owner(&self, receiver: u32) -> Result<Owner, Unroutable> {
        if receiver >> (SLOT_BITS + 8) != self.generation {
            return Err(Unroutable::ForeignGeneration);
        }
        let slot = self.unpermute(receiver >> 8 & (SLOTS - 1));
        let chunk = self.chunks[(slot / CHUNK) as usize]
            .get()
            .ok_or(Unroutable::Unknown)?;
        let word = chunk[(slot % CHUNK) as usize].load(Ordering::Acquire);
        Owner::unpack(word).ok_or(Unroutable::Unknown)
    }

    /// A Feistel network over two halves of 10 bits: a permutation whatever its rounds compute.
    fn permute(&self, slot: u32) -> u32 {
        let (left, right) = self
            .keys
            .iter()
            .fold((slot >> 10, slot & HALF), |(l, r), key| {
                (r, l ^ round(r, *key))
            });
        left << 10 | right
    }

    fn unpermute(&self, slot: u32) -> u32 {
        let halves = (slot >> 10, slot & HALF);
        let (left, right) = self
            .keys
            .iter()
            .rev()
            .fold(halves, |(l, r), key| (r ^ round(l, *key), l));
        left << 10 | right
    }
}

const HALF: u32 = (1 << (SLOT_BITS / 2)) - 1;

fn round(half: u32, key: u32) -> u32 {
    let mixed = (half ^ key).wrapping_mul(0x9e37_79b1);
    (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca6b) >> 20 & HALF
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const OWNER: Owner = Owner { peer: 7, lane: 3 };

    #[test]
    fn an_index_finds_its_owner_until_it_is_released() {
        let now = Instant::now();
        let indices = ReceiverIndices::new(5, 42);
        let slot = indices.take(OWNER, now).expect("free");
        let receiver = slot.index() << 8 | 0x7f;
        assert_eq!(indices.owner(receiver), Ok(OWNER));
        assert_eq!(receiver >> 28, 5);
        indices.release(slot, now);
        assert_eq!(indices.owner(receiver), Err(Unroutable::Unknown));
    }

    #[test]
    fn another_process_generation_is_told_apart() {
        let indices = ReceiverIndices::new(5, 42);
        let slot = indices.take(OWNER, Instant::now()).expect("free");
        let foreign = (slot.index() ^ 1 << 23) << 8;
        assert_eq!(indices.owner(foreign), Err(Unroutable::ForeignGeneration));
    }

    #[test]
    fn a_slot_is_not_given_away_within_three_minutes() {
        let start = Instant::now();
        let indices = ReceiverIndices::new(0, 1);
        let first = indices.take(OWNER, start).expect("free");
        indices.release(first, start);
        let almost = start + Duration::from_secs(3 * 60 - 1);
        assert_ne!(indices.take(OWNER, almost), Some(first));
        assert_eq!(
            indices.take(OWNER, start + Duration::from_secs(3 * 60)),
            Some(first)
        );
    }

    #[test]
    fn all_slots_can_be_taken_and_no_two_are_alike() {
        let now = Instant::now();
        let indices = ReceiverIndices::new(15, 0xfeed);
        let slots: BTreeSet<_> = (0..SLOTS)
            .filter_map(|_| indices.take(OWNER, now))
            .collect();
        assert_eq!(slots.len(), 1 << 20);
        assert_eq!(indices.take(OWNER, now), None);
    }

    #[test]
    fn slots_on_the_wire_do_not_count_up() {
        let now = Instant::now();
        let indices = ReceiverIndices::new(0, 3);
        let slots: Vec<_> = (0..100)
            .filter_map(|_| indices.take(OWNER, now))
            .map(Slot::index)
            .collect();
        let neighbours = slots
            .windows(2)
            .filter(|pair| pair[0].abs_diff(pair[1]) == 1)
            .count();
        assert!(neighbours < 5, "{slots:?}");
        assert!(slots.iter().any(|slot| *slot > SLOTS / 2));
        let other = ReceiverIndices::new(0, 4);
        assert_ne!(
            other.take(OWNER, now).map(Slot::index),
            slots.first().copied()
        );
    }
}
