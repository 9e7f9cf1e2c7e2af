//! Fuzzes `podwire_fuzz::underlay::one`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podwire_fuzz::underlay::one(data));
