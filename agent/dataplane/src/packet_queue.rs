//! Packets that wait for a session: bounded, the oldest goes first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::message::PADDING;

/// Packets that wait for one peer's lane at most: a burst of a TCP window, as in the kernel's
/// driver.
pub const QUEUE_PACKETS: usize = 128;
/// Bytes that wait for one peer's lane at most: 128 full Ethernet frames.
pub const QUEUE_BYTES: usize = 192 * 1024;
/// Bytes that wait for all lanes of all peers at most, with what a packet takes besides. Some three
/// hundred peers that do not answer may have full queues at once; with thousands of them, each
/// packet of a node that is cut off would else wait, and take the agent beyond its memory limit
/// (`deploy/agent/daemon-set.yaml`).
pub const ALL_QUEUES_BYTES: usize = 64 * 1024 * 1024;
/// Age at which a waiting packet is dropped: one lost handshake message (5 s and jitter) is ridden
/// over, and nothing is delivered that its sender has long retransmitted.
pub const QUEUE_EXPIRY: Duration = Duration::from_secs(10);

/// What waits in all queues of a device. Only who lets a packet wait, or has let one, comes here.
#[derive(Clone, Debug, Default)]
pub(crate) struct AllQueues {
    bytes: Arc<AtomicUsize>,
}

