//! Where a lane of a peer is reached.
//!
//! Endpoints come from the record. Among those of a record the one that answers is used; a record
//! without any (a peer behind NAT) is followed wherever its authenticated packets come from.

use std::net::SocketAddr;

use podwire_core::mesh::EncryptedPair;

/// The endpoint in use of one lane of a peer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Endpoint {
    /// Which of the record's.
    selected: usize,
    /// Where a peer without endpoints was last seen.
    roamed: Option<SocketAddr>,
}

/// The record's endpoint `number` for a lane: the same address, the lane's port.
fn of_lane(pair: &EncryptedPair, number: usize, lane: usize) -> Option<SocketAddr> {
    let endpoint = *pair.endpoints.get(number)?;
    match lane {
        0 => Some(endpoint),
        _ => Some(SocketAddr::new(endpoint.ip(), pair.lanes.get(lane)?.port)),
    }
}

impl Endpoint {
    /// Where data goes.
    pub(crate) fn current(&self, pair: &EncryptedPair, lane: usize) -> Option<SocketAddr> {
        self.for_attempt(pair, lane, 1)
    }

    /// Where the initiation number `attempt` (from 1) of a handshake goes: to each endpoint in turn.
    /// So what waits for its first session still waits when the second endpoint answers.
    pub(crate) fn for_attempt(
        &self,
        pair: &EncryptedPair,
        lane: usize,
        attempt: u32,
    ) -> Option<SocketAddr> {
        if pair.endpoints.is_empty() {
            return self.roamed;
        }
        let further = usize::try_from(attempt.saturating_sub(1)).unwrap_or(0);
        let number = self.selected + further;
        of_lane(pair, number % pair.endpoints.len(), lane)
    }

    /// An authenticated packet or a response has come from `source`: a peer without endpoints is
    /// there.
    pub(crate) fn heard_from(&mut self, pair: &EncryptedPair, source: SocketAddr) {
        if pair.endpoints.is_empty() {
            self.roamed = Some(source);
        }
    }

    /// A session was confirmed by a message from `source`: if that is one of the record's
    /// endpoints, it works in both directions, so both ends use it.
    pub(crate) fn confirmed_from(&mut self, pair: &EncryptedPair, lane: usize, source: SocketAddr) {
        let mut numbers = 0..pair.endpoints.len();
        if let Some(number) = numbers.find(|n| of_lane(pair, *n, lane) == Some(source)) {
            self.selected = number;
        }
    }

    /// Forgets what was learnt: the endpoints have changed, or their order.
    pub(crate) fn reset(&mut self) {
        self.selected = 0;
    }
}
