//! Packets of pods into a device with a session.
//!
//! The first byte says what lies behind ([`Setup`]), then come steps: a batch of packets, or a path
//! MTU that the kernel has reported. A packet is two bytes for its length and its bytes.

use std::time::Duration;

use podwire_core::mtu::{Family, inner_mtu};
use podwire_dataplane::DropReason;

use crate::icmp;
use crate::inner_packet::InnerPacket;
use crate::input::Input;
use crate::wireguard_peer::Reaction;
use crate::world::{Effects, FIXED, LANES, PATH_MTU, Setup, World};

/// Steps of one input: a bound on its time, and short of the life of a session.
const STEPS_MAX: usize = 64;
/// Bytes of WireGuard around a padded packet.
const OVERHEAD: usize = 32;
/// The step that is a path MTU.
const PATH_MTU_STEP: u8 = 15;

/// One input.
pub fn one(data: &[u8]) {
    let mut input = Input::new(data);
    let setup = Setup::from(input.byte());
    let mut world = World::new(setup);
    // Whose session there is.
    let connected = world
        .authenticated()
        .iter()
        .position(|peer| peer.confirmed_key.is_some());
    let mut path_mtu = PATH_MTU;
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        // The limit of ICMP errors is one for each second.
        world.now += Duration::from_secs(1);
        let head = input.byte();
        if head & 15 == PATH_MTU_STEP {
            let reported = u32::from(input.word());
            let endpoint = world.peers[FIXED].address;
            world.path_mtu(endpoint, reported);
            path_mtu = path_mtu.min(reported);
            continue;
        }
        let lane = usize::from(head >> 7 & (LANES - 1));
        let packets: Vec<&[u8]> = (0..=head & 7).map(|_| input.sized()).collect();
        let queued = queued(&world);
        let effects = world.send(lane, &packets);
        let added = self::queued(&world) - queued;
        check(&mut world, connected, path_mtu, &packets, &effects, added);
    }
}

/// Packets that wait for a session.
fn queued(world: &World) -> u64 {
    let peers = world.device.peers(world.now);
    let lanes = peers.iter().flat_map(|peer| &peer.lanes);
    lanes.map(|lane| lane.queued as u64).sum()
}

fn check(
    world: &mut World,
    connected: Option<usize>,
    path_mtu: u32,
    packets: &[&[u8]],
    effects: &Effects,
    queued: u64,
) {
    let data: Vec<_> = effects
        .sent
        .iter()
        .filter(|(_, message)| message[0] == 4)
        .collect();
    assert_eq!(
        data.len() as u64 + effects.drops() + queued,
        packets.len() as u64,
        "each packet is sent, waits, or is counted: {packets:?} {effects:?}"
    );
    let malformed = packets.iter().filter(|p| InnerPacket::new(p).is_none());
    let malformed = malformed.count() as u64;
    let counted = effects.dropped.get(&DropReason::MalformedInner);
    assert_eq!(counted.copied().unwrap_or(0), malformed, "{packets:?}");
    let mut data = data.into_iter();
    if let Some(peer) = connected {
        for packet in packets.iter().filter_map(|packet| InnerPacket::new(packet)) {
            let prefixes = &world.peers[peer].prefixes;
            let is_for_peer = prefixes.iter().any(|p| p.contains(&packet.destination));
            let address = world.peers[peer].address;
            let mtu = if peer == FIXED { path_mtu } else { PATH_MTU };
            let family = Family::from(packet.destination);
            let mtu = inner_mtu(mtu, Family::from(address.ip()), family) as usize;
            if !is_for_peer || packet.bytes.len() > mtu || packet.is_source_routed() {
                continue;
            }
            let (to, message) = data.next().expect("a packet for the peer is sent");
            assert_eq!(*to, address);
            assert!(message.len() <= mtu + OVERHEAD, "{} bytes", message.len());
            match world.peers[peer].receive(message) {
                Reaction::Packet(received) => assert_eq!(received, packet.bytes),
                Reaction::Answer(_) | Reaction::Nothing => panic!("{packet:?} was lost"),
            }
        }
    }
    assert!(data.next().is_none(), "sent to nobody: {effects:?}");
    let is_refused = effects.drops() == packets.len() as u64
        && !effects.dropped.contains_key(&DropReason::QueueFull);
    icmp::check_answers(packets, &effects.delivered, is_refused);
}
