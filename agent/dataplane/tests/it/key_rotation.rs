//! Keys change, of one end or of both, and no packet is lost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use podwire_core::key::PublicKey;
use podwire_dataplane::DropReason;

use crate::nat::hidden;
use crate::rotating::{PAUSE, RETIRE_AFTER, SOON, Step, Talk};
use crate::simulation::{Network, milliseconds, seconds};

/// A whole rotation of some nodes at once, each step as soon as it may be taken.
fn rotate(network: &mut Network, talk: &mut Talk, nodes: &[usize], within: Duration) {
    for step in [Step::Announce, Step::Promote, Step::Retire] {
        for node in nodes {
            network.change_keys(*node, step);
        }
        network.publish();
        match step {
            Step::Announce => {
                for node in nodes {
                    talk.confirm(network, *node, within);
                }
            }
            Step::Promote => talk.run(network, RETIRE_AFTER),
            Step::Retire | Step::Withdraw | Step::Forget | Step::Revoke => talk.run(network, SOON),
        }
    }
}

/// Nobody has more than one session, under the current keys, once those of before are over.
#[track_caller]
fn assert_settled(network: &mut Network, talk: &mut Talk) {
    talk.run(network, seconds(200));
    talk.assert_all_delivered(network);
    for from in 0..network.nodes.len() {
        for to in (0..network.nodes.len()).filter(|to| *to != from) {
            // Both may have renewed their session a moment ago.
            if network.lane_status(from, to, 0).sessions > 1 {
                talk.run(network, seconds(20));
            }
            network.assert_settled(from, to);
        }
    }
}

#[test]
fn one_node_changes_its_keys_and_nothing_is_lost() {
    for lanes in [&[1, 1][..], &[2, 2], &[3, 2], &[1, 3], &[2, 1, 2]] {
        let mut network = Network::far(lanes);
        let mut talk = Talk::new(&network);
        talk.run(&mut network, seconds(10));
        assert!(!network.is_confirmed(0), "there is no newer key");
        let before = talk.initiations;
        rotate(&mut network, &mut talk, &[0], SOON);
        assert!(talk.initiations > before);
        assert_settled(&mut network, &mut talk);
        talk.assert_few_handshakes(&network, 4);
    }
}

#[test]
fn an_announcement_takes_one_handshake_a_lane_and_a_promotion_none() {
    let mut network = Network::far(&[2, 2]);
    let mut talk = Talk::new(&network);
    talk.run(&mut network, seconds(10));
    let before = talk.initiations;
    network.step(0, Step::Announce);
    talk.run(&mut network, seconds(50));
    assert_eq!(talk.initiations - before, 2);
    assert!(network.is_confirmed(0));
    network.step(0, Step::Promote);
    talk.run(&mut network, seconds(50));
    network.step(0, Step::Retire);
    talk.run(&mut network, seconds(10));
    assert_eq!(talk.initiations - before, 2, "nothing is left to do");
    talk.assert_all_delivered(&mut network);
}

#[test]
fn both_ends_change_their_keys_at_once_and_nothing_is_lost() {
    for lanes in [&[1, 1][..], &[2, 2], &[2, 3], &[1, 2, 2]] {
        let mut network = Network::far(lanes);
        let mut talk = Talk::new(&network);
        talk.run(&mut network, seconds(10));
        let all: Vec<_> = (0..lanes.len()).collect();
        rotate(&mut network, &mut talk, &all, SOON);
        assert_settled(&mut network, &mut talk);
        talk.assert_few_handshakes(&network, 6);
    }
}

#[test]
fn ends_that_change_their_keys_a_moment_apart_lose_nothing() {
    for apart in [5, 30, 60, 150, 400] {
        let mut network = Network::far(&[1, 1]);
        let mut talk = Talk::new(&network);
        talk.run(&mut network, seconds(5));
        for step in [Step::Announce, Step::Promote, Step::Retire] {
            network.step(0, step);
            talk.run(&mut network, milliseconds(apart));
            network.step(1, step);
            talk.run(&mut network, RETIRE_AFTER);
        }
        assert_settled(&mut network, &mut talk);
        talk.assert_few_handshakes(&network, 6);
    }
}

