//! Inner packets from the TUN device.

use std::fmt;

use super::{Bytes, ROOM_MIN, SLACK};
use crate::super_packet::{Contradiction, SuperPacket, complete_checksum};
use crate::vnet_header::VnetHeader;

/// One inner IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Offset of its first byte in the batch.
    pub start: usize,
    /// Bytes.
    pub length: usize,
    /// What is undone of it.
    pub vnet_header: VnetHeader,
}

/// Inner IP packets from the TUN device.
pub struct OverlayBatch {
    bytes: Bytes,
    packets: Vec<Packet>,
    next: usize,
    /// Segments of `packets[next]` that are consumed already.
    segment: usize,
    /// Where a segment is made, with room for padding.
    segment_bytes: Box<[u8]>,
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
            segment: 0,
            segment_bytes: vec![0; ROOM_MIN + SLACK].into_boxed_slice(),
        }
    }

    /// Forgets all packets.
    pub fn clear(&mut self) {
        self.packets.clear();
        (self.bytes.used, self.next, self.segment) = (0, 0, 0);
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

    /// Appends one packet, of which nothing is undone, whose bytes lie at the front of the room.
    pub fn commit_front(&mut self, length: usize) {
        let start = self.room_start();
        self.commit(Packet {
            start,
            length,
            vnet_header: VnetHeader::default(),
        });
    }

    /// The packets that are not consumed yet, with their bytes.
    pub fn iter(&self) -> impl Iterator<Item = (&Packet, &[u8])> {
        let packets = self.packets[self.next..].iter();
        packets.map(|p| (p, &self.bytes.bytes[p.start..p.start + p.length]))
    }

    /// Consumes the next `count` packets.
    pub fn consume(&mut self, count: usize) {
        self.next = (self.next + count).min(self.packets.len());
        self.segment = 0;
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

    /// How the next packet, of so many bytes by its IP header, is cut into several; none when it is
    /// not. Then it is whole from here on: a checksum that was only begun is completed.
    ///
    /// # Errors
    /// When what the kernel says of it contradicts its headers.
    pub(crate) fn cut(&mut self, length: usize) -> Result<Option<SuperPacket>, Contradiction> {
        let Some(packet) = self.packets.get_mut(self.next) else {
            return Err(Contradiction);
        };
        let bytes = &mut self.bytes.bytes[packet.start..packet.start + length.min(packet.length)];
        let cut = packet.vnet_header.super_packet(bytes)?;
        if cut.is_none()
            && let Some(partial) = packet.vnet_header.checksum.take()
            && !complete_checksum(bytes, partial)
        {
            return Err(Contradiction);
        }
        Ok(cut)
    }

    /// How many segments of the next packet are consumed.
    pub(crate) fn segment(&self) -> usize {
        self.segment
    }

    /// Consumes a segment of the next packet.
    pub(crate) fn consume_segment(&mut self) {
        self.segment += 1;
    }

    /// Shows the next segment of the next packet, which is cut so, to `use_segment`: extended by
    /// zeros to the length that `padded` gives for its own, which comes with it.
    pub(crate) fn with_padded_segment<R>(
        &mut self,
        cut: &SuperPacket,
        padded: impl FnOnce(usize) -> usize,
        use_segment: impl FnOnce(&[u8], usize) -> R,
    ) -> Option<R> {
        let packet = *self.packets.get(self.next)?;
        let bytes = &self.bytes.bytes[packet.start..packet.start + packet.length];
        let length = cut.write(bytes, self.segment, &mut self.segment_bytes);
        let end = padded(length).clamp(length, length + SLACK);
        self.segment_bytes[length..end].fill(0);
        Some(use_segment(&self.segment_bytes[..end], length))
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
