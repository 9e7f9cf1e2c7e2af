//! Fuzzes `podwire_fuzz::cut_packet::one`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podwire_fuzz::cut_packet::one(data));
