//! Fuzzes `podwire_fuzz::icmp::one`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| podwire_fuzz::icmp::one(data));
