//! Datagrams from or for the underlay.

use std::fmt;
use std::net::SocketAddr;

use super::{Bytes, ROOM_MIN};
use crate::ecn::Ecn;

/// Segments of one datagram at most: what every kernel with UDP segmentation takes. Before Linux
/// 6.9 these are 64 (`UDP_MAX_SEGMENTS`), and before 5.15.8 its headers counted as payload.
pub const SEGMENTS_MAX: usize = 63;

/// Bytes of one datagram at most, all its segments together: IPv4's longest packet without its
/// headers.
const LENGTH_MAX: usize = 65_507;

/// One datagram of the underlay, or several of one size behind each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Which of our own lanes' sockets it came in by or must leave by.
    pub lane: usize,
    /// Where it came from or goes to.
    pub endpoint: SocketAddr,
    /// Offset of its first byte in the batch.
    pub start: usize,
    /// Bytes in all.
    pub length: usize,
    /// Bytes of each segment; only the last may be shorter. Equal to `length` unless several
    /// datagrams lie behind each other.
    pub segment_size: usize,
    /// Congestion notification of its IP header.
    pub ecn: Ecn,
}

impl Datagram {
    /// How many datagrams of the underlay it is.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.length.div_ceil(self.segment_size.max(1)).max(1)
    }

    /// Whether `next`, one datagram, may be a further segment of it.
    fn takes(&self, next: &Self, segments_max: usize) -> bool {
        let is_same = self.lane == next.lane
            && self.endpoint == next.endpoint
            && self.ecn == next.ecn
            && self.start + self.length == next.start;
        is_same
            && (1..=self.segment_size).contains(&next.length)
            // A shorter one ends it.
            && self.length.is_multiple_of(self.segment_size)
            && self.length / self.segment_size < segments_max
            && self.length + next.length <= LENGTH_MAX
    }
}

/// Datagrams from or for the underlay.
pub struct UnderlayBatch {
    bytes: Bytes,
    datagrams: Vec<Datagram>,
    next: usize,
    /// Bytes of `datagrams[next]` that are consumed already.
    offset: usize,
    segments_max: usize,
}

impl UnderlayBatch {
    /// An empty batch of `bytes` bytes (at least [`ROOM_MIN`] to be usable) and `datagrams`
    /// descriptors, each for one segment.
    #[must_use]
    pub fn with_capacity(bytes: usize, datagrams: usize) -> Self {
        let (bytes, datagrams) = (Bytes::with_capacity(bytes), Vec::with_capacity(datagrams));
        Self {
            bytes,
            datagrams,
            next: 0,
            offset: 0,
            segments_max: 1,
        }
    }

    /// From now on datagrams of one size to one place become segments of one descriptor, at most
    /// so many.
    pub fn set_segments_max(&mut self, segments: usize) {
        self.segments_max = segments.clamp(1, SEGMENTS_MAX);
    }

    /// Forgets all datagrams.
    pub fn clear(&mut self) {
        self.datagrams.clear();
        (self.bytes.used, self.next, self.offset) = (0, 0, 0);
    }

    /// Whether every datagram is consumed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.next == self.datagrams.len()
    }

    /// Datagrams that are not consumed yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.datagrams.len() - self.next
    }

    /// Whether the batch must be emptied before it may take more: no descriptor left, or less than
    /// [`ROOM_MIN`] bytes.
    #[must_use]
    pub fn is_full(&self) -> bool {
        !self.has_room(ROOM_MIN)
    }

    /// The free bytes; a reader fills them from the front and commits.
    pub fn room(&mut self) -> &mut [u8] {
        self.bytes.room()
    }

    /// Offset of the first free byte: the `start` of a datagram that lies at the front of the room.
    #[must_use]
    pub fn room_start(&self) -> usize {
        self.bytes.used
    }

    /// Appends a datagram whose bytes lie in the room. Bytes in front of it are given up.
    ///
    /// # Panics
    /// When the descriptor does not lie in the room, has a segment size of 0 or is one too many.
    pub fn commit(&mut self, datagram: Datagram) {
        assert!(
            self.datagrams.len() < self.datagrams.capacity(),
            "a full batch takes nothing"
        );
        assert!(
            datagram.segment_size > 0 || datagram.length == 0,
            "segments have a size"
        );
        self.bytes.take(datagram.start, datagram.length);
        self.datagrams.push(datagram);
    }

    /// Appends one datagram whose bytes lie at the front of the room.
    pub fn commit_front(&mut self, lane: usize, endpoint: SocketAddr, length: usize) {
        self.append(lane, endpoint, Ecn::default(), length);
    }

    /// The same with a congestion notification.
    pub(crate) fn append(&mut self, lane: usize, endpoint: SocketAddr, ecn: Ecn, length: usize) {
        let start = self.room_start();
        let next = Datagram {
            lane,
            endpoint,
            start,
            length,
            segment_size: length,
            ecn,
        };
        let (segments_max, first) = (self.segments_max, self.next);
        let mut waiting = self.datagrams[first..].iter_mut();
        if let Some(last) = waiting.next_back()
            && last.takes(&next, segments_max)
        {
            last.length += length;
            self.bytes.take(start, length);
        } else {
            self.commit(next);
        }
    }

    /// The datagrams that are not consumed yet, with their bytes.
    pub fn iter(&self) -> impl Iterator<Item = (&Datagram, &[u8])> {
        let datagrams = self.datagrams[self.next..].iter();
        datagrams.map(|d| (d, &self.bytes.bytes[d.start..d.start + d.length]))
    }

    /// Consumes the next `count` datagrams.
    pub fn consume(&mut self, count: usize) {
        self.next = (self.next + count).min(self.datagrams.len());
        self.offset = 0;
    }

    /// Makes the next datagram as many descriptors as it has segments. It allocates if they are
    /// more than there is room for.
    pub fn split(&mut self) {
        let Some(train) = self.datagrams.get(self.next).copied() else {
            return;
        };
        let segments = (0..train.segments()).map(|number| {
            let offset = number * train.segment_size;
            let length = train.segment_size.min(train.length - offset);
            Datagram {
                start: train.start + offset,
                length,
                segment_size: length,
                ..train
            }
        });
        let segments: Vec<_> = segments.collect();
        self.datagrams.splice(self.next..=self.next, segments);
    }

    /// Whether one more descriptor and `bytes` bytes are free.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.datagrams.len() < self.datagrams.capacity() && self.bytes.room_length() >= bytes
    }

    /// The next segment, without consuming it.
    pub(crate) fn segment(&self) -> Option<(&Datagram, &[u8])> {
        let datagram = self.datagrams.get(self.next)?;
        let start = datagram.start + self.offset;
        let left = datagram.length - self.offset;
        Some((
            datagram,
            &self.bytes.bytes[start..start + left.min(datagram.segment_size)],
        ))
    }

    /// Consumes the segment that [`Self::segment`] shows.
    pub(crate) fn consume_segment(&mut self) {
        if let Some(datagram) = self.datagrams.get(self.next) {
            self.offset += datagram.segment_size.max(1);
            if self.offset >= datagram.length {
                self.next += 1;
                self.offset = 0;
            }
        }
    }
}

impl fmt::Debug for UnderlayBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnderlayBatch")
            .field("datagrams", &self.len())
            .finish_non_exhaustive()
    }
}
