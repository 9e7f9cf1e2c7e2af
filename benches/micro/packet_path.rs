//! A packet's way out and in, for each packet of a batch: find the peer, seal; find the session,
//! open, check the source.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};

use crate::tunnel::{BATCH, Tunnel};

/// Inner packets: a small one of a game's or DNS's, a full one of a tunnel on Ethernet.
const BYTES: [usize; 2] = [92, 1420];

pub(super) fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("packet");
    group.throughput(Throughput::Elements(1));
    for bytes in BYTES {
        let mut tunnel = Tunnel::open();
        group.bench_function(BenchmarkId::new("out", bytes), |bencher| {
            bencher.iter_custom(|packets| in_batches(packets, || out(&mut tunnel, bytes)));
        });
        let mut tunnel = Tunnel::open();
        group.bench_function(BenchmarkId::new("in", bytes), |bencher| {
            bencher.iter_custom(|packets| in_batches(packets, || in_(&mut tunnel, bytes)));
        });
    }
    group.finish();
}

/// Time of so many packets, of which `batch` takes [`BATCH`] at a time.
fn in_batches(packets: u64, mut batch: impl FnMut() -> Duration) -> Duration {
    let whole = packets.div_ceil(BATCH as u64);
    let spent: Duration = (0..whole).map(|_| batch()).sum();
    #[expect(clippy::cast_precision_loss, reason = "a share of a second")]
    let share = packets as f64 / (whole * BATCH as u64) as f64;
    spent.mul_f64(share)
}

fn out(tunnel: &mut Tunnel, bytes: usize) -> Duration {
    tunnel.tick();
    tunnel.fill(BATCH, bytes);
    let start = Instant::now();
    tunnel.send();
    let spent = start.elapsed();
    assert_eq!(sent(tunnel), BATCH, "every packet went out");
    spent
}

fn in_(tunnel: &mut Tunnel, bytes: usize) -> Duration {
    tunnel.tick();
    tunnel.fill(BATCH, bytes);
    tunnel.send();
    tunnel.transmit(0);
    let start = Instant::now();
    tunnel.receive();
    let spent = start.elapsed();
    assert_eq!(tunnel.deliver.len(), BATCH, "every packet came in");
    spent
}

fn sent(tunnel: &Tunnel) -> usize {
    let datagrams = tunnel.send.iter();
    datagrams
        .map(|(datagram, _)| datagram.length.div_ceil(datagram.segment_size))
        .sum()
}
