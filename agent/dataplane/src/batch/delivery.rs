//! Inner packets for the TUN device, those of one flow joined where they may be.

use std::fmt;

use super::Bytes;
use crate::coalesce::{Coalescing, Flow, Growing};
use crate::vnet_header::VnetHeader;

/// Flows of which the last packet may grow, at a time. As many are in one batch of 64 small packets
/// of a busy peer; of more, some packets stay single.
const FLOWS_MAX: usize = 16;

/// Inner packets for the TUN device.
///
/// Packets of a flow stay in their order, and so does a packet that does not show its flow, among
/// those of its addresses. What grows takes the place of its first packet, so that packets of
/// different flows may change places.
pub struct DeliveryBatch {
    bytes: Bytes,
    /// Runs of packets as they were appended; what was joined, without its headers.
    pieces: Vec<Piece>,
    joined: Vec<Joined>,
    coalescing: Coalescing,
    flows: [Option<GrowingFlow>; FLOWS_MAX],
    /// The slot that the next flow takes when all are taken: each in its turn.
    turn: usize,
}

/// Bytes of a packet.
#[derive(Clone, Copy)]
struct Piece {
    start: usize,
    length: usize,
    /// The piece behind it.
    next: Option<usize>,
}

/// One packet for the kernel.
#[derive(Clone, Copy)]
struct Joined {
    first: usize,
    last: usize,
    vnet_header: VnetHeader,
}

#[derive(Clone, Copy)]
struct GrowingFlow {
    flow: Flow,
    growing: Growing,
    /// Its packet in `joined`.
    packet: usize,
}

/// One packet of a batch.
#[derive(Clone, Copy)]
pub struct Delivery<'a> {
    /// What is undone of it.
    pub vnet_header: VnetHeader,
    batch: &'a DeliveryBatch,
    first: usize,
}

impl<'a> Delivery<'a> {
    /// Its bytes: pieces that follow each other, at most [`PIECES_MAX`].
    ///
    /// [`PIECES_MAX`]: crate::coalesce::PIECES_MAX
    pub fn pieces(self) -> impl Iterator<Item = &'a [u8]> {
        let mut next = Some(self.first);
        std::iter::from_fn(move || {
            let piece = self.batch.pieces[next?];
            next = piece.next;
            Some(&self.batch.bytes.bytes[piece.start..piece.start + piece.length])
        })
    }

    /// Its bytes in one piece.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        self.pieces().flatten().copied().collect()
    }
}

impl DeliveryBatch {
    /// An empty batch of `bytes` bytes (at least [`ROOM_MIN`] to be usable) and so many packets,
    /// joined or not.
    ///
    /// [`ROOM_MIN`]: super::ROOM_MIN
    #[must_use]
    pub fn with_capacity(bytes: usize, packets: usize) -> Self {
        Self {
            bytes: Bytes::with_capacity(bytes),
            pieces: Vec::with_capacity(packets),
            joined: Vec::with_capacity(packets),
            coalescing: Coalescing::default(),
            flows: [None; FLOWS_MAX],
            turn: 0,
        }
    }

    /// Which packets of one flow become one from now on.
    pub fn set_coalescing(&mut self, coalescing: Coalescing) {
        // What is not followed meanwhile could be passed.
        self.finish_all();
        self.coalescing = coalescing;
    }

