//! Fuzzes `podwire_fuzz::overlay::one`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podwire_fuzz::overlay::one(data));
