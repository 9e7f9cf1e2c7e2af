//! The interface of ring 0.17 that boringtun 0.7 uses, with a cipher that does nothing: for the
//! floor of what is not the cipher. Nothing that it carries is secret or checked.

/// Keys, nonces and the cipher.
pub mod aead {
    use crate::error::Unspecified;

    /// Bytes of a tag, as Poly1305 has them.
    const TAG_BYTES: usize = 16;

    /// Whoever sets this variable knows that nothing is encrypted.
    pub const MEANT: &str = "PODWIRE_BENCH_NULL_CIPHER";

    /// An algorithm; there is one.
    #[derive(Debug)]
    pub struct Algorithm;

    /// What the cipher is called here.
    pub static CHACHA20_POLY1305: Algorithm = Algorithm;

    /// A key that is none.
    #[derive(Debug)]
    pub struct UnboundKey;

    impl UnboundKey {
        /// Takes any key.
        ///
        /// # Errors
        /// Never.
        pub fn new(_: &'static Algorithm, _: &[u8]) -> Result<Self, Unspecified> {
            Ok(Self)
        }
    }

    /// A key that is none.
    #[derive(Debug)]
    pub struct LessSafeKey;

    /// Additional data.
    #[derive(Debug)]
    pub struct Aad<A>(A);

    impl<A: AsRef<[u8]>> Aad<A> {
        /// Any.
        pub fn from(aad: A) -> Self {
            Self(aad)
        }
    }

    /// A nonce.
    #[derive(Debug)]
    pub struct Nonce;

    impl Nonce {
        /// Any.
        #[must_use]
        pub fn assume_unique_for_key(_: [u8; 12]) -> Self {
            Self
        }
    }

    /// A tag of zeros.
    #[derive(Debug)]
    pub struct Tag([u8; TAG_BYTES]);

    impl AsRef<[u8]> for Tag {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl LessSafeKey {
        /// From any key.
        ///
        /// # Panics
        /// Outside of the benchmarks, which set [`MEANT`]: what this seals is plaintext.
        #[must_use]
        pub fn new(_: UnboundKey) -> Self {
            assert!(
                std::env::var_os(MEANT).is_some(),
                "this build encrypts nothing: it is for benchmarks, which set {MEANT}"
            );
            Self
        }

        /// Leaves the data as they are.
        ///
        /// # Errors
        /// Never.
        pub fn seal_in_place_separate_tag<A: AsRef<[u8]>>(
            &self,
            _: Nonce,
            _: Aad<A>,
            _: &mut [u8],
        ) -> Result<Tag, Unspecified> {
            Ok(Tag([0; TAG_BYTES]))
        }

        /// The data without their tag.
        ///
        /// # Errors
        /// When they are shorter than a tag.
        pub fn open_in_place<'data, A: AsRef<[u8]>>(
            &self,
            _: Nonce,
            _: Aad<A>,
            data: &'data mut [u8],
        ) -> Result<&'data mut [u8], Unspecified> {
            let length = data.len().checked_sub(TAG_BYTES).ok_or(Unspecified)?;
            Ok(&mut data[..length])
        }
    }
}

/// Which code it is.
pub mod cipher {
    use core::fmt;

    /// Whose code it is; it is nobody's.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Cipher;

    impl fmt::Display for Cipher {
        fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("none")
        }
    }

    /// What was found; nothing was.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Finding {
        /// Never.
        Disagrees,
        /// Always.
        Missing,
    }

    /// The only one.
    #[must_use]
    pub const fn in_use() -> Cipher {
        Cipher
    }

    /// The only one.
    #[must_use]
    pub const fn use_aws_lc() -> Cipher {
        Cipher
    }

    /// Nothing.
    #[must_use]
    pub const fn found() -> Finding {
        Finding::Missing
    }
}

/// Comparisons.
pub mod constant_time {
    use crate::error::Unspecified;

    /// Whether both are the same.
    ///
    /// # Errors
    /// When they are not.
    pub fn verify_slices_are_equal(one: &[u8], other: &[u8]) -> Result<(), Unspecified> {
        if one == other { Ok(()) } else { Err(Unspecified) }
    }
}

/// Errors.
pub mod error {
    /// An error without a reason.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Unspecified;

    impl core::fmt::Display for Unspecified {
        fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            formatter.write_str("unspecified")
        }
    }

    impl std::error::Error for Unspecified {}
}