#[test]
fn one_node_after_another_and_again_at_once_lose_nothing() {
    let mut network = Network::far(&[1, 1, 1]);
    let mut talk = Talk::new(&network);
    talk.run(&mut network, seconds(5));
    for _ in 0..2 {
        for node in 0..3 {
            rotate(&mut network, &mut talk, &[node], SOON);
        }
    }
    assert_settled(&mut network, &mut talk);
    talk.assert_few_handshakes(&network, 6 * 3);
}

#[test]
fn a_second_rotation_right_after_the_first_loses_nothing() {
    let mut network = Network::far(&[2, 2]);
    let mut talk = Talk::new(&network);
    talk.run(&mut network, seconds(5));
    for _ in 0..4 {
        for step in [Step::Announce, Step::Promote, Step::Retire] {
            network.step(0, step);
            talk.run(&mut network, SOON);
        }
        let sessions = network.lane_status(1, 0, 0).sessions;
        assert!(sessions <= 8, "{sessions} members");
    }
    assert_settled(&mut network, &mut talk);
    talk.assert_few_handshakes(&network, 4 * 3);
}

#[test]
fn lost_handshake_messages_cost_no_packet() {
    for seed in 1..=8 {
        let mut network = Network::far(&[2, 2]);
        let mut talk = Talk::new(&network);
        talk.run(&mut network, seconds(2));
        network.lose_handshakes(seed);
        talk.run(&mut network, seconds(20));
        let nodes: &[usize] = if seed % 2 == 0 { &[0] } else { &[0, 1] };
        rotate(&mut network, &mut talk, nodes, seconds(60));
        assert_settled(&mut network, &mut talk);
        talk.assert_few_handshakes(&network, 16);
    }
}

#[test]
fn a_rotation_in_the_midst_of_a_rekey_loses_nothing() {
    for offset in (118_500..=121_500).step_by(250) {
        let mut network = Network::far(&[1, 1]);
        let mut talk = Talk::new(&network);
        talk.run(&mut network, milliseconds(offset));
        let nodes: &[usize] = if offset % 500 == 0 { &[0] } else { &[0, 1] };
        for step in [Step::Announce, Step::Promote] {
            for node in nodes {
                network.change_keys(*node, step);
            }
            network.publish();
            talk.run(&mut network, SOON);
            assert!(nodes.iter().all(|node| network.is_confirmed(*node)));
        }
        talk.assert_all_delivered(&mut network);
        talk.assert_few_handshakes(&network, 6);
    }
}

#[test]
fn ends_that_meet_for_the_first_time_while_both_change_their_keys_agree() {
    for (is_first, is_second) in [(true, true), (true, false), (false, true)] {
        let mut network = Network::far(&[2, 2]);
        for node in [0, 1] {
            network.change_keys(node, Step::Announce);
        }
        network.publish();
        let mut talk = Talk::new(&network);
        talk.speakers = [is_first.then_some(0), is_second.then_some(1)]
            .into_iter()
            .flatten()
            .collect();
        talk.run(&mut network, SOON);
        assert!(network.is_confirmed(0) && network.is_confirmed(1));
        talk.run(&mut network, seconds(60));
        talk.assert_all_delivered(&mut network);
        talk.assert_few_handshakes(&network, 4);
    }
}

#[test]
fn an_announcement_that_is_withdrawn_costs_no_packet() {
    // Peers may hear of it late: they go on to ask by the key that fades.
    for late in [0, 100, 170] {
        for is_confirmed in [true, false] {
            let mut network = Network::far(&[2, 2]);
            let mut talk = Talk::new(&network);
            talk.run(&mut network, seconds(5));
            network.step(0, Step::Announce);
            if is_confirmed {
                talk.confirm(&mut network, 0, SOON);
            }
            network.change_keys(0, Step::Withdraw);
            talk.run(&mut network, seconds(late));
            network.publish();
            talk.run(&mut network, RETIRE_AFTER);
            network.step(0, Step::Forget);
            talk.run(&mut network, SOON);
            talk.assert_few_handshakes(&network, 6);
            // And once more, this time to the end.
            rotate(&mut network, &mut talk, &[0], SOON);
            assert_settled(&mut network, &mut talk);
            talk.assert_few_handshakes(&network, 10);
        }
    }
}

