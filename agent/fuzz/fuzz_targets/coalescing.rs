//! Fuzzes `podwire_fuzz::coalescing::one`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podwire_fuzz::coalescing::one(data));
