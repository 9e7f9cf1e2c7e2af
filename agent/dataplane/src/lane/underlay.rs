//! From the underlay: find the session, decrypt, check the source.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::batch::{DeliveryBatch, UnderlayBatch};
use crate::device::Device;
use crate::drop_reason::DropReason;
use crate::ecn::Ecn;
use crate::ip_packet::IpPacket;
use crate::message::Message;
use crate::noise::{CookieCheck, HANDSHAKE_ROOM, Received};
use crate::peer::Peer;
use crate::peer_table::PeerTable;
use crate::receiver_index::{Owner, Unroutable};
use crate::session_set::{Context, Ends, OutputFull, SessionSet};

/// A segment is consumed; perhaps it was dropped.
type Handled = Result<Result<(), DropReason>, OutputFull>;

/// One batch of datagrams on its way.
pub(super) struct Underlay<'a> {
    pub(super) device: &'a Device,
    pub(super) table: &'a PeerTable,
    pub(super) now: Instant,
    pub(super) send: &'a mut UnderlayBatch,
    pub(super) deliver: &'a mut DeliveryBatch,
}

impl<'a> Underlay<'a> {
    pub(super) fn handle(&mut self, datagrams: &mut UnderlayBatch) -> Result<(), OutputFull> {
        while let Some((datagram, bytes)) = datagrams.segment() {
            let (lane, source) = (datagram.lane, datagram.endpoint);
            assert!(lane < self.device.lanes.len(), "a datagram of lane {lane}");
            let dropped = match Message::parse(bytes) {
                None => Err(DropReason::MalformedMessage),
                Some(Message::Initiation) => {
                    if !self.send.has_room(HANDSHAKE_ROOM) {
                        return Err(OutputFull);
                    }
                    self.answer_initiation(lane, source, bytes)
                }
                Some(
                    Message::Response { receiver }
                    | Message::CookieReply { receiver }
                    | Message::Data { receiver },
                ) => match self.find(receiver, lane) {
                    Err(reason) => Err(reason),
                    Ok((owner, peer)) => {
                        // Consumes what it handles.
                        self.handle_run(owner, peer, datagrams)?;
                        continue;
                    }
                },
            };
            if let Err(reason) = dropped {
                self.device.lanes[lane].counters.drop(reason);
            }
            datagrams.consume_segment();
        }
        Ok(())
    }

    /// Answers an initiation, after checks in the order of their cost: mac1, the budget or a
    /// cookie and the budget of its source, one Diffie-Hellman, the peer.
    fn answer_initiation(
        &mut self,
        lane: usize,
        source: SocketAddr,
        initiation: &[u8],
    ) -> Result<(), DropReason> {
        let own = &self.device.lanes[lane];
        let own_keys = self.table.own().lane(lane);
        let mut own_key = own_keys.all().filter(|own| own.verify_mac1(initiation));
        let own_key = own_key.next().ok_or(DropReason::BadMac)?;
        own.counters.initiations_received();
        if !self.device.limiter.take(self.now) {
            match own_key.check_cookie(source.ip(), initiation, self.send.room())? {
                CookieCheck::Valid => {
                    let (limiter, is_named) = (&self.device.limiter, self.table.names(source));
                    if !limiter.take_proved(self.now, source.ip(), is_named) {
                        return Err(DropReason::HandshakeLimited);
                    }
                }
                CookieCheck::Reply(length) => {
                    self.send.commit_front(lane, source, length);
                    own.counters.cookie_replies_sent();
                    return Err(DropReason::HandshakeLimited);
                }
            }
        }
        let key = own_key.initiator(initiation)?;
        if own_keys.find(&key).is_some() {
            return Err(DropReason::OwnKey);
        }
        let peer = self
            .table
            .by_key(&key, lane)
            .ok_or(DropReason::UnknownPeer)?;
        let context = self.device.context(lane, peer, self.now);
        let mut cell = peer.state.lanes[lane].lock();
        let set = self
            .device
            .open(&mut cell, &context)
            .ok_or(DropReason::UnknownPeer)?;
        let ends = Ends {
            own: *own_key.public_key(),
            peer: key,
        };
        let accepted = set.accept_initiation(&context, ends, initiation, source, self.send);
        set.traffic.drops += u64::from(accepted.is_err());
        accepted
    }

    /// Whose session a receiver index names.
    fn find(&self, receiver: u32, lane: usize) -> Result<(Owner, &'a Peer), DropReason> {
        let owner = self
            .device
            .indices
            .owner(receiver)
            .map_err(|unroutable| match unroutable {
                Unroutable::ForeignGeneration => DropReason::ForeignGeneration,
                Unroutable::Unknown => DropReason::UnknownIndex,
            })?;
        let peer = self.table.by_ordinal(owner.peer);
        peer.filter(|peer| owner.lane == lane && lane < peer.lanes)
            .map(|peer| (owner, &**peer))
            .ok_or(DropReason::UnknownIndex)
    }

