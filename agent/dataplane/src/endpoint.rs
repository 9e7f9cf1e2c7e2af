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
        if pair.endpoints.is_empty() {
            return self.roamed;
        }
        // A thread may see fewer endpoints a moment before the set is told.
        of_lane(pair, self.selected % pair.endpoints.len(), lane)
    }

    /// Where the initiation number `attempt` (from 1) of a handshake goes, in this order: the first
    /// to the endpoint in use alone, a retry to every other one behind it. So what waits for its
    /// first session still waits when the second endpoint answers, and a pair of which a message
    /// was merely lost stays where it is: of two copies the peer answers the one that comes first.
    pub(crate) fn for_attempt<'a>(
        &self,
        pair: &'a EncryptedPair,
        lane: usize,
        attempt: u32,
    ) -> impl Iterator<Item = SocketAddr> + use<'a> {
        let selected = self.selected.checked_rem(pair.endpoints.len());
        let others = (0..pair.endpoints.len()).filter(move |n| attempt > 1 && Some(*n) != selected);
        let others = others.filter_map(move |number| of_lane(pair, number, lane));
        self.current(pair, lane).into_iter().chain(others)
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
