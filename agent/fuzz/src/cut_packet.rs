//! Packets that the kernel leaves uncut, with whatever header it might give them.
//!
//! An input is the ten bytes of the header and the packet.

use podwire_dataplane::{VNET_HEADER, VnetHeader};

use crate::inner_packet::InnerPacket;
use crate::input::Input;

/// One input.
pub fn one(data: &[u8]) {
    let mut input = Input::new(data);
    let Ok(header) = <[u8; VNET_HEADER]>::try_from(input.bytes(VNET_HEADER)) else {
        return;
    };
    let Some(header) = VnetHeader::decode(&header) else {
        return;
    };
    assert_eq!(VnetHeader::decode(&header.encode()), Some(header));
    let Some(packet) = InnerPacket::new(input.rest()) else {
        return;
    };
    let Some(segments) = header.segments else {
        return;
    };
    let mut payload = Vec::new();
    let (mut lengths, mut headers) = (Vec::new(), None);
    header.each_segment(packet.bytes, |bytes| {
        let segment = InnerPacket::new(bytes).expect("a segment is a packet");
        assert_eq!(segment.bytes, bytes, "no more than it says");
        assert_eq!(segment.source, packet.source);
        assert_eq!(segment.destination, packet.destination);
        let start = usize::from(header.checksum.expect("cut by it").start);
        let headers =
            *headers.get_or_insert_with(|| start + transport_header(&bytes[start..], header));
        payload.extend_from_slice(&bytes[headers..]);
        lengths.push(bytes.len() - headers);
    });
    let Some(headers) = headers else {
        // It contradicts the packet.
        return;
    };
    assert_eq!(payload, packet.bytes[headers..], "nothing is lost or added");
    let last = lengths.pop().expect("at least one");
    assert!(last <= usize::from(segments.size));
    assert!(
        lengths
            .iter()
            .all(|length| *length == usize::from(segments.size))
    );
}

/// Bytes of the transport header that a checksum at this place belongs to.
fn transport_header(transport: &[u8], header: VnetHeader) -> usize {
    match header.checksum.expect("cut by it").offset {
        16 => usize::from(transport[12] >> 4) * 4,
        _ => 8,
    }
}
