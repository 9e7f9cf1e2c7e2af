//! Packets that wait for a session: bounded, the oldest goes first.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::message::PADDING;

/// Packets that wait for one peer's lane at most: a burst of a TCP window, as in the kernel's
/// driver.
pub const QUEUE_PACKETS: usize = 128;
/// Bytes that wait for one peer's lane at most: 128 full Ethernet frames. A thousand unreachable
/// peers with a full queue each take 192 MiB.
pub const QUEUE_BYTES: usize = 192 * 1024;
/// Age at which a waiting packet is dropped: one lost handshake message (5 s and jitter) is ridden
/// over, and nothing is delivered that its sender has long retransmitted.
pub const QUEUE_EXPIRY: Duration = Duration::from_secs(10);

/// A packet that waits.
#[derive(Debug)]
struct Waiting {
    since: Instant,
    /// The packet and zeros up to a multiple of [`PADDING`].
    padded: Box<[u8]>,
    length: usize,
}

/// A queue of inner packets.
#[derive(Debug, Default)]
pub(crate) struct PacketQueue {
    packets: VecDeque<Waiting>,
    bytes: usize,
}

impl PacketQueue {
    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Takes a packet in; returns how many older ones it pushed out.
    pub(crate) fn push(&mut self, now: Instant, packet: &[u8]) -> u64 {
        let length = packet.len();
        let mut padded = Vec::with_capacity(length.next_multiple_of(PADDING));
        padded.extend_from_slice(packet);
        padded.resize(length.next_multiple_of(PADDING), 0);
        self.bytes += padded.len();
        self.packets.push_back(Waiting {
            since: now,
            padded: padded.into(),
            length,
        });
        let mut dropped = 0;
        while self.packets.len() > QUEUE_PACKETS || self.bytes > QUEUE_BYTES {
            if !self.pop() {
                break;
            }
            dropped += 1;
        }
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
    use super::*;

    #[test]
    fn the_oldest_packets_go_first_when_there_are_too_many() {
        let now = Instant::now();
        let mut queue = PacketQueue::default();
        let dropped: u64 = (0..130_u8).map(|n| queue.push(now, &[n; 40])).sum();
        assert_eq!((dropped, queue.len()), (2, 128));
        let padded = [[2; 40].as_slice(), &[0; 8]].concat();
        assert_eq!(queue.front(), Some((padded.as_slice(), 40)));
    }

    #[test]
    fn bytes_are_bounded_too() {
        let now = Instant::now();
        let mut queue = PacketQueue::default();
        for _ in 0..10 {
            queue.push(now, &vec![0; 60_000]);
        }
        assert_eq!((queue.len(), queue.bytes), (3, 180_000));
        assert_eq!(queue.push(now, &vec![0; 200_000]), 4);
        assert!(queue.is_empty() && queue.bytes == 0);
    }

    #[test]
    fn what_waits_ten_seconds_is_dropped() {
        let start = Instant::now();
        let mut queue = PacketQueue::default();
        queue.push(start, &[1; 20]);
        queue.push(start + Duration::from_secs(5), &[2; 20]);
        assert_eq!(queue.expire(start + Duration::from_millis(9_999)), 0);
        assert_eq!(queue.expire(start + Duration::from_secs(10)), 1);
        assert_eq!(
            queue.front().map(|(bytes, length)| (bytes[0], length)),
            Some((2, 20))
        );
    }
}
