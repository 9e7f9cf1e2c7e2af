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
pub(crate) fn of_lane(pair: &EncryptedPair, number: usize, lane: usize) -> Option<SocketAddr> {
    let endpoint = *pair.endpoints.get(number)?;
    match lane {
        0 => Some(endpoint),
        _ => Some(SocketAddr::new(endpoint.ip(), pair.lanes.get(lane)?.port)),
    }
}

impl Endpoint {
    /// Where data goes.
    pub(crate) fn current(&self, pair: &EncryptedPair, lane: usize) -> Option<SocketAddr> {
        if pair.endpoints.is_empty() {
            return self.roamed;
        }
        // A thread may see fewer endpoints a moment before the set is told.
        of_lane(pair, self.selected % pair.endpoints.len(), lane)
    }

    /// Where the initiation number `attempt` (from 1) of a handshake goes: to the endpoint in use,
    /// a retry too, and when nothing came back on that, to another one. So a pair of which a
    /// message was merely lost stays where it is. Each is a message of its own, never a copy: a
    /// peer whose answers are lost on one way would take the first copy and refuse the second.
    pub(crate) fn for_attempt(
        &self,
        pair: &EncryptedPair,
        lane: usize,
        attempt: u32,
    ) -> Option<SocketAddr> {
        let count = pair.endpoints.len();
        if count < 2 || !Self::is_for_another(attempt) {
            return self.current(pair, lane);
        }
        let turn = attempt as usize / 2 - 1;
        of_lane(pair, (self.selected + 1 + turn % (count - 1)) % count, lane)
    }

    /// Whether an attempt goes to another endpoint than the one in use, where there is one.
    fn is_for_another(attempt: u32) -> bool {
        attempt > 2 && attempt % 2 == 1
    }

    /// Whether the attempt after number `attempt` need not wait for as long as a retry does: it
    /// goes another way.
    pub(crate) fn is_soon_tried_elsewhere(pair: &EncryptedPair, attempt: u32) -> bool {
        pair.endpoints.len() > 1 && Self::is_for_another(attempt + 1)
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
