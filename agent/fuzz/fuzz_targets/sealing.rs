//! Fuzzes `podwire_fuzz::sealing::one`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podwire_fuzz::sealing::one(data));
