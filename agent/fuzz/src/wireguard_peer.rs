//! An ordinary WireGuard peer of the device under test, and what can be made without its key.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::sync::Arc;

use blake2::digest::{FixedOutput as _, KeyInit as _, Update as _};
use blake2::{Blake2s256, Blake2sMac, Digest as _};
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use ipnet::IpNet;
use podwire_core::key::{PrivateKey, PublicKey};

use crate::inner_packet::InnerPacket;

/// Longest message of the peer: the longest plaintext that an input holds, and what is around it.
const BUFFER: usize = 1 << 17;

/// One peer, with the sessions that it has.
pub(crate) struct WireguardPeer {
    /// Made when it is first needed: its keys cost more than most inputs.
    tunn: OnceCell<Tunn>,
    key: PrivateKey,
    device: PublicKey,
    /// Where it really is.
    pub(crate) address: SocketAddr,
    /// What it may be the source of.
    pub(crate) prefixes: [IpNet; 2],
    buffer: Vec<u8>,
}

/// What a peer makes of a message.
pub(crate) enum Reaction {
    /// It sends this back.
    Answer(Vec<u8>),
    /// It was an inner packet.
    Packet(Vec<u8>),
    /// It was taken, or refused.
    Nothing,
}

impl WireguardPeer {
    pub(crate) fn new(
        key: PrivateKey,
        device: PublicKey,
        address: SocketAddr,
        prefixes: [IpNet; 2],
    ) -> Self {
        Self {
            tunn: OnceCell::new(),
            key,
            device,
            address,
            prefixes,
            buffer: vec![0; BUFFER],
        }
    }

    fn public(&self) -> x25519::PublicKey {
        x25519::PublicKey::from(*self.key.public_key().as_bytes())
    }

    /// The engine and a buffer for what it makes.
    fn engine(&mut self) -> (&mut Tunn, &mut [u8]) {
        self.tunn.get_or_init(|| {
            let device = x25519::PublicKey::from(*self.device.as_bytes());
            let unlimited = Arc::new(RateLimiter::new(&self.public(), u64::MAX));
            let secret = self.key.secret();
            Tunn::new(secret, device, None, None, 0x11_1111, Some(unlimited))
        });
        let tunn = self.tunn.get_mut().expect("it was just made");
        (tunn, &mut self.buffer)
    }

    /// An initiation, also while another one is on its way.
    pub(crate) fn initiation(&mut self) -> Option<Vec<u8>> {
        let (tunn, buffer) = self.engine();
        let made = tunn.format_handshake_initiation(buffer, true);
        written(&made).map(<[u8]>::to_vec)
    }

    /// A transport message around any bytes; none while there is no session to send on.
    pub(crate) fn data(&mut self, plaintext: &[u8]) -> Option<Vec<u8>> {
        let (tunn, buffer) = self.engine();
        let made = tunn.encapsulate(plaintext, buffer);
        written(&made)
            .filter(|message| message[0] == 4)
            .map(<[u8]>::to_vec)
    }

    /// Takes a message of the device.
    pub(crate) fn receive(&mut self, message: &[u8]) -> Reaction {
        if message.is_empty() {
            return Reaction::Nothing;
        }
        let (tunn, buffer) = self.engine();
        match tunn.decapsulate(None, message, buffer) {
            TunnResult::WriteToNetwork(answer) => Reaction::Answer(answer.to_vec()),
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Reaction::Packet(packet.to_vec())
            }
            TunnResult::Done | TunnResult::Err(_) => Reaction::Nothing,
        }
    }

    /// Answers an initiation with a cookie, as a peer under load.
    pub(crate) fn cookie_reply(
        &mut self,
        device: SocketAddr,
        initiation: &[u8],
    ) -> Option<Vec<u8>> {
        let cookies = RateLimiter::new(&self.public(), 0);
        let checked = cookies.verify_packet(Some(device.ip()), initiation, &mut self.buffer);
        checked.err().as_ref().and_then(written).map(<[u8]>::to_vec)
    }

    /// Whether it is a packet, from one of the peer's pods, and goes nowhere else first.
    pub(crate) fn may_send(&self, packet: &[u8]) -> bool {
        InnerPacket::new(packet).is_some_and(|packet| {
            self.prefixes.iter().any(|p| p.contains(&packet.source)) && !packet.is_source_routed()
        })
    }
}

/// The message that the engine has made.
fn written<'a>(result: &'a TunnResult<'_>) -> Option<&'a [u8]> {
    if let TunnResult::WriteToNetwork(message) = result {
        Some(message)
    } else {
        None
    }
}

/// Puts the mac1 that anybody can compute who knows the receiver's public key into a handshake
/// message.
pub(crate) fn seal(message: &mut [u8], receiver: &PublicKey) {
    //= WireGuard §5.4.4
    let key = Blake2s256::new()
        .chain_update(b"mac1----")
        .chain_update(receiver.as_bytes())
        .finalize();
    let Some(at) = message.len().checked_sub(32) else {
        return;
    };
    let mut mac = Blake2sMac::<blake2::digest::consts::U16>::new_from_slice(&key)
        .expect("a hash is a key of the right length");
    mac.update(&message[..at]);
    message[at..at + 16].copy_from_slice(&mac.finalize_fixed());
}
