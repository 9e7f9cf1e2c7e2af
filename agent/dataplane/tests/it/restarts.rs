//! Nodes that go, come back, change keys or lose their clock.

use std::collections::BTreeMap;
use std::time::Duration;

use podwire_dataplane::DropReason;

use crate::packets::Packet;
use crate::simulation::{Network, milliseconds, seconds};

#[test]
fn an_outage_of_five_minutes_heals_by_itself() {
    let mut network = Network::new(&[1, 1]);
    let mut n = 0;
    let mut talk = |network: &mut Network, seconds: u32| {
        for _ in 0..seconds {
            network.ping(0, 1, n);
            network.ping(1, 0, n);
            network.run(crate::simulation::seconds(1));
            n += 1;
        }
    };
    talk(&mut network, 60);
    let filter = network.lose(|_| true);
    talk(&mut network, 300);
    network.heal(filter);
    talk(&mut network, 60);
    for node in [0, 1] {
        let arrived = network.nodes[node].sequence();
        assert!((0..60).all(|n| arrived.contains(&n)), "before");
        // One retry of 5 s, by which what waited no longer than 10 s is delivered.
        assert!(
            (360..420).all(|n| arrived.contains(&n)),
            "after: {arrived:?}"
        );
    }
}

#[test]
fn an_outage_in_one_direction_heals_too() {
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    network.run(seconds(1));
    let filter = network.lose(|transit| transit.from == 1);
    for n in 1..300 {
        network.ping(0, 1, n);
        network.run(seconds(1));
    }
    let arrived = network.nodes[1].sequence();
    assert!(
        (0..179).all(|n| arrived.contains(&n)),
        "the session lives as long as it may"
    );
    network.heal(filter);
    for n in 300..320 {
        network.ping(0, 1, n);
        network.run(seconds(1));
    }
    let arrived = network.nodes[1].sequence();
    assert!((300..320).all(|n| arrived.contains(&n)), "{arrived:?}");
}

#[test]
fn a_link_that_loses_and_reorders_is_no_trouble() {
    let mut network = Network::new(&[2, 2]);
    let mut random = 7_u64;
    network.lose(move |_| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        random >> 60 == 0
    });
    let mut random = 9_u64;
    network.delay = Some(Box::new(move |_| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        Duration::from_micros(500 + (random >> 48))
    }));
    for n in 0..20_000_u32 {
        let lane = usize::try_from(n % 2).expect("small");
        network.send(0, lane, &Packet::new(0, 1).sequence(n).bytes());
        network.run(milliseconds(20));
        network.clear_log();
    }
    network.run(seconds(1));
    let arrived = network.nodes[1].delivered.len();
    assert!(
        (18_200..19_300).contains(&arrived),
        "{arrived} of 20,000 at a loss of 1/16"
    );
    assert_eq!(network.nodes[1].dropped(DropReason::DecryptFailed), 0);
}

#[test]
fn a_peer_that_restarts_with_the_same_key_is_found_within_21_seconds() {
    let mut network = Network::new(&[1, 1]);
    let mut n = 0;
    let mut send = |network: &mut Network, seconds: u32| {
        for _ in 0..seconds {
            network.ping(0, 1, n);
            network.run(crate::simulation::seconds(1));
            n += 1;
        }
    };
    send(&mut network, 40);
    network.restart(1);
    send(&mut network, 60);
    let lost = 100 - network.nodes[1].delivered.len();
    assert!(lost <= 16, "15 s of silence, not {lost} s");
    assert!(network.nodes[1].dropped(DropReason::ForeignGeneration) > 0);
}

#[test]
fn a_peer_that_restarts_and_asks_for_handshakes_is_back_at_once() {
    let mut network = Network::new(&[2, 2]);
    let mut n = 0;
    let mut send = |network: &mut Network, times: u32| {
        for _ in 0..times {
            for lane in [0, 1] {
                network.send(0, lane, &Packet::new(0, 1).sequence(n).bytes());
                n += 1;
            }
            network.run(milliseconds(100));
        }
    };
    send(&mut network, 50);
    network.restart(1);
    let name = network.nodes[0].name.clone();
    network.nodes[1].device.request_handshake(&name);
    send(&mut network, 50);
    let lost = 200 - network.nodes[1].delivered.len();
    assert!(lost <= 14, "a tick and jitter, not {lost} packets");
}

