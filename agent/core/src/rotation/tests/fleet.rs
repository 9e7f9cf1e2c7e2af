//! The keys of a large mesh are rotated, a tenth of it at once: what that costs is counted.

use std::time::Duration;

use super::super::*;

const NODES: usize = 5_000;

/// Nodes that rotate at once: `--max-unavailable 10%`.
const AT_ONCE: usize = NODES / 10;

/// Peers with which a node has sessions.
const LIVE: usize = 48;

const LANES: usize = 4;

/// Seconds from a write in the registry until the last agent has heard of it.
const WATCH: u64 = 1;

/// Seconds within which a peer asks for the newer keys once it has heard of them.
const JITTER: u64 = 10;

#[derive(Debug, Default, PartialEq, Eq)]
struct Counted {
    requests: usize,
    records: usize,
    /// What all agents hear from the registry.
    events: usize,
    handshake_messages: usize,
    seconds: u64,
}

struct Node {
    rotation: Rotation,
    published: u64,
    is_asked: bool,
}

impl Node {
    /// Peers that have come to the announced keys by now.
    fn confirmed(&self, now: u64) -> usize {
        if self.rotation.phase != Phase::Announced {
            return 0;
        }
        let heard = now.saturating_sub(self.published + WATCH);
        let confirmed = LIVE as u64 * heard.min(JITTER) / JITTER;
        usize::try_from(confirmed).expect("few")
    }

    fn turn(&mut self, now: u64) -> Option<Step> {
        let confirmations = Confirmations {
            confirmed: self.confirmed(now),
            live: LIVE,
        };
        let step = self.rotation.step(&Situation {
            is_in_force: true,
            published_for: Some(Duration::from_secs(now - self.published)),
            confirmations,
            asked: self.is_asked.then_some(Verb::Rotate),
        })?;
        let before = self.rotation.key_generation;
        self.rotation = self.rotation.after(step);
        self.published = now;
        // The request was for the generation of before.
        self.is_asked &= self.rotation.key_generation == before;
        Some(step)
    }
}

fn rotate_all() -> Counted {
    let node = || Node {
        rotation: Rotation::FIRST,
        published: 0,
        is_asked: false,
    };
    let mut nodes: Vec<Node> = std::iter::repeat_with(node).take(NODES).collect();
    let mut counted = Counted::default();
    let done = Rotation {
        key_generation: 2,
        phase: Phase::Settled,
    };
    let is_busy = |node: &&Node| node.is_asked || node.rotation.phase != Phase::Settled;
    while nodes.iter().any(|node| node.rotation != done) {
        counted.seconds += 1;
        let mut busy = nodes.iter().filter(is_busy).count();
        for node in &mut nodes {
            let is_fresh = node.rotation == Rotation::FIRST && !node.is_asked;
            if is_fresh && busy < AT_ONCE {
                node.is_asked = true;
                busy += 1;
                counted.requests += 1;
            }
            let Some(step) = node.turn(counted.seconds) else {
                continue;
            };
            // Each step changes the phase, and so the record.
            counted.records += 1;
            if step == Step::Prepare {
                // One initiation and one response a lane of each peer.
                counted.handshake_messages += 2 * LANES * LIVE;
            }
        }
        assert!(counted.seconds < 10_000, "it never ends");
    }
    counted.events = (counted.requests + counted.records) * NODES;
    counted
}

#[test]
fn five_thousand_nodes_rotate_with_three_record_writes_each_and_none_for_a_peer() {
    let counted = rotate_all();
    println!("{NODES} nodes, {AT_ONCE} at once: {counted:?}");
    let expected = Counted {
        requests: NODES,
        records: 3 * NODES,
        events: 4 * NODES * NODES,
        handshake_messages: NODES * LIVE * LANES * 2,
        seconds: counted.seconds,
    };
    assert_eq!(counted, expected);
    let rotation = RETIRE_AFTER.as_secs() + WATCH + JITTER + 2;
    assert!(counted.seconds <= 10 * rotation, "{} s", counted.seconds);
}
