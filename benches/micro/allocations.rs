//! What a packet allocates: nothing, or the table shows it.

use std::io::Write as _;

use criterion::Criterion;

use crate::tunnel::{BATCH, Tunnel};

/// A full packet of a tunnel on Ethernet.
const BYTES: usize = 1420;

/// Prints the allocations of a batch's way out and in. It takes criterion's value only to stand
/// among the others.
pub(super) fn show(_: &mut Criterion) {
    let mut tunnel = Tunnel::open();
    tunnel.fill(BATCH, BYTES);
    let out = allocation_counter::measure(|| tunnel.send());
    tunnel.transmit(0);
    let back = allocation_counter::measure(|| tunnel.receive());
    assert_eq!(tunnel.deliver.len(), BATCH, "every packet came in");
    let _ = writeln!(
        std::io::stdout(),
        "allocations of {BATCH} packets: out {}, in {}\n",
        out.count_total,
        back.count_total
    );
}