#[test]
fn a_process_that_takes_anothers_place_asks_each_peer_as_soon_as_it_knows_it() {
    let mut network = Network::new(&[2, 2]);
    let mut n = 0;
    let mut send = |network: &mut Network, times: u32| {
        for _ in 0..times {
            for lane in [0, 1] {
                network.send(0, lane, &Packet::new(0, 1).sequence(n).bytes());
                n += 1;
            }
            network.run(milliseconds(100));
        }
    };
    send(&mut network, 50);
    network.restart(1);
    let heir = std::sync::Arc::clone(&network.nodes[1].device);
    heir.set_peers(&BTreeMap::new(), network.now);
    heir.succeed(network.now);
    // The registry is slow to tell.
    send(&mut network, 10);
    let peers = [(network.nodes[0].name.clone(), network.record(0))].into();
    heir.set_peers(&peers, network.now);
    send(&mut network, 50);
    let lost = 220 - network.nodes[1].delivered.len();
    assert!(
        lost <= 34,
        "the second, a tick and jitter, not {lost} packets"
    );
}

#[test]
fn a_session_whose_confirmation_is_lost_is_confirmed_again() {
    let mut network = Network::new(&[1, 1]);
    let mut n = 0;
    let mut send = |network: &mut Network, times: u32| {
        for _ in 0..times {
            network.ping(0, 1, n);
            network.run(milliseconds(100));
            n += 1;
        }
    };
    send(&mut network, 50);
    network.restart(1);
    let name = network.nodes[0].name.clone();
    network.nodes[1].device.request_handshake(&name);
    // Node 1 has nothing to send that would confirm its session in place of the first keepalive.
    let mut keepalives = 0;
    network.lose(move |transit| {
        keepalives += u32::from(transit.from == 1 && transit.kind() == 4);
        transit.from == 1 && transit.kind() == 4 && keepalives <= 2
    });
    send(&mut network, 100);
    let lost = 150 - network.nodes[1].delivered.len();
    assert!(lost <= 25, "two lost keepalives, not {lost} packets");
}

#[test]
fn a_changed_key_is_followed_as_soon_as_it_is_known() {
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    network.ping(1, 0, 0);
    network.run(seconds(1));
    network.restart_with_new_keys(1);
    network.ping(1, 0, 1);
    network.run(seconds(1));
    assert_eq!(
        network.nodes[0].dropped(DropReason::UnknownPeer),
        1,
        "not known yet"
    );
    network.publish();
    network.run(milliseconds(300));
    for n in 1..100 {
        network.ping(0, 1, n);
        network.run(seconds(1));
    }
    let arrived = network.nodes[1].sequence();
    assert!((1..100).all(|n| arrived.contains(&n)), "{arrived:?}");
    assert_eq!(
        network.nodes[0].sequence(),
        [0, 1],
        "what waited for the key is delivered"
    );
    let status = network.lane_status(0, 1, 0);
    assert_eq!(status.traffic.sent_packets, 100, "counters go on");
    network.run(seconds(200));
    assert_eq!(
        network.lane_status(0, 1, 0).sessions,
        1,
        "the old key's member is gone"
    );
}

#[test]
fn a_clock_that_went_back_is_locked_out_until_the_epoch_changes() {
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    network.run(seconds(1));
    network.nodes[0].clock_behind = seconds(3600);
    network.restart(0);
    network.ping(0, 1, 1);
    network.run(seconds(8));
    assert_eq!(
        network.nodes[1].dropped(DropReason::HandshakeRejected),
        2,
        "older stamps"
    );
    assert_eq!(network.nodes[1].sequence(), [0]);
    network.nodes[0].epoch += 1;
    network.publish_to(1);
    network.run(milliseconds(300));
    assert_eq!(network.nodes[1].sequence(), [0, 1], "accepted at once");
    network.ping(1, 0, 0);
    network.run(milliseconds(300));
    network.assert_all_delivered(0, 1);
    // The new history counts from now on.
    network.run(seconds(300));
    network.ping(0, 1, 2);
    network.run(seconds(1));
    let replay = network.last_sent(0, 1);
    network.inject(replay, milliseconds(1));
    network.run(milliseconds(10));
    assert_eq!(network.nodes[1].dropped(DropReason::HandshakeRejected), 3);
    network.assert_all_delivered(1, 3);
}

