//! The buffers that a lane thread passes to its device: owned by the caller, allocated once,
//! reused.
//!
//! A batch is one contiguous run of bytes and descriptors into it. Its reader side fills [`room`]
//! and commits descriptors; its writer side takes the descriptors that are not consumed yet.
//! Nothing here allocates after construction.
//!
//! [`room`]: UnderlayBatch::room

mod delivery;
mod overlay;
mod underlay;

pub use delivery::{Delivery, DeliveryBatch};
pub use overlay::{OverlayBatch, Packet};
pub use underlay::{Datagram, SEGMENTS_MAX, UnderlayBatch};

/// Free bytes below which a batch counts as full: the longest datagram and the longest IP packet
/// fit, so one more read is never cut off.
pub const ROOM_MIN: usize = 65_536;

/// Bytes behind the last packet of a batch: the padding of WireGuard (at most 15 bytes) may reach
/// there.
const SLACK: usize = 16;

/// The bytes of a batch and how far they are used.
struct Bytes {
    bytes: Box<[u8]>,
    used: usize,
}

impl Bytes {
    fn with_capacity(capacity: usize) -> Self {
        Self {
            bytes: vec![0; capacity + SLACK].into_boxed_slice(),
            used: 0,
        }
    }

    fn end(&self) -> usize {
        self.bytes.len() - SLACK
    }

    fn room(&mut self) -> &mut [u8] {
        let end = self.end();
        &mut self.bytes[self.used..end]
    }

    fn room_length(&self) -> usize {
        self.end() - self.used
    }

    fn take(&mut self, start: usize, length: usize) {
        let end = start
            .checked_add(length)
            .expect("a descriptor lies in its buffer");
        assert!(
            start >= self.used && end <= self.end(),
            "a descriptor lies in the batch's room"
        );
        self.used = end;
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::ecn::Ecn;

    const ENDPOINT: SocketAddr = SocketAddr::new(
        std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
        51880,
    );

    #[test]
    fn a_train_is_consumed_segment_by_segment() {
        let mut batch = UnderlayBatch::with_capacity(ROOM_MIN, 4);
        batch.room()[..7].copy_from_slice(b"aabbccd");
        let start = batch.room_start();
        batch.commit(Datagram {
            lane: 0,
            endpoint: ENDPOINT,
            start,
            length: 7,
            segment_size: 2,
            ecn: Ecn::default(),
        });
        let mut segments = Vec::new();
        while let Some((_, segment)) = batch.segment() {
            segments.push(segment.to_vec());
            batch.consume_segment();
        }
        let expected: Vec<Vec<u8>> = ["aa", "bb", "cc", "d"]
            .map(|s| s.as_bytes().to_vec())
            .into();
        assert_eq!(segments, expected);
        assert!(batch.is_empty());
    }

    #[test]
    fn datagrams_of_one_size_to_one_place_become_a_train() {
        let other = SocketAddr::new(ENDPOINT.ip(), 1);
        let lengths = |segments_max, commits: &[(SocketAddr, Ecn, usize)]| -> Vec<(usize, usize)> {
            let mut batch = UnderlayBatch::with_capacity(4 * ROOM_MIN, 100);
            batch.set_segments_max(segments_max);
            for (endpoint, ecn, length) in commits {
                batch.append(0, *endpoint, *ecn, *length);
            }
            batch
                .iter()
                .map(|(d, _)| (d.length, d.segments()))
                .collect()
        };
        let plain = Ecn::default();
        let of = |lengths: &[usize]| -> Vec<_> {
            lengths
                .iter()
                .map(|length| (ENDPOINT, plain, *length))
                .collect()
        };
        assert_eq!(lengths(64, &of(&[10, 10, 4, 10])), [(24, 3), (10, 1)]);
        assert_eq!(lengths(64, &of(&[10, 11])), [(10, 1), (11, 1)]);
        assert_eq!(lengths(1, &of(&[10, 10])), [(10, 1), (10, 1)]);
        assert_eq!(lengths(2, &of(&[10, 10, 10])), [(20, 2), (10, 1)]);
        let full = lengths(64, &of(&[1452; 50]));
        assert_eq!(
            full,
            [(45 * 1452, 45), (5 * 1452, 5)],
            "IPv4's longest packet"
        );
        let elsewhere = [
            (ENDPOINT, plain, 10),
            (other, plain, 10),
            (ENDPOINT, plain, 10),
        ];
        assert_eq!(lengths(64, &elsewhere).len(), 3);
        let marked = [(ENDPOINT, plain, 10), (ENDPOINT, Ecn::Congested, 10)];
        assert_eq!(lengths(64, &marked).len(), 2);
    }

    #[test]
    fn a_train_that_is_split_is_what_it_was_made_of() {
        let mut batch = UnderlayBatch::with_capacity(ROOM_MIN, 4);
        batch.set_segments_max(64);
        batch.room()[..9].copy_from_slice(b"aabbccd--");
        for length in [2, 2, 2, 1, 2] {
            batch.commit_front(0, ENDPOINT, length);
        }
        assert_eq!(batch.len(), 2);
        batch.split();
        let parts: Vec<&[u8]> = batch.iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(parts, [b"aa", b"bb", b"cc", b"d".as_slice(), b"--"]);
    }

    #[test]
    fn an_empty_datagram_is_one_segment() {
        let mut batch = UnderlayBatch::with_capacity(ROOM_MIN, 2);
        batch.commit_front(0, ENDPOINT, 0);
        assert_eq!(batch.segment().map(|(_, bytes)| bytes.len()), Some(0));
        batch.consume_segment();
        assert!(batch.is_empty());
    }

    #[test]
    fn padding_leaves_the_packet_behind_untouched() {
        let mut batch = OverlayBatch::with_capacity(ROOM_MIN, 2);
        for text in [b"abc", b"def"] {
            batch.room()[..3].copy_from_slice(text);
            batch.commit_front(3);
        }
        let seen = batch.with_padded_packet(3, 16, <[u8]>::to_vec);
        assert_eq!(seen, Some([b"abc".as_slice(), &[0; 13]].concat()));
        batch.consume(1);
        assert_eq!(batch.packet(), Some(b"def".as_slice()));
    }

    #[test]
    fn the_last_packet_of_a_full_buffer_can_be_padded() {
        let mut batch = OverlayBatch::with_capacity(ROOM_MIN, 1);
        batch.room().fill(7);
        batch.commit_front(ROOM_MIN);
        assert!(batch.is_full());
        let seen = batch.with_padded_packet(ROOM_MIN, ROOM_MIN + 15, <[u8]>::len);
        assert_eq!(seen, Some(ROOM_MIN + 15));
    }

    #[test]
    fn a_batch_without_a_descriptor_left_is_full() {
        let mut batch = UnderlayBatch::with_capacity(4 * ROOM_MIN, 2);
        assert!(!batch.is_full());
        batch.commit_front(0, ENDPOINT, 10);
        batch.commit_front(0, ENDPOINT, 10);
        assert!(batch.is_full());
        batch.consume(1);
        assert_eq!(batch.len(), 1);
        batch.clear();
        assert!(batch.is_empty() && !batch.is_full());
    }
}
