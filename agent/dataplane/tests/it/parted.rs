//! Ends that know little of each other's keys, and of which one cannot ask.

use std::collections::BTreeMap;

use podwire_dataplane::PeerConfig;

use crate::nat::hidden;
use crate::rotating::{SOON, Step, Talk};
use crate::simulation::{Network, seconds};

/// Where the keys of a node stand, or those of a record of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Before,
    Announced,
    Promoted,
    /// Retired; or promoted, to a reader that takes the current key alone.
    After,
}

use Standing::{After, Announced, Before, Promoted};

const STANDINGS: [Standing; 4] = [Before, Announced, Promoted, After];

impl Standing {
    /// Whether both have a key in common.
    fn meets(self, other: Self) -> bool {
        !matches!((self, other), (Before, After) | (After, Before))
    }
}

/// Gives a node the keys of a rotation that has come so far; its record then.
fn bring_to(network: &mut Network, number: usize, standing: Standing) -> PeerConfig {
    let node = &mut network.nodes[number];
    let key = |new| vec![network_key(number, new)];
    let (keys, next, previous) = match standing {
        Before => (key(false), vec![], vec![]),
        Announced => (key(false), key(true), vec![]),
        Promoted => (key(true), vec![], key(false)),
        After => (key(true), vec![], vec![]),
    };
    (node.keys, node.next, node.previous) = (keys, next, previous);
    network.record(number)
}

/// The old or the new key of a node.
fn network_key(number: usize, is_new: bool) -> String {
    let byte = u8::try_from(2 * number + usize::from(is_new) + 1).expect("two nodes");
    let key = podwire_core::key::PrivateKey::from_random(zeroize::Zeroizing::new([byte; 32]));
    key.to_base64().to_string()
}

/// Tells `to` this record of `of`, whatever that has to say itself.
fn tell(network: &mut Network, to: usize, of: usize, record: PeerConfig) {
    let peers = [(network.nodes[of].name.clone(), record)].into();
    network.nodes[to].device.set_peers(&peers, network.now);
}

/// Starts both ends again, each with what it has of itself and of the other for good, and nothing
/// arrives for so many seconds. Whether node 0 then reaches node 1, which asks for nothing.
fn meet(own: [Standing; 2], told_to: [Standing; 2], away: u32) -> bool {
    let mut network = hidden(&[1, 1]);
    let records = [
        bring_to(&mut network, 0, told_to[1]),
        bring_to(&mut network, 1, told_to[0]),
    ];
    for number in [0, 1] {
        bring_to(&mut network, number, own[number]);
    }
    let [of_0, of_1] = records;
    for (number, other, record) in [(1, 0, of_0), (0, 1, of_1)] {
        network.restart(number);
        // Nobody is asked by what is true.
        network.nodes[number]
            .device
            .set_peers(&BTreeMap::new(), network.now);
        tell(&mut network, number, other, record);
    }
    network.clear_log();
    let mut filter = Some(network.lose(|_| true));
    for n in 0..80 + away {
        if n >= away {
            filter
                .take()
                .into_iter()
                .for_each(|lost| network.heal(lost));
        }
        network.ping(0, 1, n);
        network.run(seconds(1));
    }
    let initiations = network.count(0, 1);
    let most = 20 + usize::try_from(away).expect("small") / 5;
    assert!(
        initiations <= most,
        "{initiations} for {own:?}, {told_to:?}"
    );
    let arrived = network.nodes[1].sequence();
    (60 + away..80 + away).all(|n| arrived.contains(&n))
}

#[test]
fn ends_that_have_a_key_of_each_other_meet_whatever_else_they_know() {
    for own in STANDINGS
        .map(|first| STANDINGS.map(|second| [first, second]))
        .as_flattened()
    {
        for told_to_0 in STANDINGS {
            for told_to_1 in STANDINGS {
                let is_possible = own[0].meets(told_to_1) && own[1].meets(told_to_0);
                let is_met = meet(*own, [told_to_0, told_to_1], 0);
                assert_eq!(is_met, is_possible, "{own:?}, {told_to_0:?}, {told_to_1:?}");
            }
        }
    }
}

#[test]
fn a_peer_that_was_away_for_some_turns_is_met_by_the_first_identity_too() {
    for away in (5..80).step_by(15) {
        assert!(
            meet([Announced, Before], [Before, Before], away),
            "{away} s"
        );
        assert!(
            meet([Before, Before], [Announced, Before], away),
            "{away} s"
        );
    }
}

#[test]
fn a_peer_that_forgot_the_newer_key_is_met_though_its_own_record_is_late_too() {
    let mut network = hidden(&[1, 1]);
    network.run(seconds(2));
    let of_0 = network.record(0);
    network.step(0, Step::Announce);
    network.step(1, Step::Announce);
    network.run(seconds(60));
    assert!(network.is_confirmed(0) && network.is_confirmed(1));
    // Node 0 does not hear of the end of this one.
    network.change_keys(1, Step::Promote);
    network.change_keys(1, Step::Retire);
    network.restart(1);
    tell(&mut network, 1, 0, of_0);
    for n in 0..100 {
        network.ping(0, 1, n);
        network.run(seconds(1));
    }
    let arrived = network.nodes[1].sequence();
    assert!((70..100).all(|n| arrived.contains(&n)), "{arrived:?}");
}

#[test]
fn a_reader_of_current_keys_alone_whose_asking_is_not_heard_loses_nothing() {
    for speakers in [vec![0, 1], vec![0]] {
        let mut network = Network::far(&[1, 1]);
        let mut talk = Talk::new(&network);
        talk.speakers = speakers;
        talk.run(&mut network, SOON);
        for step in [Step::Announce, Step::Promote] {
            network.change_keys(0, step);
            let mut record = network.record(0);
            (record.pair.next, record.pair.previous) = (Vec::new(), Vec::new());
            network.lose(|transit| transit.from == 1 && transit.kind() == 1);
            tell(&mut network, 1, 0, record);
            talk.run(&mut network, SOON);
        }
        talk.run(&mut network, seconds(300));
        talk.assert_all_delivered(&mut network);
    }
}