#[test]
fn another_epoch_makes_before_it_breaks() {
    let mut network = Network::new(&[2, 2]);
    let mut n = 0;
    for second in 0..400 {
        if second % 50 == 25 {
            network.nodes[second % 2].epoch += 1;
            network.publish();
        }
        for _ in 0..10 {
            for lane in [0, 1] {
                network.send(0, lane, &Packet::new(0, 1).sequence(n).bytes());
                network.send(1, lane, &Packet::new(1, 0).sequence(n).bytes());
                n += 1;
            }
            network.run(milliseconds(100));
        }
    }
    network.assert_all_delivered(0, n);
    network.assert_all_delivered(1, n);
    for lane in [0, 1] {
        let sessions = network.lane_status(0, 1, lane).sessions;
        assert!(sessions <= 4, "{sessions} members");
    }
}

#[test]
fn stamps_never_go_back_however_often_a_tunnel_is_made_anew() {
    let mut network = Network::new(&[1, 1]);
    for n in 0..20 {
        network.ping(0, 1, n);
        network.run(seconds(700));
    }
    network.assert_all_delivered(1, 20);
    assert_eq!(network.nodes[1].dropped(DropReason::HandshakeRejected), 0);
}

#[test]
fn a_changed_key_is_confirmed_by_its_own_handshake_and_not_by_a_session_of_the_old_one() {
    let mut network = Network::new(&[1, 1]);
    let confirmed_key = |network: &Network| network.lane_status(0, 1, 0).confirmed_key;
    let old = network.record(1).pair.lanes[0].key;
    assert_eq!(confirmed_key(&network), None);
    network.ping(0, 1, 0);
    network.run(seconds(1));
    assert_eq!(confirmed_key(&network), Some(old));
    network.restart_with_new_keys(1);
    let filter = network.lose(|transit| transit.kind() < 4);
    network.publish();
    network.ping(0, 1, 1);
    network.run(seconds(60));
    assert_eq!(
        confirmed_key(&network),
        Some(old),
        "its session still lives"
    );
    network.heal(filter);
    network.ping(0, 1, 2);
    network.run(seconds(10));
    let new = network.record(1).pair.lanes[0].key;
    assert_ne!(new, old);
    assert_eq!(confirmed_key(&network), Some(new));
}

#[test]
fn a_clock_that_goes_back_while_running_locks_nobody_out_before_or_after_a_restart() {
    let mut network = Network::new(&[1, 1]);
    network.ping(0, 1, 0);
    network.run(seconds(1));
    let before = network.nodes[0].device.highest_stamp();
    network.nodes[0].clock_behind = seconds(3600);
    // A session of before goes on, and its tunnel stamps by the clock of before.
    for n in 1..200 {
        network.ping(0, 1, n);
        network.run(seconds(1));
    }
    assert!(
        network.nodes[0].device.highest_stamp() > before,
        "stamps of the future are told"
    );
    network.begin_epoch(0);
    network.publish_to(1);
    for n in 200..600 {
        network.ping(0, 1, n);
        network.run(seconds(1));
    }
    network.assert_all_delivered(1, 600);
    let after = network.nodes[0].device.highest_stamp();
    assert!(
        before > after && after > 0,
        "an hour earlier: {before}, then {after}"
    );
    // What peers remember of this epoch is no later than the clock: a restart is welcome.
    let rejected = network.nodes[1].dropped(DropReason::HandshakeRejected);
    network.restart(0);
    network.ping(0, 1, 600);
    network.run(seconds(1));
    network.assert_all_delivered(1, 601);
    assert_eq!(
        network.nodes[1].dropped(DropReason::HandshakeRejected),
        rejected
    );
}

#[test]
fn clocks_of_both_ends_that_go_back_at_once_lock_nobody_out() {
    let mut network = Network::new(&[2, 2]);
    let mut n = 0;
    for round in 0..3 {
        for node in [0, 1] {
            // Forward and back again: first an hour, then a day, then less than a second.
            network.nodes[node].clock_behind = [3600, 90_000, 90_001].map(seconds)[round];
            network.begin_epoch(node);
        }
        network.publish();
        for _ in 0..300 {
            for lane in [0, 1] {
                network.send(0, lane, &Packet::new(0, 1).sequence(n).bytes());
                network.send(1, lane, &Packet::new(1, 0).sequence(n).bytes());
                n += 1;
            }
            network.run(seconds(1));
        }
        network.assert_all_delivered(0, n);
        network.assert_all_delivered(1, n);
    }
    for node in [0, 1] {
        network.restart(node);
        network.ping(node, 1 - node, n);
        network.run(seconds(1));
        network.assert_all_delivered(1 - node, n + 1);
    }
}
