//! Whatever arrives: nothing panics, and nothing is delivered that no peer has sent.

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;

use crate::simulation::{Network, milliseconds, seconds};

/// A connected pair, kept for all cases: what one case breaks the others see.
fn connected() -> RefCell<Network> {
    let mut network = Network::new(&[2, 2]);
    network.ping(0, 1, 0);
    network.run(seconds(1));
    network.nodes[1].delivered.clear();
    RefCell::new(network)
}

/// Runs `test` on 2,000 cases.
fn for_all<S: Strategy>(strategy: S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(2000)
    };
    TestRunner::new(config)
        .run(&strategy, test)
        .expect("holds for every case");
}

/// Datagrams that begin like WireGuard's and have its lengths more often than chance would.
fn datagrams() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![Just(148_usize), Just(92), Just(64), Just(32), 0..2000_usize];
    (length, 0..6_u8, any::<u64>()).prop_map(|(length, kind, seed)| {
        let mut state = seed;
        let mut bytes: Vec<u8> = (0..length)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                state.to_be_bytes()[0]
            })
            .collect();
        if length >= 4 {
            bytes[..4].copy_from_slice(&[kind, 0, 0, 0]);
        }
        bytes
    })
}

#[test]
fn arbitrary_datagrams_are_never_delivered() {
    let network = connected();
    for_all((datagrams(), 0..2_usize), |(bytes, lane)| {
        let mut network = network.borrow_mut();
        let source = "203.0.113.1:1".parse().expect("an address");
        network.inject_now(1, lane, &[(source, bytes)]);
        prop_assert!(network.nodes[1].delivered.is_empty());
        Ok(())
    });
}

#[test]
fn a_real_message_with_one_bit_changed_is_never_delivered() {
    let network = connected();
    let kinds = prop_oneof![Just(1_u8), Just(2), Just(4)];
    for_all((kinds, any::<Index>(), 0..8_u8), |(kind, at, bit)| {
        let mut network = network.borrow_mut();
        let from = usize::from(kind == 2);
        let sent = network
            .log
            .iter()
            .find(|(_, t)| t.from == from && t.kind() == kind);
        let mut bytes = sent.expect("sent one").1.bytes.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let source = "192.0.2.11:51880".parse().expect("an address");
        for lane in [0, 1] {
            network.inject_now(1 - from, lane, &[(source, bytes.clone())]);
        }
        prop_assert!(network.nodes.iter().all(|node| node.delivered.is_empty()));
        Ok(())
    });
}

#[test]
fn arbitrary_packets_never_panic() {
    let network = connected();
    let versions = prop_oneof![Just(4_u8), Just(6), 0..16_u8];
    for_all((datagrams(), versions), |(mut bytes, version)| {
        let mut network = network.borrow_mut();
        if let Some(first) = bytes.first_mut() {
            *first = version << 4 | (*first & 0xf);
        }
        network.send(0, 0, &bytes);
        network.run(milliseconds(10));
        network.clear_log();
        network.nodes[0].delivered.clear();
        network.nodes[1].delivered.clear();
        Ok(())
    });
}