    /// Forgets all packets.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.joined.clear();
        self.bytes.used = 0;
        (self.flows, self.turn) = ([None; FLOWS_MAX], 0);
    }

    /// Whether there is no packet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.joined.is_empty()
    }

    /// Packets for the kernel.
    #[must_use]
    pub fn len(&self) -> usize {
        self.joined.len()
    }

    /// The free bytes; a packet is written to their front and appended.
    pub fn room(&mut self) -> &mut [u8] {
        self.bytes.room()
    }

    /// Appends a packet whose bytes lie at the front of the room, joined to what it follows if that
    /// was asked for. It is a whole packet: as long as its IP header says.
    ///
    /// # Panics
    /// When it does not lie in the room or is one too many.
    pub fn append(&mut self, length: usize) {
        assert!(
            self.pieces.len() < self.pieces.capacity(),
            "a full batch takes nothing"
        );
        let start = self.bytes.used;
        if self.coalescing == Coalescing::default() {
            self.push(start, length);
            return;
        }
        let flow = Flow::of(&self.bytes.bytes[start..start + length]);
        match flow {
            None => self.finish_those_that_may_have(start, length),
            Some(flow) => {
                let is_same = |growing: &Option<GrowingFlow>| {
                    growing.as_ref().is_some_and(|growing| growing.flow == flow)
                };
                if let Some(slot) = self.flows.iter().position(is_same) {
                    if self.join(slot, start, length) {
                        return;
                    }
                    self.finish(slot);
                }
            }
        }
        let packet = self.push(start, length);
        let bytes = &self.bytes.bytes[start..start + length];
        let growing = Growing::new(bytes, self.coalescing);
        if let (Some(flow), Some(growing)) = (flow, growing) {
            let slot = self.free_slot();
            self.flows[slot] = Some(GrowingFlow {
                flow,
                growing,
                packet,
            });
        }
    }

    /// A packet of its own; returns its place.
    fn push(&mut self, start: usize, length: usize) -> usize {
        self.bytes.take(start, length);
        let piece = self.pieces.len();
        self.pieces.push(Piece {
            start,
            length,
            next: None,
        });
        self.joined.push(Joined {
            first: piece,
            last: piece,
            vnet_header: VnetHeader::default(),
        });
        self.joined.len() - 1
    }

    /// Whether the packet follows that of the slot. Then it is a part of it.
    fn join(&mut self, slot: usize, start: usize, length: usize) -> bool {
        let Some(GrowingFlow {
            growing, packet, ..
        }) = &mut self.flows[slot]
        else {
            return false;
        };
        let joined = &mut self.joined[*packet];
        let first = self.pieces[joined.first];
        let (before, next) = self.bytes.bytes.split_at_mut(start);
        let first = &mut before[first.start..first.start + first.length];
        let Some(headers) = growing.take(first, &next[..length]) else {
            return false;
        };
        let (payload, length) = (start + headers, length - headers);
        let last = &mut self.pieces[joined.last];
        if last.start + last.length == start {
            // A move within the nearest cache costs less than one more piece does in the kernel.
            self.bytes
                .bytes
                .copy_within(payload..payload + length, start);
            self.bytes.take(start, length);
            last.length += length;
            return true;
        }
        self.bytes.take(payload, length);
        let piece = self.pieces.len();
        self.pieces[joined.last].next = Some(piece);
        self.pieces.push(Piece {
            start: payload,
            length,
            next: None,
        });
        self.joined[*packet].last = piece;
        true
    }

    /// A slot without a flow, if need be one that is taken from another.
    fn free_slot(&mut self) -> usize {
        if let Some(slot) = self.flows.iter().position(Option::is_none) {
            return slot;
        }
        let slot = self.turn;
        self.finish(slot);
        self.turn = (slot + 1) % FLOWS_MAX;
        slot
    }

    /// The packet of the slot, if there is one, grows no more.
    fn finish(&mut self, slot: usize) {
        if let Some(flow) = self.flows[slot].take() {
            let joined = &mut self.joined[flow.packet];
            let first = self.pieces[joined.first];
            let first = &mut self.bytes.bytes[first.start..first.start + first.length];
            joined.vnet_header = flow.growing.finish(first);
        }
    }

    /// Nothing that may be before this packet in its flow grows any more.
    fn finish_those_that_may_have(&mut self, start: usize, length: usize) {
        for slot in 0..FLOWS_MAX {
            let packet = &self.bytes.bytes[start..start + length];
            if self.flows[slot].is_some_and(|growing| growing.flow.may_have(packet)) {
                self.finish(slot);
            }
        }
    }

    fn finish_all(&mut self) {
        (0..FLOWS_MAX).for_each(|slot| self.finish(slot));
    }

    /// The packets. None of them grows any more.
    pub fn iter(&mut self) -> impl Iterator<Item = Delivery<'_>> {
        self.finish_all();
        let batch = &*self;
        batch.joined.iter().map(move |joined| Delivery {
            vnet_header: joined.vnet_header,
            batch,
            first: joined.first,
        })
    }

    /// Whether one more packet of `bytes` bytes fits.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.pieces.len() < self.pieces.capacity() && self.bytes.room_length() >= bytes
    }
}

