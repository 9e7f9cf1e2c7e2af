//! Everything that can happen, in random order: afterwards all nodes talk to each other again.

use std::time::Duration;

use crate::packets::Packet;
use crate::simulation::{Network, Transit, milliseconds, seconds};

const SEEDS: u64 = 10;
const EVENTS: usize = 60;

/// One thing that happens to a mesh.
fn strike(network: &mut Network, cuts: &mut Vec<u64>) {
    let nodes = u64::try_from(network.nodes.len()).expect("few");
    let mut pick = |below: u64| usize::try_from(network.random() % below).expect("small");
    let (event, node, other, lane) = (pick(11), pick(nodes), pick(nodes), pick(3));
    match event {
        0 => cuts.push(network.lose(move |transit| transit.from == node)),
        1 => {
            let address = network.nodes[other].addresses[0];
            let is_cut = move |transit: &Transit| {
                transit.from == node && transit.destination.ip() == address
            };
            cuts.push(network.lose(is_cut));
        }
        2 => {
            let kind = u8::try_from(1 + other % 4).expect("small");
            cuts.push(network.lose(move |t| t.from == node && t.kind() == kind));
        }
        3 => {
            let port = 51880 + u16::try_from(lane).expect("small");
            cuts.push(network.lose(move |transit| transit.destination.port() == port));
        }
        4 => {
            let mut random = network.random();
            cuts.push(network.lose(move |_| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                random >> 62 == 0
            }));
        }
        5 => network.restart(node),
        6 => {
            network.restart_with_new_keys(node);
            network.publish();
        }
        7 => {
            network.nodes[node].epoch += 1;
            network.publish();
        }
        8 => {
            let lanes = network.nodes[node].lanes_max();
            network.nodes[node].publishes_lanes = 1 + lane % lanes;
            network.publish();
        }
        9 => network.freeze(seconds(u64::try_from(node * 100).expect("small"))),
        _ => cuts.drain(..).for_each(|cut| network.heal(cut)),
    }
}

/// Some pods talk, on any lane.
fn chatter(network: &mut Network, length: Duration) {
    let end = network.now + length;
    while network.now < end {
        let nodes = u64::try_from(network.nodes.len()).expect("few");
        for _ in 0..network.random() % 4 {
            let mut pick = |below: u64| usize::try_from(network.random() % below).expect("small");
            let (from, to, lane) = (pick(nodes), pick(nodes), pick(8));
            if from != to {
                let lane = lane % network.nodes[from].lanes_max();
                network.send(from, lane, &Packet::new(from, to).bytes());
            }
        }
        let pause = milliseconds(network.random() % 900);
        network.run(pause);
        network.clear_log();
    }
}

#[test]
fn whatever_happened_all_nodes_talk_again_within_half_a_minute() {
    for seed in 1..=SEEDS {
        let mut network = Network::unconnected(&[1, 2, 3, 8]);
        network.random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        if seed % 2 == 0 {
            network.prefer_ipv6();
        }
        network.publish();
        let mut cuts = Vec::new();
        for _ in 0..EVENTS {
            strike(&mut network, &mut cuts);
            let pause = seconds(network.random() % 40);
            chatter(&mut network, pause);
        }
        cuts.drain(..).for_each(|cut| network.heal(cut));
        network.publish();
        let nodes = network.nodes.len();
        let talk = |network: &mut Network, sequence: u32| {
            for from in 0..nodes {
                for to in (0..nodes).filter(|to| *to != from) {
                    for lane in 0..network.nodes[from].lanes_max() {
                        let packet = Packet::new(from, to).sequence(sequence).bytes();
                        network.send(from, lane, &packet);
                    }
                }
            }
            network.run(seconds(1));
            network.clear_log();
        };
        for second in 0..30 {
            talk(&mut network, second);
        }
        network
            .nodes
            .iter_mut()
            .for_each(|node| node.delivered.clear());
        for second in 0..300 {
            talk(&mut network, second);
        }
        for (number, node) in network.nodes.iter().enumerate() {
            let others = (0..nodes).filter(|other| *other != number);
            let lanes: usize = others.map(|other| network.nodes[other].lanes_max()).sum();
            assert_eq!(
                node.delivered.len(),
                300 * lanes,
                "to node {number} with seed {seed}"
            );
            for peer in node.device.peers(network.now) {
                assert!(peer.lanes.iter().all(|lane| lane.sessions <= 4), "{peer:?}");
            }
        }
    }
}
