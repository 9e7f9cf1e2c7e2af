//! Nodes that change their keys while pods talk.

use std::time::Duration;

use podwire_dataplane::Fate;

use crate::packets::Packet;
use crate::simulation::{Network, milliseconds, seconds};

/// One way through the underlay in these tests: some packets are always on their way.
const FAR: Duration = milliseconds(25);
/// Time between two packets of one flow.
pub(crate) const PAUSE: Duration = milliseconds(10);
/// Time in which every pair of a small mesh has followed a change of keys.
pub(crate) const SOON: Duration = seconds(3);
/// Time for which keys that were given up receive.
pub(crate) const RETIRE_AFTER: Duration = seconds(180);

/// What a node does with its own keys, all lanes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Announce,
    Promote,
    Retire,
    Withdraw,
    Forget,
    Revoke,
}

impl Network {
    /// Nodes that are far from each other.
    pub(crate) fn far(lanes: &[usize]) -> Self {
        let mut network = Self::new(lanes);
        network.delay = Some(Box::new(|_| FAR));
        network
    }

    /// The keys of a node change; the others are not told yet.
    pub(crate) fn change_keys(&mut self, number: usize, step: Step) {
        let lanes = self.nodes[number].keys.len();
        let fresh: Vec<_> = (0..lanes).map(|_| self.random_key()).collect();
        let node = &mut self.nodes[number];
        let mut fate = Fate::Replaced;
        match step {
            Step::Announce => {
                assert!(node.previous.is_empty() && node.fading.is_empty());
                (node.next, node.is_revoked) = (fresh, false);
            }
            Step::Promote => {
                let next = std::mem::take(&mut node.next);
                node.previous = std::mem::replace(&mut node.keys, next);
                node.key_generation += 1;
            }
            Step::Retire => node.previous.clear(),
            Step::Withdraw => node.fading = std::mem::take(&mut node.next),
            Step::Forget => node.fading.clear(),
            Step::Revoke => {
                (node.keys, node.is_revoked) = (fresh, true);
                let others = [&mut node.next, &mut node.previous, &mut node.fading];
                others.into_iter().for_each(Vec::clear);
                node.key_generation += 1;
                fate = Fate::Revoked;
            }
        }
        let keys = node.own_keys();
        let changed = node.device.set_keys(keys, fate, self.now);
        changed.expect("acceptable keys");
    }

    /// The same, and everybody is told at once.
    pub(crate) fn step(&mut self, number: usize, step: Step) {
        self.change_keys(number, step);
        self.publish();
    }

    /// Loses one in twenty handshake messages and confirmations, of whichever node.
    pub(crate) fn lose_handshakes(&mut self, seed: u64) -> u64 {
        let mut random = seed;
        self.lose(move |transit| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let is_handshake = transit.kind() < 4 || transit.bytes.len() == 32;
            is_handshake && (random >> 33).is_multiple_of(20)
        })
    }

    /// Whether the peers of `number`, if they have a session, all have one under its newer key.
    pub(crate) fn is_confirmed(&self, number: usize) -> bool {
        let others = (0..self.nodes.len()).filter(|other| *other != number);
        let mut others = others.map(|other| self.status(number, other));
        others.all(|peer| peer.is_on_newer())
    }

    /// Asserts that `from` and `to` use each other's current keys, on every lane.
    #[track_caller]
    pub(crate) fn assert_settled(&self, from: usize, to: usize) {
        for (lane, status) in self.status(from, to).lanes.into_iter().enumerate() {
            let expected = self.record(to).pair.lanes[lane].key;
            assert_eq!(status.confirmed_key, Some(expected), "{from} {to} {lane}");
            assert_eq!(status.sessions, 1, "{from} {to} {lane}");
        }
    }
}

/// Pods of every node talk to those of every other one, on every lane.
pub(crate) struct Talk {
    /// Packets for each node.
    pub(crate) sent: Vec<u32>,
    /// Initiations so far, lost or not.
    pub(crate) initiations: usize,
    /// The nodes whose pods say something.
    pub(crate) speakers: Vec<usize>,
}

impl Talk {
    pub(crate) fn new(network: &Network) -> Self {
        let nodes = network.nodes.len();
        Self {
            sent: vec![0; nodes],
            initiations: 0,
            speakers: (0..nodes).collect(),
        }
    }

    /// Lets them talk for so long.
    pub(crate) fn run(&mut self, network: &mut Network, duration: Duration) {
        let end = network.now + duration;
        while network.now < end {
            for from in self.speakers.clone() {
                for to in (0..network.nodes.len()).filter(|to| *to != from) {
                    for lane in 0..network.nodes[from].lanes_max() {
                        let sequence = self.sent[to];
                        let packet = Packet::new(from, to).sequence(sequence).bytes();
                        network.send(from, lane, &packet);
                        self.sent[to] += 1;
                    }
                }
            }
            network.run(PAUSE);
            self.count(network);
        }
    }

    fn count(&mut self, network: &mut Network) {
        let nodes = 0..network.nodes.len();
        self.initiations += nodes.map(|node| network.count(node, 1)).sum::<usize>();
        network.clear_log();
    }

    /// Until the peers of `number` have confirmed its newer key.
    #[track_caller]
    pub(crate) fn confirm(&mut self, network: &mut Network, number: usize, within: Duration) {
        let end = network.now + within;
        while !network.is_confirmed(number) {
            assert!(network.now < end, "not confirmed, node {number}");
            self.run(network, PAUSE);
        }
    }

    /// Asserts that nothing is lost: what is under way arrives.
    #[track_caller]
    pub(crate) fn assert_all_delivered(&mut self, network: &mut Network) {
        network.run(seconds(1));
        self.count(network);
        for (to, count) in self.sent.iter().enumerate() {
            network.assert_all_delivered(to, *count);
        }
    }

    /// Asserts that there were no more handshakes than renewals of sessions since the start, and so
    /// many more on each lane of each pair.
    #[track_caller]
    pub(crate) fn assert_few_handshakes(&self, network: &Network, more: u64) {
        let rekeys = (network.now - network.start).as_secs() / 120 + 1;
        let nodes = 0..network.nodes.len();
        let lanes = nodes.clone().flat_map(|one| {
            let others = nodes.clone().filter(move |other| *other > one);
            others.map(move |other| network.status(one, other).lanes.len())
        });
        let lanes = u64::try_from(lanes.sum::<usize>()).expect("few");
        let (initiations, most) = (self.initiations, lanes * (rekeys + more));
        assert!(
            initiations <= usize::try_from(most).expect("few"),
            "{initiations} initiations on {lanes} lanes"
        );
    }
}