impl fmt::Debug for DeliveryBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeliveryBatch")
            .field("packets", &self.len())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Delivery<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("vnet_header", &self.vnet_header)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::ROOM_MIN;
    use crate::coalesce::tests::{ALL, segment};

    /// The number of a segment, and its flow.
    type Sent = (u8, u8);

    /// Where the port is that tells flows apart, in IPv4.
    const PORT: usize = 21;

    fn packet(flow: u8, number: u8) -> Vec<u8> {
        segment(true, number, |packet| packet[PORT] = flow)
    }

    fn append(batch: &mut DeliveryBatch, packet: &[u8]) {
        batch.room()[..packet.len()].copy_from_slice(packet);
        batch.append(packet.len());
    }

    fn batch() -> DeliveryBatch {
        let mut batch = DeliveryBatch::with_capacity(4 * ROOM_MIN, 512);
        batch.set_coalescing(ALL);
        batch
    }

    /// What the kernel gets, each as the segments that it makes of it.
    fn delivered(batch: &mut DeliveryBatch) -> Vec<Vec<Vec<u8>>> {
        let segments = |packet: Delivery<'_>| {
            let mut segments = Vec::new();
            if packet.vnet_header.segments.is_none() {
                return vec![packet.bytes()];
            }
            let bytes = packet.bytes();
            packet
                .vnet_header
                .each_segment(&bytes, |segment| segments.push(segment.to_vec()));
            segments
        };
        batch.iter().map(segments).collect()
    }

    fn packets(sent: &[Sent]) -> Vec<Vec<u8>> {
        sent.iter()
            .map(|(number, flow)| packet(*flow, *number))
            .collect()
    }

    #[test]
    fn flows_in_turn_are_joined_each_to_its_own() {
        let mut batch = batch();
        for number in 0..20 {
            for flow in 0..3 {
                append(&mut batch, &packet(flow, number));
            }
        }
        let expected: Vec<_> = (0..3)
            .map(|flow| packets(&(0..20).map(|number| (number, flow)).collect::<Vec<_>>()))
            .collect();
        assert_eq!(delivered(&mut batch), expected);
    }

    #[test]
    fn runs_of_flows_in_turn_are_one_piece_each() {
        let mut batch = batch();
        for run in 0..3 {
            for flow in 0..2 {
                (0..5).for_each(|number| append(&mut batch, &packet(flow, 5 * run + number)));
            }
        }
        let pieces: Vec<_> = batch.iter().map(|packet| packet.pieces().count()).collect();
        assert_eq!(pieces, [3, 3]);
        assert!(
            delivered(&mut batch)
                .iter()
                .all(|joined| joined.len() == 15)
        );
    }

    #[test]
    fn nothing_passes_a_packet_of_its_flow_that_cannot_be_joined() {
        let mut batch = batch();
        let reset = segment(true, 1, |packet| (packet[PORT], packet[33]) = (0, 0x14));
        for packet in [
            packet(0, 0),
            packet(7, 0),
            reset,
            packet(0, 1),
            packet(7, 1),
        ] {
            append(&mut batch, &packet);
        }
        let lengths: Vec<_> = delivered(&mut batch).iter().map(Vec::len).collect();
        assert_eq!(lengths, [1, 2, 1, 1]);
    }

    #[test]
    fn nothing_passes_a_packet_that_does_not_show_its_flow() {
        let mut batch = batch();
        let mut fragment = packet(0, 1);
        fragment[6] = 0x20;
        let elsewhere = |number| segment(false, number, |_| ());
        for packet in [
            packet(0, 0),
            packet(7, 0),
            elsewhere(0),
            fragment,
            packet(0, 1),
            packet(7, 1),
            elsewhere(1),
        ] {
            append(&mut batch, &packet);
        }
        let lengths: Vec<_> = delivered(&mut batch).iter().map(Vec::len).collect();
        assert_eq!(lengths, [1, 1, 2, 1, 1, 1], "others go on");
    }

    #[test]
    fn of_more_flows_than_are_followed_all_packets_stay_in_their_order() {
        let mut batch = batch();
        let flows = u8::try_from(2 * FLOWS_MAX).expect("few");
        // What has to make way has grown already.
        for first in [0, 2] {
            for flow in 0..flows {
                append(&mut batch, &packet(flow, first));
                append(&mut batch, &packet(flow, first + 1));
            }
        }
        let joined = delivered(&mut batch);
        assert!(joined.iter().all(|joined| joined.len() == 2), "{joined:?}");
        let delivered: Vec<_> = joined.into_iter().flatten().collect();
        for flow in 0..flows {
            let of_flow = delivered.iter().filter(|packet| packet[PORT] == flow);
            let expected = packets(&[(0, flow), (1, flow), (2, flow), (3, flow)]);
            assert!(of_flow.eq(&expected), "flow {flow}");
        }
    }

    #[test]
    fn nothing_passes_what_came_while_joining_was_off() {
        let mut batch = batch();
        append(&mut batch, &packet(0, 0));
        batch.set_coalescing(Coalescing::default());
        append(&mut batch, &packet(0, 1));
        batch.set_coalescing(ALL);
        append(&mut batch, &packet(0, 1));
        let lengths: Vec<_> = delivered(&mut batch).iter().map(Vec::len).collect();
        assert_eq!(lengths, [1, 1, 1]);
    }

    #[test]
    fn a_batch_that_is_cleared_follows_no_flow() {
        let mut batch = batch();
        append(&mut batch, &packet(0, 0));
        batch.clear();
        append(&mut batch, &packet(0, 1));
        assert_eq!(delivered(&mut batch), [[packet(0, 1)]]);
    }
}
