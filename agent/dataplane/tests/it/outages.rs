//! Black holes of any length and direction, at any time: what is sent after their end arrives,
//! after one retry of a handshake at most.

use std::time::Duration;

use crate::packets::Packet;
use crate::simulation::{Network, milliseconds, seconds};

/// Lanes of both nodes.
const LANES: usize = 2;
/// Time between two packets of each flow.
const STEP: Duration = milliseconds(100);
/// REKEY_TIMEOUT, the tick that finds it, and the jitter of two initiations.
const RETRY: Duration = milliseconds(5_000 + 250 + 2 * 333);

/// Everything that some nodes send is lost for a while.
#[derive(Clone, Copy, Debug)]
struct Outage {
    /// Age of the first session when it begins; zero when there is none yet.
    after: Duration,
    length: Duration,
    /// Whose datagrams are lost.
    from: &'static [usize],
    /// Whose pods send.
    senders: &'static [usize],
}

/// Every flow of the senders, a packet each step.
fn talk(network: &mut Network, senders: &[usize], number: &mut u32, length: Duration) {
    let end = network.now + length;
    while network.now < end {
        for sender in senders {
            for lane in 0..LANES {
                let packet = Packet::new(*sender, 1 - sender).sequence(*number);
                network.send(*sender, lane, &packet.bytes());
            }
        }
        *number += 1;
        network.run(STEP);
        network.clear_log();
    }
}

fn rides_over(outage: Outage) {
    let mut network = Network::new(&[LANES, LANES]);
    let mut number = 0;
    talk(&mut network, outage.senders, &mut number, outage.after);
    let filter = network.lose(move |transit| outage.from.contains(&transit.from));
    talk(&mut network, outage.senders, &mut number, outage.length);
    network.heal(filter);
    network
        .nodes
        .iter_mut()
        .for_each(|node| node.delivered.clear());
    let first = number;
    for length in [RETRY, seconds(24)] {
        talk(&mut network, outage.senders, &mut number, length);
        for sender in outage.senders {
            let arrived = network.nodes[1 - sender].sequence();
            let late = (first..number)
                .filter(|n| arrived.iter().filter(|m| *m == n).count() != LANES)
                .collect::<Vec<_>>();
            assert!(late.is_empty(), "{late:?} from {sender}: {outage:?}");
        }
    }
}

#[test]
fn whatever_is_sent_after_a_black_hole_arrives_within_one_retry() {
    const BOTH: &[usize] = &[0, 1];
    const EACH: [&[usize]; 3] = [BOTH, &[0], &[1]];
    for after in [0, 118] {
        for length in [1, 10, 90, 200, 600] {
            for (from, senders) in EACH.iter().flat_map(|from| EACH.map(|to| (*from, to))) {
                rides_over(Outage {
                    after: seconds(after),
                    length: seconds(length),
                    from,
                    senders,
                });
            }
        }
    }
}