impl AllQueues {
    /// Whether there was room for so many bytes, which are taken then.
    fn take(&self, bytes: usize) -> bool {
        let within = |taken: usize| {
            let taken = taken.checked_add(bytes)?;
            (taken <= ALL_QUEUES_BYTES).then_some(taken)
        };
        let (set, read) = (Ordering::Relaxed, Ordering::Relaxed);
        self.bytes.fetch_update(set, read, within).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A packet that waits.
#[derive(Debug)]
struct Waiting {
    since: Instant,
    /// The packet and zeros up to a multiple of [`PADDING`].
    padded: Box<[u8]>,
    length: usize,
}

impl Waiting {
    /// What a packet takes that is so long with its padding.
    const fn size(padded: usize) -> usize {
        size_of::<Self>() + padded
    }
}

/// A queue of inner packets.
#[derive(Debug)]
pub(crate) struct PacketQueue {
    packets: VecDeque<Waiting>,
    bytes: usize,
    all: AllQueues,
}

impl Drop for PacketQueue {
    fn drop(&mut self) {
        while self.pop() {}
    }
}

impl PacketQueue {
    pub(crate) fn new(all: &AllQueues) -> Self {
        Self {
            packets: VecDeque::new(),
            bytes: 0,
            all: all.clone(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Takes a packet in; returns how many were dropped for want of room: older ones of this queue,
    /// and itself where others have taken it all.
    pub(crate) fn push(&mut self, now: Instant, packet: &[u8]) -> u64 {
        let length = packet.len();
        let padded_length = length.next_multiple_of(PADDING);
        let mut dropped = 0;
        while self.packets.len() >= QUEUE_PACKETS
            || self.bytes + padded_length > QUEUE_BYTES
            || !self.all.take(Waiting::size(padded_length))
        {
            dropped += 1;
            if !self.pop() {
                return dropped;
            }
        }
        let mut padded = Vec::with_capacity(padded_length);
        padded.extend_from_slice(packet);
        padded.resize(padded_length, 0);
        self.bytes += padded_length;
        self.packets.push_back(Waiting {
            since: now,
            padded: padded.into(),
            length,
        });
        dropped
    }

    /// The packet that waits longest: with its padding, and its own length.
    pub(crate) fn front(&self) -> Option<(&[u8], usize)> {
        self.packets
            .front()
            .map(|waiting| (&*waiting.padded, waiting.length))
    }

    /// Forgets the packet that waits longest; whether there was one.
    pub(crate) fn pop(&mut self) -> bool {
        let Some(waiting) = self.packets.pop_front() else {
            return false;
        };
        self.bytes -= waiting.padded.len();
        self.all.give_back(Waiting::size(waiting.padded.len()));
        if self.packets.is_empty() {
            // The queue is needed once in a long while: it keeps no memory in between.
            self.packets = VecDeque::new();
        }
        true
    }

    /// Drops what has waited too long; returns how many.
    pub(crate) fn expire(&mut self, now: Instant) -> u64 {
        let mut dropped = 0;
        while let Some(waiting) = self.packets.front()
            && now.saturating_duration_since(waiting.since) >= QUEUE_EXPIRY
        {
            self.pop();
            dropped += 1;
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_oldest_packets_go_first_when_there_are_too_many() {
        let now = Instant::now();
        let mut queue = PacketQueue::new(&AllQueues::default());
        let dropped: u64 = (0..130_u8).map(|n| queue.push(now, &[n; 40])).sum();
        assert_eq!((dropped, queue.len()), (2, 128));
        let padded = [[2; 40].as_slice(), &[0; 8]].concat();
        assert_eq!(queue.front(), Some((padded.as_slice(), 40)));
    }

    #[test]
    fn bytes_are_bounded_too() {
        let now = Instant::now();
        let mut queue = PacketQueue::new(&AllQueues::default());
        for _ in 0..10 {
            queue.push(now, &vec![0; 60_000]);
        }
        assert_eq!((queue.len(), queue.bytes), (3, 180_000));
        // Itself, too.
        assert_eq!(queue.push(now, &vec![0; 200_000]), 4);
        assert!(queue.is_empty() && queue.bytes == 0);
    }

    #[test]
    fn what_waits_ten_seconds_is_dropped() {
        let start = Instant::now();
        let mut queue = PacketQueue::new(&AllQueues::default());
        queue.push(start, &[1; 20]);
        queue.push(start + Duration::from_secs(5), &[2; 20]);
        assert_eq!(queue.expire(start + Duration::from_millis(9_999)), 0);
        assert_eq!(queue.expire(start + Duration::from_secs(10)), 1);
        assert_eq!(
            queue.front().map(|(bytes, length)| (bytes[0], length)),
            Some((2, 20))
        );
    }

    #[test]
    fn where_others_have_taken_all_room_a_queue_drops_its_own_oldest_or_takes_none() {
        const LENGTH: usize = 1408;
        let now = Instant::now();
        let all = AllQueues::default();
        let mut queues = Vec::new();
        let mut waiting = 0;
        // Each of a thousand peers that do not answer.
        let dropped: u64 = (0..1_000)
            .map(|_| {
                let mut queue = PacketQueue::new(&all);
                let dropped: u64 = (0..100).map(|_| queue.push(now, &[0; LENGTH])).sum();
                waiting += queue.len();
                queues.push(queue);
                dropped
            })
            .sum();
        let room = ALL_QUEUES_BYTES / Waiting::size(LENGTH);
        assert_eq!(waiting, room);
        assert_eq!(dropped, 100_000 - room as u64);
        let full = queues.first_mut().expect("a queue");
        assert_eq!((full.push(now, &[1; LENGTH]), full.len()), (1, 100));
        let newest = full.packets.back().expect("a packet");
        assert_eq!(newest.padded[0], 1, "it was the oldest that went");
        let last = queues.last_mut().expect("a queue");
        assert_eq!((last.push(now, &[1; LENGTH]), last.len()), (1, 0));
        // One gets an answer, or is gone.
        queues.remove(0);
        let last = queues.last_mut().expect("a queue");
        let dropped: u64 = (0..100).map(|_| last.push(now, &[1; LENGTH])).sum();
        assert_eq!((dropped, last.len()), (0, 100));
        drop(queues);
        assert_eq!(all.bytes.load(Ordering::Relaxed), 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize, usize),
        Pop(usize),
        Expire(usize, u64),
        Remove(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let queue = 0..3_usize;
        let step = prop_oneof![
            8 => (queue.clone(), 0..=65_535_usize)
                .prop_map(|(queue, length)| Step::Push(queue, length)),
            2 => queue.clone().prop_map(Step::Pop),
            1 => (queue.clone(), 0..12_u64)
                .prop_map(|(queue, later)| Step::Expire(queue, later)),
            1 => queue.prop_map(Step::Remove),
        ];
        proptest::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn what_all_queues_take_is_what_waits_in_them_and_never_beyond_the_bounds(
            steps in steps(),
            // So much is taken by other peers.
            taken in ALL_QUEUES_BYTES - 400_000..=ALL_QUEUES_BYTES,
        ) {
            let mut now = Instant::now();
            let all = AllQueues::default();
            prop_assert!(all.take(taken));
            let mut queues: Vec<_> = (0..3).map(|_| PacketQueue::new(&all)).collect();
            for step in steps {
                match step {
                    Step::Push(queue, length) => {
                        let queue = &mut queues[queue];
                        let before = queue.len() as u64;
                        let dropped = queue.push(now, &vec![0; length]);
                        prop_assert_eq!(queue.len() as u64, before + 1 - dropped);
                    }
                    Step::Pop(queue) => {
                        queues[queue].pop();
                    }
                    Step::Expire(queue, later) => {
                        now += Duration::from_secs(later);
                        queues[queue].expire(now);
                    }
                    Step::Remove(queue) => queues[queue] = PacketQueue::new(&all),
                }
                let waiting = queues.iter().flat_map(|queue| &queue.packets);
                let sizes = waiting.map(|waiting| Waiting::size(waiting.padded.len()));
                let sum = taken + sizes.sum::<usize>();
                prop_assert_eq!(all.bytes.load(Ordering::Relaxed), sum);
                prop_assert!(sum <= ALL_QUEUES_BYTES);
                for queue in &queues {
                    prop_assert!(queue.len() <= QUEUE_PACKETS && queue.bytes <= QUEUE_BYTES);
                }
            }
        }
    }
}
