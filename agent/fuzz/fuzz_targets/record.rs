//! Fuzzes `podwire_fuzz::record::one`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podwire_fuzz::record::one(data));