#[test]
fn a_peer_that_is_told_nothing_for_long_keeps_its_sessions() {
    let mut network = Network::far(&[2, 2, 1]);
    let mut talk = Talk::new(&network);
    talk.run(&mut network, seconds(5));
    // Node 2 is not told.
    let publish = |network: &mut Network| [0, 1].map(|node| network.publish_to(node));
    network.change_keys(0, Step::Announce);
    publish(&mut network);
    talk.run(&mut network, seconds(150));
    assert!(network.status(0, 1).is_on_newer());
    assert!(
        !network.status(0, 2).is_on_newer(),
        "it knows nothing of it"
    );
    network.change_keys(0, Step::Promote);
    publish(&mut network);
    talk.run(&mut network, seconds(150));
    assert!(!network.status(0, 2).is_on_newer());
    talk.assert_few_handshakes(&network, 3);
    // It is told at last.
    network.publish();
    talk.run(&mut network, SOON);
    assert!(network.is_confirmed(0));
    network.step(0, Step::Retire);
    assert_settled(&mut network, &mut talk);
    talk.assert_few_handshakes(&network, 5);
}

#[test]
fn a_peer_that_slept_through_a_rotation_finds_an_ordinary_new_key() {
    let mut network = Network::far(&[2, 2]);
    let mut talk = Talk::new(&network);
    talk.run(&mut network, seconds(5));
    for step in [Step::Announce, Step::Promote, Step::Retire] {
        network.change_keys(0, step);
        network.run(RETIRE_AFTER);
    }
    network.publish();
    talk.run(&mut network, seconds(300));
    talk.assert_all_delivered(&mut network);
    network.assert_settled(0, 1);
}

/// Node 1 has lost its sessions and asks node 0 by what `record` says.
fn ask_anew(network: &mut Network, record: podwire_dataplane::PeerConfig) {
    network.restart(1);
    let peers: BTreeMap<_, _> = [(network.nodes[0].name.clone(), record)].into();
    network.nodes[1].device.set_peers(&peers, network.now);
    network.clear_log();
    network.ping(1, 0, 0);
    network.run(seconds(4));
}

#[test]
fn a_key_is_answered_until_it_is_retired_and_not_after() {
    let mut network = Network::new(&[1, 1]);
    let old = network.record(0);
    for (step, is_answered) in [
        (Step::Announce, true),
        (Step::Promote, true),
        (Step::Retire, false),
    ] {
        network.step(0, step);
        let refused = network.nodes[0].dropped(DropReason::BadMac);
        ask_anew(&mut network, old.clone());
        assert_eq!(network.count(1, 1), 1);
        assert_eq!(network.lane_status(1, 0, 0).confirmed, is_answered);
        if !is_answered {
            assert_eq!(network.nodes[0].dropped(DropReason::BadMac), refused + 1);
            assert!(
                network.count(0, 2) + network.count(0, 3) == 0,
                "it is told nothing"
            );
        }
    }
}

#[test]
fn a_withdrawn_key_is_answered_until_it_is_forgotten_and_a_revoked_one_never() {
    for last in [Step::Forget, Step::Revoke] {
        let mut network = Network::new(&[1, 1]);
        network.step(0, Step::Announce);
        let announced = network.record(0);
        network.step(0, Step::Withdraw);
        ask_anew(&mut network, announced.clone());
        assert!(network.lane_status(1, 0, 0).confirmed);
        network.step(0, last);
        ask_anew(&mut network, announced);
        assert_eq!(network.nodes[0].dropped(DropReason::BadMac), 1);
        assert_eq!(
            network.count(0, 2),
            0,
            "only by the key that is left, if at all"
        );
    }
}

/// The longest time without a delivery between any two nodes around a revocation by node 0, which
/// the others hear of after `late`.
fn outage(network: &mut Network, talk: &mut Talk, late: Duration) -> Duration {
    network.change_keys(0, Step::Revoke);
    assert_eq!(network.lane_status(0, 1, 0).sessions, 0, "closed at once");
    let delivered = |network: &Network, node: usize| network.nodes[node].delivered.len();
    let is_heard = |talk: &Talk, node: usize| talk.speakers.contains(&(1 - node));
    let start = network.now;
    let mut last = [start; 2];
    let mut longest = Duration::ZERO;
    let mut is_told = false;
    while network.now < start + seconds(10) {
        if !is_told && network.now >= start + late {
            network.publish();
            assert_eq!(network.lane_status(1, 0, 0).sessions, 0, "and there");
            is_told = true;
        }
        let before = [0, 1].map(|node| delivered(network, node));
        talk.run(network, PAUSE);
        for node in [0, 1] {
            longest = longest.max(network.now - last[node]);
            if delivered(network, node) > before[node] || !is_heard(talk, node) {
                last[node] = network.now;
            }
        }
    }
    longest
}

