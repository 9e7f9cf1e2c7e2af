//! The Internet checksum.
//!
//! Sums are kept in the machine's byte order, in which the algorithm works as well (RFC 1071
//! §2(B)), and many bytes at a time.

/// A sum that grows.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum(u64);

impl Sum {
    /// Adds bytes that begin at an even place of what is summed.
    pub(crate) fn add(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<4>();
        let words: u64 = words
            .iter()
            .map(|word| u64::from(u32::from_ne_bytes(*word)))
            .sum();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        // At most 2^14 words of a packet: no overflow.
        Self(self.0 + words + u64::from(u32::from_ne_bytes(last)))
    }

    /// Adds a number of two bytes.
    pub(crate) fn add_number(self, number: u16) -> Self {
        Self(self.0 + u64::from(number.to_be()))
    }

    /// The sum in two bytes, as a checksum field holds it of a pseudo header alone.
    pub(crate) fn folded(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        #[expect(clippy::cast_possible_truncation, reason = "it was folded")]
        let sum = sum as u16;
        sum.to_ne_bytes()
    }

    /// The checksum.
    pub(crate) fn checksum(self) -> [u8; 2] {
        self.folded().map(|byte| !byte)
    }

    /// The checksum for a field where zero says that there is none.
    //= RFC 768
    pub(crate) fn nonzero_checksum(self) -> [u8; 2] {
        match self.checksum() {
            [0, 0] => [0xff, 0xff],
            checksum => checksum,
        }
    }

    /// Whether what was summed holds its own right checksum.
    pub(crate) fn is_valid(self) -> bool {
        self.folded() == [0xff, 0xff]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 §4.1, two bytes at a time.
    fn reference(bytes: &[u8]) -> [u8; 2] {
        let words = bytes
            .chunks(2)
            .map(|word| u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from));
        let mut sum: u32 = words.sum();
        while sum >> 16 > 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!u16::try_from(sum).expect("folded")).to_be_bytes()
    }

    proptest! {
        #[test]
        fn the_checksum_is_that_of_the_rfc(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut bytes = bytes;
            prop_assert_eq!(Sum::default().add(&bytes).checksum(), reference(&bytes));
            let even = bytes.len() / 4 * 2;
            let parts = Sum::default().add(&bytes[..even]).add(&bytes[even..]);
            prop_assert_eq!(parts.checksum(), reference(&bytes));
            if bytes.len() >= 2 {
                bytes[..2].fill(0);
                let number = u16::from_be_bytes(Sum::default().add(&bytes).checksum());
                prop_assert!(Sum::default().add(&bytes).add_number(number).is_valid());
            }
        }
    }

    #[test]
    fn a_udp_checksum_is_never_zero() {
        let all = Sum::default().add(&[0xff, 0xff]);
        assert_eq!(
            (all.checksum(), all.nonzero_checksum()),
            ([0, 0], [0xff; 2])
        );
    }
}
