//! ring 0.17's interface as boringtun 0.7 uses it, in ring's place (`[patch.crates-io]`).
//!
//! Where the processor has AVX-512, the packets of a tunnel (no additional data) are sealed and
//! opened by `avx512`, in about half of the time that ring takes. Everything else is AWS-LC's, as
//! fast as ring: handshakes, other processors, and every packet when [`cipher`] says so. What of
//! ring boringtun does not use is not here: no other crate comes to rely on it unnoticed.

pub mod aead;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod cipher;

pub use aws_lc_rs::{constant_time, error};
