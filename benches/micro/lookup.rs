//! The longest prefix that holds an address: once for each packet out, once for each packet in.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{BenchmarkId, Criterion};
use ipnet::{IpNet, Ipv4Net};
use podwire_core::allowed_ips::AllowedIps;

/// A small cluster, the largest that Kubernetes supports twice over, and far beyond.
const PREFIXES: [u32; 3] = [10, 1_000, 100_000];

/// Addresses that are asked for in turns: more than a processor's caches predict.
const ADDRESSES: u32 = 4096;

/// Knuth's multiplier: steps that visit everything in no order that a cache likes.
const STRIDE: u32 = 2_654_435_761;

pub(super) fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup");
    for prefixes in PREFIXES {
        let table: AllowedIps<u32> = (0..prefixes)
            .map(|number| (IpNet::V4(prefix(number)), number))
            .collect();
        let addresses: Vec<IpAddr> = (0..ADDRESSES)
            .map(|turn| inside(prefix(turn.wrapping_mul(STRIDE) % prefixes)))
            .collect();
        let mut turns = addresses.iter().cycle();
        group.bench_function(BenchmarkId::from_parameter(prefixes), |bencher| {
            bencher.iter(|| {
                let address = turns.next().copied();
                table.longest_match(black_box(address)?)
            });
        });
    }
    group.finish();
}

/// The `number`th prefix of 256 addresses, from 10.0.0.0/24 on.
fn prefix(number: u32) -> Ipv4Net {
    let first = u32::from(Ipv4Addr::new(10, 0, 0, 0)).wrapping_add(number << 8);
    Ipv4Net::new(first.into(), 24).expect("24 is a length of a prefix")
}

fn inside(prefix: Ipv4Net) -> IpAddr {
    Ipv4Addr::from(u32::from(prefix.network()) | 7).into()
}
