//! The buffers that a lane thread passes to its device: owned by the caller, allocated once,
//! reused.
//!
//! A batch is one contiguous run of bytes and descriptors into it. Its reader side fills [`room`]
//! and commits descriptors; its writer side takes the descriptors that are not consumed yet.
//! Nothing here allocates after construction.
//!
//! [`room`]: UnderlayBatch::room

use std::fmt;
use std::net::SocketAddr;

/// Free bytes below which a batch counts as full: the longest datagram and the longest IP packet
/// fit, so one more read is never cut off.
pub const ROOM_MIN: usize = 65_536;

/// Bytes behind the last packet of a batch: the padding of WireGuard (at most 15 bytes) may reach
/// there.
const SLACK: usize = 16;

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
}

/// One inner IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Offset of its first byte in the batch.
    pub start: usize,
    /// Bytes.
    pub length: usize,
}

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

/// Datagrams from or for the underlay.
pub struct UnderlayBatch {
    bytes: Bytes,
    datagrams: Vec<Datagram>,
    next: usize,
    /// Bytes of `datagrams[next]` that are consumed already.
    offset: usize,
}

impl UnderlayBatch {
    /// An empty batch of `bytes` bytes (at least [`ROOM_MIN`] to be usable) and `datagrams`
    /// descriptors.
    #[must_use]
    pub fn with_capacity(bytes: usize, datagrams: usize) -> Self {
        let (bytes, datagrams) = (Bytes::with_capacity(bytes), Vec::with_capacity(datagrams));
        Self {
            bytes,
            datagrams,
            next: 0,
            offset: 0,
        }
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
        let start = self.room_start();
        self.commit(Datagram {
            lane,
            endpoint,
            start,
            length,
            segment_size: length,
        });
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

/// Inner IP packets from or for the TUN device.
pub struct OverlayBatch {
    bytes: Bytes,
    packets: Vec<Packet>,
    next: usize,
}

impl OverlayBatch {
    /// An empty batch of `bytes` bytes (at least [`ROOM_MIN`] to be usable) and `packets`
    /// descriptors.
    #[must_use]
    pub fn with_capacity(bytes: usize, packets: usize) -> Self {
        Self {
            bytes: Bytes::with_capacity(bytes),
            packets: Vec::with_capacity(packets),
            next: 0,
        }
    }

    /// Forgets all packets.
    pub fn clear(&mut self) {
        self.packets.clear();
        (self.bytes.used, self.next) = (0, 0);
    }

    /// Whether every packet is consumed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.next == self.packets.len()
    }

    /// Packets that are not consumed yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packets.len() - self.next
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

    /// Offset of the first free byte: the `start` of a packet that lies at the front of the room.
    #[must_use]
    pub fn room_start(&self) -> usize {
        self.bytes.used
    }

    /// Appends a packet whose bytes lie in the room. Bytes in front of it are given up.
    ///
    /// # Panics
    /// When the descriptor does not lie in the room or is one too many.
    pub fn commit(&mut self, packet: Packet) {
        assert!(
            self.packets.len() < self.packets.capacity(),
            "a full batch takes nothing"
        );
        self.bytes.take(packet.start, packet.length);
        self.packets.push(packet);
    }

    /// Appends one packet whose bytes lie at the front of the room.
    pub fn commit_front(&mut self, length: usize) {
        let start = self.room_start();
        self.commit(Packet { start, length });
    }

    /// The packets that are not consumed yet, with their bytes.
    pub fn iter(&self) -> impl Iterator<Item = (&Packet, &[u8])> {
        let packets = self.packets[self.next..].iter();
        packets.map(|p| (p, &self.bytes.bytes[p.start..p.start + p.length]))
    }

    /// Consumes the next `count` packets.
    pub fn consume(&mut self, count: usize) {
        self.next = (self.next + count).min(self.packets.len());
    }

    /// Whether one more descriptor and `bytes` bytes are free.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.packets.len() < self.packets.capacity() && self.bytes.room_length() >= bytes
    }

    /// The next packet, without consuming it.
    pub(crate) fn packet(&self) -> Option<&[u8]> {
        let packet = self.packets.get(self.next)?;
        Some(&self.bytes.bytes[packet.start..packet.start + packet.length])
    }

    /// Shows the first `length` bytes of the next packet to `use_packet`, extended by zeros to
    /// `padded` bytes. What lies behind is put back: boringtun copies its source, so this saves a
    /// copy of the whole packet.
    pub(crate) fn with_padded_packet<R>(
        &mut self,
        length: usize,
        padded: usize,
        use_packet: impl FnOnce(&[u8]) -> R,
    ) -> Option<R> {
        let packet = *self.packets.get(self.next)?;
        let end = packet.start + length.min(packet.length);
        let padding = padded.saturating_sub(length).min(SLACK);
        let mut behind = [0_u8; SLACK];
        behind[..padding].copy_from_slice(&self.bytes.bytes[end..end + padding]);
        self.bytes.bytes[end..end + padding].fill(0);
        let result = use_packet(&self.bytes.bytes[packet.start..end + padding]);
        self.bytes.bytes[end..end + padding].copy_from_slice(&behind[..padding]);
        Some(result)
    }
}

impl fmt::Debug for OverlayBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverlayBatch")
            .field("packets", &self.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