    /// Handles the next segment, which is for a session of `owner`, and those behind it that are
    /// too, under one lock.
    fn handle_run(
        &mut self,
        owner: Owner,
        peer: &Peer,
        datagrams: &mut UnderlayBatch,
    ) -> Result<(), OutputFull> {
        let device = self.device;
        let context = device.context(owner.lane, peer, self.now);
        let mut cell = peer.state.lanes[owner.lane].lock();
        let Some(set) = device.open(&mut cell, &context) else {
            // Removed since the table was read.
            context.counters.drop(DropReason::UnknownIndex);
            datagrams.consume_segment();
            return Ok(());
        };
        let mut last_source = None;
        while let Some((datagram, bytes)) = datagrams.segment() {
            let outer = Outer {
                source: datagram.endpoint,
                ecn: datagram.ecn,
            };
            let source = outer.source;
            let is_of_run = |receiver: u32| {
                datagram.lane == owner.lane && device.indices.owner(receiver) == Ok(owner)
            };
            let handled = match Message::parse(bytes) {
                Some(Message::Data { receiver }) if is_of_run(receiver) => {
                    let last_source = &mut last_source;
                    self.handle_data(set, &context, bytes, receiver, outer, last_source)?
                }
                Some(Message::Response { receiver }) if is_of_run(receiver) => {
                    self.handle_response(set, &context, bytes, receiver, source)?
                }
                Some(Message::CookieReply { receiver }) if is_of_run(receiver) => {
                    set.receive_cookie_reply(&context, bytes, receiver)
                }
                Some(_) | None => return Ok(()),
            };
            datagrams.consume_segment();
            if let Err(reason) = handled {
                set.traffic.drops += 1;
                context.counters.drop(reason);
            }
            // Only here, after a response or data: flushed after an initiation, as boringtun's own
            // rule has it, what waits would start another handshake.
            set.flush(&context, self.send)?;
        }
        Ok(())
    }

    fn handle_response(
        &mut self,
        set: &mut SessionSet,
        context: &Context<'_>,
        response: &[u8],
        receiver: u32,
        source: SocketAddr,
    ) -> Handled {
        if !self.send.has_room(HANDSHAKE_ROOM) {
            return Err(OutputFull);
        }
        Ok(set.receive_response(context, response, receiver, source, self.send))
    }

    fn handle_data(
        &mut self,
        set: &mut SessionSet,
        context: &Context<'_>,
        message: &[u8],
        receiver: u32,
        outer: Outer,
        last_source: &mut Option<IpAddr>,
    ) -> Handled {
        if !self.deliver.has_room(message.len()) {
            return Err(OutputFull);
        }
        match set.receive(
            context,
            message,
            receiver,
            outer.source,
            self.deliver.room(),
        ) {
            Err(reason) => Ok(Err(reason)),
            Ok(Received::Keepalive) => Ok(Ok(())),
            Ok(Received::Malformed) => Ok(Err(DropReason::MalformedInner)),
            Ok(Received::Packet(length)) => {
                let delivered = self.deliver(context, length, outer.ecn, last_source);
                if let Ok(bytes) = delivered {
                    set.traffic.received_packets += 1;
                    set.traffic.received_bytes += bytes as u64;
                }
                Ok(delivered.map(|_| ()))
            }
        }
    }

    /// Delivers the packet at the front of the room, if its peer may send it; returns its length.
    fn deliver(
        &mut self,
        context: &Context<'_>,
        length: usize,
        outer: Ecn,
        last_source: &mut Option<IpAddr>,
    ) -> Result<usize, DropReason> {
        let bytes = &mut self.deliver.room()[..length];
        let packet = IpPacket::parse(bytes).ok_or(DropReason::MalformedInner)?;
        // Cryptokey routing: the most specific owner of the source is this peer.
        if *last_source != Some(packet.source) {
            if self.table.owner(packet.source) != Some(context.peer.state.ordinal) {
                return Err(DropReason::SourceNotAllowed);
            }
            *last_source = Some(packet.source);
        }
        if packet.is_source_routed {
            return Err(DropReason::SourceRouted);
        }
        let inner = Ecn::of(bytes);
        let leaving = inner.leaving(outer).ok_or(DropReason::Congested)?;
        if leaving != inner {
            leaving.set(bytes);
        }
        self.deliver.append(packet.length);
        Ok(packet.length)
    }
}

/// What the outer headers of a datagram say.
#[derive(Clone, Copy)]
struct Outer {
    source: SocketAddr,
    ecn: Ecn,
}
