//! The header in front of a packet of the TUN device: what the kernel has left undone on one that
//! it gives us, and what it may undo on one that we give it.

/// Bytes of the header.
//= virtio 1.3 §5.1.6
pub const VNET_HEADER: usize = 10;

/// Flag: the transport checksum is only begun.
const NEEDS_CHECKSUM: u8 = 1;

/// Kinds of segmentation, and the bit beside them that says that the first segment has CWR.
const NO_SEGMENTATION: u8 = 0;
const TCP_OVER_IPV4: u8 = 1;
const TCP_OVER_IPV6: u8 = 4;
const UDP: u8 = 5;
const ECN: u8 = 0x80;

/// How a packet's transport header is cut into several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segmentation {
    /// TCP over IPv4.
    TcpOverIpv4,
    /// TCP over IPv6.
    TcpOverIpv6,
    /// Each segment is a UDP datagram of its own.
    Udp,
}

/// A transport checksum that holds the sum of the pseudo header only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Where what it is of begins: the transport header, in bytes from the packet's first.
    pub start: u16,
    /// Where in the transport header it is.
    pub offset: u16,
}

/// Payload that several packets carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// How it is cut.
    pub kind: Segmentation,
    /// Bytes of each segment's payload; the last may be shorter.
    pub size: u16,
    /// Bytes of the headers of each segment. Of packets from the kernel it says nothing that can be
    /// relied upon.
    pub header_length: u16,
    /// TCP: the first segment, and no other, has CWR.
    pub has_cwr: bool,
}

/// What is undone of a packet; by default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// Its checksum.
    pub checksum: Option<PartialChecksum>,
    /// Its segmentation.
    pub segments: Option<Segments>,
}

impl VnetHeader {
    /// About how many packets one of `length` bytes is cut into: its headers count as payload.
    #[must_use]
    pub fn segment_count(&self, length: usize) -> usize {
        self.segments.map_or(1, |segments| {
            length.div_ceil(usize::from(segments.size).max(1))
        })
    }

    /// Reads one; none when it names a segmentation that was never asked for.
    #[must_use]
    pub fn decode(bytes: &[u8; VNET_HEADER]) -> Option<Self> {
        let [flags, kind, ..] = *bytes;
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let checksum = (flags & NEEDS_CHECKSUM != 0).then(|| PartialChecksum {
            start: word(6),
            offset: word(8),
        });
        let segments = |segmentation| {
            Some(Segments {
                kind: segmentation,
                size: word(4),
                header_length: word(2),
                has_cwr: kind & ECN != 0,
            })
        };
        let segments = match kind & !ECN {
            NO_SEGMENTATION => None,
            TCP_OVER_IPV4 => segments(Segmentation::TcpOverIpv4),
            TCP_OVER_IPV6 => segments(Segmentation::TcpOverIpv6),
            UDP => segments(Segmentation::Udp),
            _ => return None,
        };
        Some(Self { checksum, segments })
    }

    /// Writes it.
    #[must_use]
    pub fn encode(&self) -> [u8; VNET_HEADER] {
        let mut bytes = [0; VNET_HEADER];
        let mut word = |at: usize, value: u16| {
            bytes[at..at + 2].copy_from_slice(&value.to_ne_bytes());
        };
        if let Some(checksum) = self.checksum {
            word(6, checksum.start);
            word(8, checksum.offset);
        }
        if let Some(segments) = self.segments {
            word(2, segments.header_length);
            word(4, segments.size);
        }
        bytes[0] = if self.checksum.is_some() {
            NEEDS_CHECKSUM
        } else {
            0
        };
        bytes[1] = self.segments.map_or(NO_SEGMENTATION, |segments| {
            let ecn = if segments.has_cwr { ECN } else { 0 };
            ecn | match segments.kind {
                Segmentation::TcpOverIpv4 => TCP_OVER_IPV4,
                Segmentation::TcpOverIpv6 => TCP_OVER_IPV6,
                Segmentation::Udp => UDP,
            }
        });
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_read_is_written_again(mut bytes: [u8; VNET_HEADER]) {
            bytes[0] &= NEEDS_CHECKSUM;
            if let Some(header) = VnetHeader::decode(&bytes) {
                prop_assert_eq!(VnetHeader::decode(&header.encode()), Some(header));
            } else {
                prop_assert!(![0, 1, 4, 5].contains(&(bytes[1] & 0x7f)));
            }
        }
    }

    #[test]
    fn a_header_is_read_as_the_kernel_writes_it() {
        // linux/virtio_net.h: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
        let mut bytes = [1, 0x81, 0, 0, 0, 0, 0, 0, 0, 0];
        for (at, word) in [(2, 52_u16), (4, 1368), (6, 20), (8, 16)] {
            bytes[at..at + 2].copy_from_slice(&word.to_ne_bytes());
        }
        let header = VnetHeader {
            checksum: Some(PartialChecksum {
                start: 20,
                offset: 16,
            }),
            segments: Some(Segments {
                kind: Segmentation::TcpOverIpv4,
                size: 1368,
                header_length: 52,
                has_cwr: true,
            }),
        };
        assert_eq!(VnetHeader::decode(&bytes), Some(header));
        assert_eq!(header.encode(), bytes);
    }

    #[test]
    fn a_packet_of_which_nothing_is_undone_has_a_header_of_zeros() {
        assert_eq!(VnetHeader::default().encode(), [0; VNET_HEADER]);
        let valid = [2, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(VnetHeader::decode(&valid), Some(VnetHeader::default()));
    }

    #[test]
    fn segmentation_that_was_not_asked_for_is_refused() {
        for kind in [2, 3, 6, 0x20, 0x41, 0x7f] {
            let bytes = [1, kind, 0, 0, 1, 0, 20, 0, 16, 0];
            assert_eq!(VnetHeader::decode(&bytes), None, "{kind}");
        }
    }
}
