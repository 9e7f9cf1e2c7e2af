//! Explicit congestion notification through the tunnel.

/// Its two bits in an IP header.
//= RFC 3168 §5
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ecn {
    /// Not capable: a queue that is too long drops it.
    #[default]
    NotCapable,
    /// Capable, the second of two codepoints that say so.
    Capable1,
    /// Capable.
    Capable0,
    /// Congestion was experienced.
    Congested,
}

impl Ecn {
    /// Reads the two lowest bits of a type of service or traffic class.
    #[must_use]
    pub fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::NotCapable,
            1 => Self::Capable1,
            2 => Self::Capable0,
            _ => Self::Congested,
        }
    }

    /// The two bits.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Self::NotCapable => 0,
            Self::Capable1 => 1,
            Self::Capable0 => 2,
            Self::Congested => 3,
        }
    }

    /// That of an inner packet, which on its way out is the outer header's too.
    //= RFC 6040 §4.1
    pub(crate) fn of(packet: &[u8]) -> Self {
        match packet {
            [first, second, ..] if first >> 4 == 6 => Self::from_bits(second >> 4),
            [_, second, ..] => Self::from_bits(*second),
            _ => Self::NotCapable,
        }
    }

    /// What an inner packet goes on with; none when it must be dropped.
    //= RFC 6040 §4.2
    pub(crate) fn leaving(self, outer: Self) -> Option<Self> {
        match (self, outer) {
            (Self::NotCapable, Self::Congested) => None,
            (Self::NotCapable, _) => Some(Self::NotCapable),
            (_, Self::Congested) => Some(Self::Congested),
            (Self::Capable0, Self::Capable1) => Some(Self::Capable1),
            (inner, _) => Some(inner),
        }
    }

    /// Writes it into the header of an inner packet.
    pub(crate) fn set(self, packet: &mut [u8]) {
        match packet.first().map(|byte| byte >> 4) {
            Some(4) => self.set_ipv4(packet),
            Some(6) => {
                if let Some(second) = packet.get_mut(1) {
                    *second = *second & !0x30 | self.bits() << 4;
                }
            }
            _ => {}
        }
    }

    fn set_ipv4(self, packet: &mut [u8]) {
        let Some(header) = packet.first_chunk_mut::<20>() else {
            return;
        };
        let before = u16::from_be_bytes([header[0], header[1]]);
        header[1] = header[1] & !3 | self.bits();
        let after = u16::from_be_bytes([header[0], header[1]]);
        //= RFC 1624 §3
        // HC' = ~(~HC + ~m + m')
        let checksum = u16::from_be_bytes([header[10], header[11]]);
        let mut sum = u32::from(!checksum) + u32::from(!before) + u32::from(after);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        let checksum = !u16::try_from(sum).unwrap_or(u16::MAX);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::Sum;
    use crate::icmp::tests::{ipv4, ipv6};

    const ALL: [Ecn; 4] = [
        Ecn::NotCapable,
        Ecn::Capable1,
        Ecn::Capable0,
        Ecn::Congested,
    ];

    //= RFC 6040 §4.2
    /// Figure 4: rows are inner, columns outer Not-ECT, ECT(0), ECT(1), CE.
    #[test]
    fn a_packet_leaves_as_the_table_of_the_rfc_has_it() {
        use Ecn::{Capable0 as Ect0, Capable1 as Ect1, Congested as Ce, NotCapable as NotEct};
        let columns = [NotEct, Ect0, Ect1, Ce];
        let table = [
            (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
            (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
            (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
            (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
        ];
        for (inner, row) in table {
            for (outer, leaving) in columns.into_iter().zip(row) {
                assert_eq!(inner.leaving(outer), leaving, "{inner:?} in {outer:?}");
            }
        }
    }

    #[test]
    fn the_bits_are_written_where_they_are_read_and_the_header_stays_valid() {
        for mut packet in [ipv4(17, 20), ipv6(17, 20)] {
            for first in ALL {
                for second in ALL {
                    first.set(&mut packet);
                    second.set(&mut packet);
                    assert_eq!(Ecn::of(&packet), second);
                    assert_eq!(Ecn::from_bits(second.bits()), second);
                }
            }
            if packet[0] >> 4 == 4 {
                let before = Sum::default().add(&packet[..20]).folded();
                Ecn::Congested.set(&mut packet);
                assert_eq!(Sum::default().add(&packet[..20]).folded(), before);
            }
        }
    }
}