#[test]
fn a_revocation_ends_every_session_at_once_and_the_next_one_comes_soon() {
    let late = milliseconds(200);
    for seed in 1..=6 {
        for speakers in [vec![0, 1], vec![0], vec![1]] {
            let mut network = Network::unconnected(&[2, 2]);
            network.delay = Some(Box::new(|_| milliseconds(25)));
            // Which key is the lower one decides who goes first.
            network.random = 0x5eed * seed;
            for node in [0, 1] {
                network.restart_with_new_keys(node);
            }
            network.publish();
            let mut talk = Talk::new(&network);
            talk.speakers.clone_from(&speakers);
            talk.run(&mut network, seconds(5));
            let old = network.nodes[0].dropped(DropReason::UnknownIndex);
            let outage = outage(&mut network, &mut talk, late);
            assert!(
                outage < late + milliseconds(750),
                "{outage:?}, {speakers:?} talk"
            );
            if speakers.contains(&1) {
                let refused = network.nodes[0].dropped(DropReason::UnknownIndex) - old;
                assert!(refused > 0, "what came under the old key is refused");
            }
            talk.run(&mut network, seconds(200));
            network.assert_settled(0, 1);
            talk.assert_few_handshakes(&network, 5);
        }
    }
}

#[test]
fn a_rotation_that_ends_in_a_revocation_leaves_nothing_of_before() {
    for steps in [
        &[Step::Announce][..],
        &[Step::Announce, Step::Promote],
        &[Step::Announce, Step::Promote, Step::Retire],
        &[Step::Announce, Step::Withdraw],
    ] {
        let mut network = Network::far(&[1, 1]);
        let mut talk = Talk::new(&network);
        talk.run(&mut network, seconds(5));
        for step in steps {
            network.step(0, *step);
            talk.run(&mut network, SOON);
        }
        let outage = outage(&mut network, &mut talk, milliseconds(100));
        assert!(outage < seconds(1), "{outage:?} after {steps:?}");
        talk.run(&mut network, seconds(10));
        network.assert_settled(0, 1);
        network.assert_settled(1, 0);
        // The next rotation is like any other.
        network.run(seconds(1));
        talk = Talk::new(&network);
        network.nodes.iter_mut().for_each(|n| n.delivered.clear());
        rotate(&mut network, &mut talk, &[0], SOON);
        assert_settled(&mut network, &mut talk);
    }
}

#[test]
fn peers_behind_address_translation_change_keys_and_follow_those_of_others() {
    for nodes in [&[0][..], &[1], &[0, 1]] {
        let mut network = hidden(&[2, 2]);
        let mut talk = Talk::new(&network);
        network.run(seconds(2));
        talk.run(&mut network, seconds(10));
        rotate(&mut network, &mut talk, nodes, SOON);
        assert_settled(&mut network, &mut talk);
        talk.assert_few_handshakes(&network, 6);
    }
}

#[test]
fn idle_peers_behind_address_translation_follow_too() {
    for node in [0, 1] {
        let mut network = hidden(&[1, 1]);
        network.run(seconds(100));
        network.step(node, Step::Announce);
        network.run(seconds(40));
        assert!(network.is_confirmed(node), "node {node}");
        let initiations = network.count(0, 1) + network.count(1, 1);
        assert!(initiations <= 10, "{initiations}");
    }
}

#[test]
fn another_epoch_in_any_phase_costs_no_packet() {
    let steps = [Step::Announce, Step::Promote, Step::Retire];
    for (moment, epoch_of) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)] {
        for pause in [0, 40, 3_000] {
            let mut network = Network::far(&[1, 1]);
            let mut talk = Talk::new(&network);
            talk.run(&mut network, seconds(5));
            for (number, step) in steps.into_iter().enumerate() {
                network.step(0, step);
                if number == moment {
                    talk.run(&mut network, milliseconds(pause));
                    network.nodes[epoch_of].clock_behind = seconds(3600);
                    network.begin_epoch(epoch_of);
                    network.publish();
                }
                talk.run(&mut network, seconds(4));
            }
            assert_settled(&mut network, &mut talk);
            talk.assert_few_handshakes(&network, 8);
        }
    }
}

