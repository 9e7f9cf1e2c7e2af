//! What the parts of Podwire cost that a packet or a record goes through, with all I/O taken out:
//! `cargo bench -p podwire-benches`, or `make bench-micro`.

mod allocations;
mod cipher;
mod lookup;
mod packet_path;
mod plan;
mod records;
mod tunnel;

use criterion::{criterion_group, criterion_main};

criterion_group!(
    micro,
    allocations::show,
    lookup::benches,
    packet_path::benches,
    cipher::benches,
    records::benches,
    plan::benches
);
criterion_main!(micro);
