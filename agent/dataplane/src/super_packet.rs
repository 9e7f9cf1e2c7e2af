//! A packet of the kernel's that is cut into several: TCP segmentation offload and UDP's.

use podwire_core::mtu::Family;

use crate::checksum::Sum;
use crate::ip_packet::{IPV4_HEADER, IPV6_HEADER};
use crate::transport_header::{CWR, FIN, PSH, Transport, identification, put, set_length};
use crate::vnet_header::{PartialChecksum, Segmentation, Segments, VnetHeader};

/// How a packet is cut. Its numbers fit the packet that it was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SuperPacket {
    family: Family,
    transport: Transport,
    /// Where the transport header begins.
    start: usize,
    /// Bytes of all headers.
    headers: usize,
    /// Bytes of payload of each segment but the last.
    size: usize,
    /// Bytes of the packet.
    length: usize,
}

impl SuperPacket {
    /// Reads the headers of a packet of this length by its IP header; none when they contradict
    /// what the kernel says of it. Where headers end is read from them, since the kernel says
    /// something else of packets that it forwards.
    pub(crate) fn new(
        packet: &[u8],
        segments: &Segments,
        checksum: Option<PartialChecksum>,
    ) -> Option<Self> {
        // Without a checksum to be computed the kernel makes none (virtio 1.3 §5.1.6.2).
        let checksum = checksum?;
        let start = usize::from(checksum.start);
        let (transport, version) = match segments.kind {
            Segmentation::TcpOverIpv4 => (Transport::Tcp, Some(4)),
            Segmentation::TcpOverIpv6 => (Transport::Tcp, Some(6)),
            Segmentation::Udp => (Transport::Udp, None),
        };
        let found = packet.first()? >> 4;
        let is_placed = match found {
            4 => {
                let header = usize::from(packet[0] & 0xf) * 4;
                start == header
                    && header >= IPV4_HEADER
                    && Transport::from_number(*packet.get(9)?) == Some(transport)
            }
            // Extension headers may lie between.
            6 => start >= IPV6_HEADER,
            _ => false,
        };
        let is_expected = version.is_none_or(|version| version == found)
            && usize::from(checksum.offset) == transport.checksum_offset();
        let headers = start + transport.header_length(packet.get(start..)?)?;
        let size = usize::from(segments.size);
        (is_placed && is_expected && size > 0).then_some(Self {
            family: if found == 4 {
                Family::Ipv4
            } else {
                Family::Ipv6
            },
            transport,
            start,
            headers,
            size,
            length: packet.len(),
        })
    }

    /// The family of its IP header.
    pub(crate) fn family(&self) -> Family {
        self.family
    }

    /// How many segments it has.
    pub(crate) fn count(&self) -> usize {
        (self.length - self.headers).div_ceil(self.size).max(1)
    }

    /// Bytes of its longest segment.
    pub(crate) fn longest(&self) -> usize {
        self.length.min(self.headers + self.size)
    }

    /// Writes segment `number` to the front of `output`, which takes the longest; returns its
    /// length. `packet` is the one that this was made of.
    pub(crate) fn write(&self, packet: &[u8], number: usize, output: &mut [u8]) -> usize {
        let from = (self.headers + number * self.size).min(self.length);
        let payload = &packet[from..self.length.min(from + self.size)];
        let length = self.headers + payload.len();
        let output = &mut output[..length];
        output[..self.headers].copy_from_slice(&packet[..self.headers]);
        output[self.headers..].copy_from_slice(payload);
        #[expect(clippy::cast_possible_truncation, reason = "fewer than 2^16 segments")]
        let identification = identification(packet).wrapping_add(number as u16);
        set_length(output, length, identification);
        match self.transport {
            Transport::Tcp => self.number_tcp(output, number),
            Transport::Udp => put(output, self.start + 4, length - self.start),
        }
        let field = self.start + self.transport.checksum_offset();
        output[field..field + 2].fill(0);
        let sum = self
            .transport
            .pseudo_header(output, length - self.start)
            .add(&output[self.start..]);
        output[field..field + 2].copy_from_slice(&self.transport.checksum(sum));
        length
    }

    /// Sequence number and flags of a segment.
    fn number_tcp(&self, segment: &mut [u8], number: usize) {
        let tcp = &mut segment[self.start..];
        let first = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "less than a packet's bytes"
        )]
        let sequence = first.wrapping_add((number * self.size) as u32);
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        if number > 0 {
            //= RFC 3168 §6.1.2
            tcp[13] &= !CWR;
        }
        if number + 1 < self.count() {
            tcp[13] &= !(FIN | PSH);
        }
    }
}

/// Completes the checksum of a packet that is not cut; whether the kernel's numbers fit it. They
/// may be a pod's (packet(7), `PACKET_VNET_HDR`): in the IP header nothing is written, whose
/// addresses have been looked up already.
pub(crate) fn complete_checksum(packet: &mut [u8], partial: PartialChecksum) -> bool {
    let start = usize::from(partial.start);
    let field = start + usize::from(partial.offset);
    let header = match packet.first() {
        Some(first) if first >> 4 == 4 => usize::from(first & 0xf) * 4,
        Some(_) => IPV6_HEADER,
        None => return false,
    };
    if start < header || field + 2 > packet.len() {
        return false;
    }
    // What is in the field is the sum of the pseudo header, a part of what is summed.
    let sum = Sum::default().add(&packet[start..]);
    let is_udp = usize::from(partial.offset) == Transport::Udp.checksum_offset();
    let checksum = if is_udp {
        sum.nonzero_checksum()
    } else {
        sum.checksum()
    };
    packet[field..field + 2].copy_from_slice(&checksum);
    true
}

impl VnetHeader {
    /// Cuts a packet into what the kernel would make of it, and shows each. For the rare case: it
    /// allocates.
    pub fn each_segment(&self, packet: &[u8], mut each: impl FnMut(&[u8])) {
        let Ok(Some(cut)) = self.super_packet(packet) else {
            return;
        };
        let mut segment = vec![0; cut.longest()];
        for number in 0..cut.count() {
            let length = cut.write(packet, number, &mut segment);
            each(&segment[..length]);
        }
    }

    /// How a packet is cut whose bytes are `packet`, no more and no less; none when it is not.
    ///
    /// # Errors
    /// When the header contradicts the packet.
    pub(crate) fn super_packet(&self, packet: &[u8]) -> Result<Option<SuperPacket>, Contradiction> {
        match &self.segments {
            None => Ok(None),
            Some(segments) => SuperPacket::new(packet, segments, self.checksum)
                .map(Some)
                .ok_or(Contradiction),
        }
    }
}

/// A packet is not what its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contradiction;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::icmp::tests::{ipv4, ipv6};

    #[test]
    fn no_checksum_is_written_into_an_ip_header() {
        for packet in [ipv4(17, 40), ipv6(17, 40)] {
            let header = packet.len() - 40;
            for start in 0..100 {
                for offset in 0..100 {
                    let mut changed = packet.clone();
                    changed[header..].fill(0x5a);
                    let before = changed.clone();
                    let partial = PartialChecksum { start, offset };
                    let is_right = complete_checksum(&mut changed, partial);
                    assert_eq!(changed[..header], before[..header], "{partial:?}");
                    let field = usize::from(start + offset);
                    let fits = usize::from(start) >= header && field + 2 <= packet.len();
                    assert_eq!(is_right, fits, "{partial:?}");
                    assert!(is_right || changed == before, "{partial:?}");
                }
            }
        }
    }
}
