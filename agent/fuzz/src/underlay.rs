//! Datagrams of anybody into a device with peers and sessions.
//!
//! The first byte says what lies behind ([`Setup`]), then come steps: a byte for the kind, a byte
//! for the source, and what the kind needs. Attackers send raw bytes, handshake messages with a
//! mac1 of their own, and what was on the wire before, changed or not. Peers handshake, and seal
//! any bytes under their own session.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::input::Input;
use crate::wireguard_peer::{Reaction, seal};
use crate::world::{self, Effects, FIXED, LANES, ROAMING, Setup, World};

/// Steps of one input: a bound on its time.
const STEPS_MAX: usize = 64;
/// Messages that are remembered for a replay.
const LOG_MAX: usize = 64;
/// Where the device sends from.
const DEVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 51880);
/// Age of a session up to which its data must be delivered.
const LIVELY: Duration = Duration::from_secs(100);

/// The kinds of steps; seeds name them.
mod kind {
    pub(super) const RAW: u8 = 0;
    pub(super) const SEALED_INITIATION: u8 = 1;
    pub(super) const SEALED_RESPONSE: u8 = 2;
    pub(super) const REPLAY: u8 = 3;
    pub(super) const TRAIN: u8 = 4;
    pub(super) const PEER_INITIATION: u8 = 5;
    pub(super) const PEER_DATA: u8 = 6;
    pub(super) const DELIVER: u8 = 7;
    pub(super) const PACKET: u8 = 8;
    pub(super) const COOKIE_REPLY: u8 = 9;
    pub(super) const WAIT: u8 = 10;
    pub(super) const COUNT: u8 = 11;
}

/// A peer's message that the device has not seen yet.
struct Pending {
    peer: usize,
    message: Vec<u8>,
    /// What is sealed in it, if it is data.
    plaintext: Option<Vec<u8>>,
}

struct Underlay {
    world: World,
    /// What was on the wire, from either end.
    log: Vec<Vec<u8>>,
    pending: Vec<Pending>,
    /// The device's initiations to each peer, for their cookies.
    initiations: [Option<Vec<u8>>; 2],
}

/// One input.
pub fn one(data: &[u8]) {
    let mut input = Input::new(data);
    let mut underlay = Underlay {
        world: World::new(Setup::from(input.byte())),
        log: Vec::new(),
        pending: Vec::new(),
        initiations: [None, None],
    };
    for number in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        underlay.step(number, &mut input);
    }
}

/// Where a datagram comes from, and by which lane it comes in: a peer's address as often as
/// another's.
fn source(byte: u8) -> (usize, SocketAddr) {
    let lane = usize::from(byte >> 7 & (LANES - 1));
    let address = match byte & 3 {
        0 => IpAddr::from(Ipv4Addr::new(192, 0, 2, 11)),
        1 => Ipv4Addr::new(192, 0, 2, 12).into(),
        2 => Ipv4Addr::new(198, 51, 100, 7).into(),
        _ => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7).into(),
    };
    let port = if byte & 4 == 0 { 51880 } else { 4000 };
    (lane, SocketAddr::new(address, port))
}

