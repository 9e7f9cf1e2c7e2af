//! WireGuard's static keys (X25519).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

/// Bytes of an X25519 key.
pub const KEY_LENGTH: usize = 32;

/// A node's public key, as `wg` prints it: 44 characters of base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_LENGTH]);

/// A node's private key. It has no Debug, Display or Serialize on purpose, and is zeroized on drop.
#[allow(missing_debug_implementations)] // a private key must have no way to be printed
pub struct PrivateKey(StaticSecret);

/// Why a text is not a key. The text is not repeated: it may be a private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// Not 44 characters of standard base64 with padding.
    #[error("not a key: expected 44 characters of base64, as wg(8) prints")]
    NotBase64,
    /// The all-zero key, with which every peer would compute the same shared secret.
    #[error("the all-zero key is not a key")]
    Zero,
    /// A point of low order: every private key computes the same shared secret with it, which
    /// anybody knows.
    #[error("a point of low order is not a key: its shared secrets are known to everybody")]
    LowOrder,
    /// The high bit, or a number that the field has no room for. X25519 ignores the difference, so
    /// that one key would have two names.
    #[error("not a key in its one canonical form: `wg pubkey` prints no such key")]
    NotCanonical,
}

/// The points of low order in their canonical form, without zero (RFC 7748 §6.1 tells of the zero
/// secret that they make; <https://cr.yp.to/ecdh.html#validate> lists them).
const LOW_ORDER: [[u8; KEY_LENGTH]; 4] = [
    [
        1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        0, 0,
    ],
    [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4,
        0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49,
        0xb8, 0x00,
    ],
    [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef,
        0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f,
        0x11, 0x57,
    ],
    [
        0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        0xff, 0x7f,
    ],
];

/// Whether the bytes are a number below 2^255 - 19, as RFC 7748 §5 writes it.
fn is_canonical(bytes: &[u8; KEY_LENGTH]) -> bool {
    let [first, middle @ .., last] = bytes;
    *last < 0x7f || (*last == 0x7f && (*first < 0xed || middle.iter().any(|b| *b != 0xff)))
}

fn decode(text: &str) -> Result<Zeroizing<[u8; KEY_LENGTH]>, InvalidKey> {
    // A slice decoder writes into our own buffer: no copy of a private key stays on the heap.
    let mut bytes = Zeroizing::new([0_u8; KEY_LENGTH + 1]);
    let length = STANDARD
        .decode_slice(text.as_bytes(), bytes.as_mut_slice())
        .map_err(|_| InvalidKey::NotBase64)?;
    if length != KEY_LENGTH {
        return Err(InvalidKey::NotBase64);
    }
    let mut key = Zeroizing::new([0_u8; KEY_LENGTH]);
    key.copy_from_slice(&bytes[..KEY_LENGTH]);
    if key.iter().all(|b| *b == 0) {
        return Err(InvalidKey::Zero);
    }
    Ok(key)
}

impl PublicKey {
    /// A key from its 32 bytes; what cannot be anybody's key is refused.
    pub fn from_bytes(bytes: [u8; KEY_LENGTH]) -> Result<Self, InvalidKey> {
        if bytes == [0; KEY_LENGTH] {
            Err(InvalidKey::Zero)
        } else if LOW_ORDER.contains(&bytes) {
            Err(InvalidKey::LowOrder)
        } else if !is_canonical(&bytes) {
            Err(InvalidKey::NotCanonical)
        } else {
            Ok(Self(bytes))
        }
    }

    /// The 32 bytes of the key.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; KEY_LENGTH] {
        &self.0
    }

    /// The first eight characters, enough to tell keys apart in a log line.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().chars().take(8).collect()
    }
}

impl FromStr for PublicKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_bytes(*decode(text)?)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl PrivateKey {
    /// A key from 32 random bytes, which the caller draws from the operating system.
    #[must_use]
    pub fn from_random(bytes: Zeroizing<[u8; KEY_LENGTH]>) -> Self {
        Self(StaticSecret::from(*bytes))
    }

    /// A key from its base64 form, as in a key file.
    pub fn from_base64(text: &str) -> Result<Self, InvalidKey> {
        decode(text).map(Self::from_random)
    }