#[test]
fn a_process_that_starts_again_in_any_phase_goes_on_where_it_was() {
    for restarted in [0, 1] {
        for moment in 0..3 {
            let mut network = Network::far(&[2, 2]);
            let mut talk = Talk::new(&network);
            talk.run(&mut network, seconds(5));
            for (number, step) in [Step::Announce, Step::Promote, Step::Retire]
                .into_iter()
                .enumerate()
            {
                network.step(0, step);
                talk.run(&mut network, SOON);
                if number == moment {
                    network.restart(restarted);
                    let heir = std::sync::Arc::clone(&network.nodes[restarted].device);
                    heir.set_peers(&BTreeMap::new(), network.now);
                    heir.succeed(network.now);
                    network.publish_to(restarted);
                    talk.run(&mut network, seconds(2));
                    // What was lost until here is the restart's.
                    talk.sent.fill(0);
                    network.nodes.iter_mut().for_each(|n| n.delivered.clear());
                    talk.run(&mut network, SOON);
                    assert!(moment == 2 || network.is_confirmed(0));
                }
            }
            // What was under way when the count began belongs to neither side.
            talk.run(&mut network, seconds(250));
            network.run(seconds(1));
            for node in [0, 1] {
                let (sent, arrived) = (talk.sent[node], network.nodes[node].delivered.len());
                let arrived = u32::try_from(arrived).expect("few");
                assert!((sent..sent + 20).contains(&arrived), "{arrived} of {sent}");
            }
            network.assert_settled(0, 1);
            network.assert_settled(1, 0);
            talk.assert_few_handshakes(&network, 10);
        }
    }
}

#[test]
fn keys_that_stay_keep_their_sessions() {
    let mut network = Network::far(&[2, 2]);
    let mut talk = Talk::new(&network);
    talk.run(&mut network, seconds(5));
    let before = talk.initiations;
    for _ in 0..10 {
        let keys = network.nodes[0].own_keys();
        let device = &network.nodes[0].device;
        device
            .set_keys(keys, podwire_dataplane::Fate::Revoked, network.now)
            .expect("the same keys");
        talk.run(&mut network, seconds(1));
    }
    assert_eq!(talk.initiations, before);
    talk.assert_all_delivered(&mut network);
}

#[test]
fn initiations_of_before_that_are_sent_again_change_nothing() {
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    network.ping(1, 0, 0);
    network.run(seconds(1));
    let name = network.nodes[0].name.clone();
    network.nodes[1].device.request_handshake(&name);
    network.run(seconds(2));
    let base = network.last_sent(1, 1);
    network.step(0, Step::Announce);
    network.run(SOON);
    assert!(network.is_confirmed(0));
    network.step(0, Step::Promote);
    network.run(SOON);
    network.clear_log();
    for _ in 0..100 {
        network.inject(base.clone(), milliseconds(1));
        network.run(milliseconds(200));
    }
    assert!(network.count(0, 2) <= 1, "answered once");
    assert_eq!(network.count(0, 1), 0, "nobody is asked for it");
    assert!(network.is_confirmed(0));
    network.ping(0, 1, 1);
    network.run(seconds(1));
    network.assert_all_delivered(1, 2);
    assert!(network.lane_status(0, 1, 0).sessions <= 3);
}

#[test]
fn a_lane_that_is_blocked_holds_up_no_rotation_of_the_others() {
    let mut network = Network::far(&[2, 2]);
    network.lose(|transit| transit.destination.port() == 51881);
    let mut talk = Talk::new(&network);
    talk.run(&mut network, seconds(5));
    rotate(&mut network, &mut talk, &[0], SOON);
    talk.run(&mut network, seconds(30));
    talk.assert_all_delivered(&mut network);
    assert!(!network.lane_status(0, 1, 1).confirmed);
}

