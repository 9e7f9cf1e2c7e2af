//! Fuzzes `podwire_fuzz::admin::one`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podwire_fuzz::admin::one(data));