impl Underlay {
    fn step(&mut self, number: usize, input: &mut Input<'_>) {
        let kind = input.byte() % kind::COUNT;
        let origin = input.byte();
        let (lane, from) = source(origin);
        let peer = usize::from(origin >> 4 & 1);
        match kind {
            kind::RAW => {
                let bytes = input.sized();
                self.attack(lane, from, bytes, bytes.len(), true);
            }
            kind::SEALED_INITIATION => {
                let message = sealed(1, 148, lane, input);
                self.attack(lane, from, &message, message.len(), true);
            }
            kind::SEALED_RESPONSE => {
                let mut message = sealed(2, 92, lane, input);
                if let Some(initiation) = &self.initiations[peer] {
                    // To a handshake that is really on its way.
                    message[8..12].copy_from_slice(&initiation[4..8]);
                    seal(&mut message, &world::device_key(u8::from(lane > 0)));
                }
                self.attack(lane, from, &message, message.len(), true);
            }
            kind::REPLAY => self.replay(lane, from, input),
            kind::TRAIN => {
                let size = usize::from(input.byte()) + 1;
                let bytes = input.sized();
                self.attack(lane, from, bytes, size, true);
            }
            kind::PEER_INITIATION => {
                if let Some(message) = self.world.peers[peer].initiation() {
                    self.pend(peer, message, None);
                    self.deliver(self.pending.len() - 1, from);
                }
            }
            kind::PEER_DATA => self.peer_data(peer, from, input),
            kind::DELIVER => {
                let index = usize::from(input.byte());
                if !self.pending.is_empty() {
                    self.deliver(index % self.pending.len(), from);
                }
            }
            kind::PACKET => {
                let number = u8::try_from(number).unwrap_or(u8::MAX);
                let effects = self.world.send(lane, &[&world::udp(number, peer)]);
                self.hand_to_peer(peer, &effects);
            }
            kind::COOKIE_REPLY => self.cookie_reply(peer, from),
            kind::WAIT => {
                let quarters = u32::from(input.byte());
                let effects = self.world.wait(Duration::from_millis(250) * quarters);
                for (to, message) in &effects.sent {
                    let of = |peer: &usize| self.world.peers[*peer].address == *to;
                    let peer = [FIXED, ROAMING].into_iter().find(of).unwrap_or(ROAMING);
                    self.hear(peer, message);
                }
            }
            _ => unreachable!("kinds below {}", kind::COUNT),
        }
    }

    /// What somebody without a key sends. It is dropped, each datagram under one reason, unless
    /// (`is_counted` false) it is a copy of an initiation, which a device may answer that has
    /// forgotten it, or of a cookie reply, which tells it the same again.
    fn attack(
        &mut self,
        lane: usize,
        from: SocketAddr,
        bytes: &[u8],
        segment_size: usize,
        is_counted: bool,
    ) {
        let before = self.world.authenticated();
        let effects = self.world.receive(lane, from, bytes, segment_size);
        assert_eq!(before, self.world.authenticated(), "{effects:?}");
        assert!(effects.delivered.is_empty(), "{effects:?}");
        assert!(
            effects.sent_bytes() <= bytes.len(),
            "answered with more than it got: {effects:?}"
        );
        let segments = bytes.len().div_ceil(segment_size.max(1)).max(1) as u64;
        if is_counted {
            assert_eq!(effects.drops(), segments, "{effects:?}");
        } else {
            assert!(effects.drops() <= segments, "{effects:?}");
        }
    }

    /// A message that was on the wire before, perhaps with some bytes changed, cut or longer.
    fn replay(&mut self, lane: usize, from: SocketAddr, input: &mut Input<'_>) {
        let index = usize::from(input.byte());
        let (changes, length) = (input.byte() % 8, input.word());
        let Some(mut message) = index
            .checked_rem(self.log.len())
            .map(|index| self.log[index].clone())
        else {
            return;
        };
        for _ in 0..changes {
            let (at, change) = (usize::from(input.word()), input.byte());
            let at = at % message.len();
            message[at] ^= change;
        }
        if length > 0 {
            message.resize(usize::from(length) % 2048, 0);
        }
        if changes & 4 != 0 && message.len() > 32 {
            seal(&mut message, &world::device_key(u8::from(lane > 0)));
        }
        let is_counted = !matches!(message.first(), Some(1 | 3));
        self.attack(lane, from, &message, message.len(), is_counted);
    }

    /// A peer seals any bytes: sent now, later, or after a copy that was tampered with.
    fn peer_data(&mut self, peer: usize, from: SocketAddr, input: &mut Input<'_>) {
        let when = input.byte();
        let plaintext = input.sized();
        let Some(message) = self.world.peers[peer].data(plaintext) else {
            return;
        };
        if when & 2 != 0 {
            let mut copy = message.clone();
            let at = usize::from(when >> 2) % copy.len();
            copy[at] ^= 1 | when & 0x80;
            self.attack(0, from, &copy, copy.len(), true);
        }
        self.pend(peer, message, Some(plaintext.to_vec()));
        if when & 1 == 0 {
            self.deliver(self.pending.len() - 1, from);
        }
    }