#[test]
fn a_peer_that_forgot_the_newer_key_and_cannot_ask_is_asked_by_the_one_that_all_know() {
    let mut network = hidden(&[1, 1]);
    network.run(seconds(2));
    let old = network.record(0);
    network.step(0, Step::Announce);
    network.run(seconds(40));
    assert!(network.is_confirmed(0));
    // Node 1 starts again with a snapshot of before, and does not know where node 0 is.
    network.restart(1);
    let peers: BTreeMap<_, _> = [(network.nodes[0].name.clone(), old)].into();
    network.nodes[1].device.set_peers(&peers, network.now);
    for n in 0..100 {
        network.ping(0, 1, n);
        network.run(seconds(1));
    }
    let arrived = network.nodes[1].sequence();
    assert!((40..100).all(|n| arrived.contains(&n)), "{arrived:?}");
    let initiations = network.count(0, 1);
    assert!(initiations <= 40, "{initiations}");
}

#[test]
fn a_peers_revoked_key_is_refused_as_soon_as_the_record_says_so() {
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    network.run(seconds(1));
    let thief = network.nodes[0].keys.clone();
    network.change_keys(0, Step::Revoke);
    network.publish();
    network.run(seconds(2));
    network.assert_settled(1, 0);
    network.nodes[0].keys = thief;
    network.restart(0);
    network.clear_log();
    network.ping(0, 1, 1);
    network.run(seconds(4));
    assert_eq!(network.nodes[1].dropped(DropReason::UnknownPeer), 1);
    assert_eq!(network.count(1, 2), 0);
    assert_eq!(network.nodes[1].sequence(), [0]);
}

#[test]
fn a_large_mesh_follows_an_announcement_over_some_seconds() {
    let mut network = Network::new(&[1; 150]);
    for node in 1..150 {
        network.ping(node, 0, 0);
        network.run(milliseconds(10));
    }
    network.run(seconds(6));
    network.clear_log();
    let start = network.now;
    network.step(0, Step::Announce);
    network.run(seconds(3));
    assert!(network.is_confirmed(0));
    assert_spread(&network, start);
}

/// Asserts that 149 pairs have made one handshake each in the 3 s since `start`, not all at once.
#[track_caller]
fn assert_spread(network: &Network, start: Instant) {
    let start = start - network.start;
    let asked = |from: Duration, to: Duration| {
        let log = network.log.iter();
        let asked = log.filter(|(_, transit)| transit.kind() == 1);
        asked
            .filter(|(at, _)| (from..to).contains(&(*at - start)))
            .count()
    };
    let all = asked(seconds(0), seconds(3));
    assert!((149..=155).contains(&all), "{all}");
    for part in 0..12 {
        let from = milliseconds(250 * part);
        let part = asked(from, from + milliseconds(250));
        assert!(part <= 55, "{part} in 250 ms from {from:?}");
    }
}

/// 149 nodes and node 0 talk for a while; `count` packets each way so far.
fn talk_to_all(network: &mut Network, count: &mut u32, duration: Duration) {
    let end = network.now + duration;
    while network.now < end {
        for node in 1..150 {
            network.ping(
                node,
                0,
                *count * 149 + u32::try_from(node - 1).expect("few"),
            );
            network.ping(0, node, *count);
        }
        *count += 1;
        network.run(milliseconds(250));
    }
}

#[test]
fn a_large_mesh_leaves_keys_that_are_given_up_over_some_seconds() {
    for steps in [
        &[Step::Announce, Step::Withdraw][..],
        // Before they have come to the new ones.
        &[Step::Announce, Step::Promote, Step::Retire],
    ] {
        let mut network = Network::new(&[1; 150]);
        let mut count = 0;
        for node in 1..150 {
            network.ping(node, 0, u32::try_from(node - 1).expect("few"));
            network.ping(0, node, 0);
            network.run(milliseconds(10));
        }
        count += 1;
        talk_to_all(&mut network, &mut count, seconds(6));
        let Some((last, before)) = steps.split_last() else {
            continue;
        };
        for step in before {
            network.change_keys(0, *step);
        }
        network.publish();
        if *last == Step::Withdraw {
            talk_to_all(&mut network, &mut count, seconds(6));
            assert!(network.is_confirmed(0));
        }
        network.clear_log();
        let start = network.now;
        network.step(0, *last);
        talk_to_all(&mut network, &mut count, seconds(3));
        assert_spread(&network, start);
        network.assert_all_delivered(0, count * 149);
        for node in 1..150 {
            network.assert_all_delivered(node, count);
            let key = network.lane_status(node, 0, 0).confirmed_key;
            assert_eq!(key, Some(network.record(0).pair.lanes[0].key), "{node}");
        }
    }
}