    /// The base64 form for a key file of mode 0600; wiped when dropped.
    #[must_use]
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(Zeroizing::new(self.0.to_bytes()).as_slice()))
    }

    /// The public key that belongs to it.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&self.0).to_bytes())
    }

    /// The secret for the protocol engine, which takes it by value.
    #[must_use]
    pub fn secret(&self) -> StaticSecret {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys of RFC 7748 §6.1 (Alice), as wg(8) prints them.
    const PRIVATE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
    const PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    /// `ambiguous_if_printable::<_, T>` resolves only while T implements none of these traits: with
    /// one, the two implementations below make the marker type ambiguous, and this file does not
    /// compile.
    trait AmbiguousIfPrintable<Marker> {
        fn check() {}
    }
    impl<T: ?Sized> AmbiguousIfPrintable<()> for T {}
    impl<T: ?Sized + fmt::Debug> AmbiguousIfPrintable<u8> for T {}
    impl<T: ?Sized + fmt::Display> AmbiguousIfPrintable<u16> for T {}
    impl<T: ?Sized + fmt::LowerHex> AmbiguousIfPrintable<u32> for T {}
    impl<T: Clone> AmbiguousIfPrintable<u64> for T {}
    impl<T: ?Sized + AsRef<[u8]>> AmbiguousIfPrintable<i8> for T {}
    const _: fn() = <PrivateKey as AmbiguousIfPrintable<_>>::check;

    #[test]
    fn keys_are_read_and_written_as_wg_does() {
        let private = PrivateKey::from_base64(PRIVATE).expect("a key");
        assert_eq!(private.public_key().to_string(), PUBLIC);
        assert_eq!(private.to_base64().as_str(), PRIVATE);
        let public: PublicKey = PUBLIC.parse().expect("a key");
        assert_eq!(public, private.public_key());
        assert_eq!(public.short(), "hSDwCYkw");
        assert_eq!(format!("{public:?}"), format!("PublicKey({PUBLIC})"));
    }

    #[test]
    fn the_zero_key_is_refused() {
        let zero = STANDARD.encode([0; KEY_LENGTH]);
        assert_eq!(zero.parse::<PublicKey>(), Err(InvalidKey::Zero));
        assert_eq!(
            PublicKey::from_bytes([0; KEY_LENGTH]),
            Err(InvalidKey::Zero)
        );
        assert_eq!(PrivateKey::from_base64(&zero).err(), Some(InvalidKey::Zero));
    }

    /// Whether a shared secret with this point depends on the private key.
    fn contributes(bytes: [u8; KEY_LENGTH]) -> bool {
        let private = PrivateKey::from_base64(PRIVATE).expect("a key");
        let shared = private.secret().diffie_hellman(&bytes.into());
        shared.was_contributory()
    }

    #[test]
    fn a_point_of_low_order_is_refused() {
        for point in LOW_ORDER {
            assert!(!contributes(point), "{point:?} is of no low order");
            assert_eq!(PublicKey::from_bytes(point), Err(InvalidKey::LowOrder));
            let text = STANDARD.encode(point);
            assert_eq!(text.parse::<PublicKey>(), Err(InvalidKey::LowOrder));
        }
    }

    #[test]
    fn one_key_has_one_name() {
        let key: PublicKey = PUBLIC.parse().expect("a key");
        let mut high_bit = *key.as_bytes();
        high_bit[31] |= 0x80;
        let refused = PublicKey::from_bytes(high_bit);
        assert_eq!(refused, Err(InvalidKey::NotCanonical));
        let mut largest = [0xff; KEY_LENGTH];
        largest[31] = 0x7f;
        // 2^255 - 19 itself, which is zero, and all above it.
        for first in 0xed..=0xff {
            largest[0] = first;
            let refused = PublicKey::from_bytes(largest);
            assert_eq!(refused, Err(InvalidKey::NotCanonical));
        }
        largest[0] = 0xeb;
        PublicKey::from_bytes(largest).expect("the largest number that is a key");
    }

    #[test]
    fn text_that_wg_would_not_print_is_refused() {
        let unpadded = PUBLIC.trim_end_matches('=');
        let trailing_bits = PUBLIC.replace("mo=", "mp=");
        let url_safe = PUBLIC.replace('/', "_");
        let blank = format!(" {PUBLIC}");
        let newline = format!("{PUBLIC}\n");
        let short = STANDARD.encode([1; KEY_LENGTH - 1]);
        let long = STANDARD.encode([1; KEY_LENGTH + 1]);
        let huge = "A".repeat(1 << 20);
        for text in [
            "",
            unpadded,
            &trailing_bits,
            &url_safe,
            &blank,
            &newline,
            &short,
            &long,
            &huge,
        ] {
            assert_eq!(text.parse::<PublicKey>(), Err(InvalidKey::NotBase64));
        }
    }

    #[test]
    fn an_error_does_not_repeat_the_text() {
        let error = PrivateKey::from_base64("SECRET").err().expect("refused");
        assert!(!format!("{error} {error:?}").contains("SECRET"));
    }
}