    fn cookie_reply(&mut self, peer: usize, from: SocketAddr) {
        let Some(initiation) = &self.initiations[peer] else {
            return;
        };
        if let Some(reply) = self.world.peers[peer].cookie_reply(DEVICE, initiation) {
            let before = self.world.authenticated();
            let effects = self.world.receive(0, from, &reply, reply.len());
            assert!(effects.sent.is_empty() && effects.delivered.is_empty());
            assert_eq!(
                before,
                self.world.authenticated(),
                "a cookie moved somebody"
            );
            self.remember(reply);
        }
    }

    fn pend(&mut self, peer: usize, message: Vec<u8>, plaintext: Option<Vec<u8>>) {
        self.pending.push(Pending {
            peer,
            message,
            plaintext,
        });
    }

    /// A peer's own message arrives for the first time.
    fn deliver(&mut self, index: usize, from: SocketAddr) {
        let is_fresh = index + 1 == self.pending.len();
        let Pending {
            peer,
            message,
            plaintext,
        } = self.pending.remove(index);
        let before = self.world.authenticated();
        let effects = self.world.receive(0, from, &message, message.len());
        let after = self.world.authenticated();
        let other = 1 - peer;
        assert_eq!(
            before[other], after[other],
            "another peer's message: {effects:?}"
        );
        if before[peer].endpoint != after[peer].endpoint {
            assert_eq!((peer, after[peer].endpoint), (ROAMING, Some(from)));
        }
        match plaintext {
            Some(plaintext) => self.check_data(peer, &plaintext, is_fresh, &effects),
            None => {
                assert!(effects.delivered.is_empty(), "a handshake was delivered");
                let is_moved = before[peer].endpoint != after[peer].endpoint;
                assert!(message[0] != 1 || !is_moved, "an initiation moved a peer");
            }
        }
        self.remember(message);
        self.hand_to_peer(peer, &effects);
    }

    /// An inner packet is delivered as it was sealed, and only if it is one of its sender's.
    fn check_data(&self, peer: usize, plaintext: &[u8], is_fresh: bool, effects: &Effects) {
        let is_allowed = self.world.peers[peer].may_send(plaintext);
        for packet in &effects.delivered {
            assert!(is_allowed, "not a packet of its sender: {plaintext:?}");
            assert!(
                plaintext.starts_with(packet),
                "{plaintext:?} became {packet:?}"
            );
        }
        assert!(effects.delivered.len() <= 1);
        let is_lively = is_fresh && self.world.now - self.world.start < LIVELY;
        if is_allowed && is_lively {
            assert_eq!(
                effects.delivered.len(),
                1,
                "lost {plaintext:?}: {effects:?}"
            );
        } else if !is_allowed && !plaintext.is_empty() {
            assert_eq!(effects.drops(), 1, "{effects:?}");
        }
    }

    /// What the device has sent arrives at a peer, whose answers wait to be delivered.
    fn hand_to_peer(&mut self, peer: usize, effects: &Effects) {
        for (_, message) in &effects.sent {
            self.hear(peer, message);
        }
    }

    fn hear(&mut self, peer: usize, message: &[u8]) {
        if message.first() == Some(&1) {
            self.initiations[peer] = Some(message.to_vec());
        }
        if let Reaction::Answer(answer) = self.world.peers[peer].receive(message) {
            self.pend(peer, answer, None);
        }
        self.remember(message.to_vec());
    }

    fn remember(&mut self, message: Vec<u8>) {
        if self.log.len() < LOG_MAX {
            self.log.push(message);
        }
    }
}

/// A handshake message of bytes of the input's choice, with the mac1 that the lane wants.
fn sealed(kind: u8, length: usize, lane: usize, input: &mut Input<'_>) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(input.bytes(length - 4));
    message.resize(length, 0);
    seal(&mut message, &world::device_key(u8::from(lane > 0)));
    message
}