#[test]
fn sessions_of_any_age_last_until_a_mesh_of_thousands_has_left_a_withdrawn_key() {
    for age in [1, 100, 118] {
        let mut network = Network::far(&[1, 1]);
        let template = network.record(1);
        for number in 0..12_000_u32 {
            let mut stranger = template.clone();
            let mut key = [9; 32];
            key[..4].copy_from_slice(&number.to_le_bytes());
            stranger.pair.lanes[0].key = PublicKey::from_bytes(key).expect("a key");
            (stranger.uid, stranger.allowed_ips) = (format!("stranger-{number}"), Vec::new());
            let name = format!("stranger-{number}").parse().expect("a name");
            network.strangers.insert(name, stranger);
        }
        network.publish();
        let mut talk = Talk::new(&network);
        talk.run(&mut network, seconds(5));
        network.step(0, Step::Announce);
        while !network.status(0, 1).is_on_newer() {
            assert!(network.now < network.start + seconds(130), "not confirmed");
            talk.run(&mut network, seconds(1));
        }
        talk.run(&mut network, seconds(age));
        network.step(0, Step::Withdraw);
        talk.run(&mut network, RETIRE_AFTER);
        network.step(0, Step::Forget);
        talk.run(&mut network, seconds(100));
        talk.assert_all_delivered(&mut network);
        talk.assert_few_handshakes(&network, 4);
    }
}

#[test]
fn a_path_mtu_that_was_reported_outlives_a_change_of_keys() {
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    network.run(seconds(1));
    let endpoint = network.last_sent(1, 2).source;
    network.handle_path_mtu(0, endpoint, 1400);
    for node in [0, 1] {
        for step in [Step::Announce, Step::Promote, Step::Retire] {
            network.step(node, step);
            network.run(seconds(2));
            let packet = crate::packets::Packet::new(0, 1).length(1400).bytes();
            network.send(0, 0, &packet);
        }
    }
    assert_eq!(network.nodes[0].dropped(DropReason::TooBig), 6);
}

/// A step that the keys of a node allow.
fn any_step(network: &mut Network, number: usize) -> Step {
    let is_even = network.random().is_multiple_of(2);
    let node = &network.nodes[number];
    if !node.next.is_empty() {
        if is_even {
            Step::Promote
        } else {
            Step::Withdraw
        }
    } else if !node.previous.is_empty() {
        Step::Retire
    } else if !node.fading.is_empty() {
        Step::Forget
    } else {
        Step::Announce
    }
}

#[test]
fn any_order_of_steps_and_news_loses_nothing() {
    for seed in 1..=12_u64 {
        let mut network = Network::far(&[1, 2, 2]);
        network.random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut talk = Talk::new(&network);
        talk.run(&mut network, seconds(2));
        if seed % 3 == 0 {
            network.lose_handshakes(seed);
        }
        // When each node was told last, and has given up or promoted keys.
        let mut told = [network.now; 3];
        let mut steps = 0;
        for _ in 0..60 {
            let mut pick = |below: u64| network.random() % below;
            let (event, number) = (pick(4), usize::try_from(pick(3)).expect("small"));
            let pause = milliseconds(pick(8_000));
            if event == 0 {
                let step = any_step(&mut network, number);
                if matches!(step, Step::Retire | Step::Forget) {
                    // Not before everybody was told and what lived then is over.
                    network.publish();
                    told.fill(network.now);
                    talk.run(&mut network, seconds(20));
                }
                network.change_keys(number, step);
                steps += 1;
            } else {
                network.publish_to(number);
                told[number] = network.now;
            }
            talk.run(&mut network, pause);
        }
        network.publish();
        talk.run(&mut network, seconds(20));
        talk.assert_all_delivered(&mut network);
        // Each step makes each pair ask at most twice, from either end.
        talk.assert_few_handshakes(&network, 4 * steps);
        for number in 0..3 {
            for peer in network.nodes[number].device.peers(network.now) {
                assert!(peer.lanes.iter().all(|lane| lane.sessions <= 8), "{peer:?}");
            }
        }
    }
}
