//! From the pods: route by destination, encrypt.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use podwire_core::mtu::Family;

use crate::batch::{OverlayBatch, UnderlayBatch};
use crate::counters::LaneCounters;
use crate::device::Device;
use crate::drop_reason::DropReason;
use crate::icmp::{ERROR_ROOM, IcmpError, IcmpLimiter};
use crate::ip_packet::{IpPacket, has_dont_fragment};
use crate::message::{DATA_OVERHEAD, PADDING};
use crate::noise::HANDSHAKE_ROOM;
use crate::peer::Peer;
use crate::peer_table::PeerTable;
use crate::session_set::{Context, OutputFull, SessionSet};

/// One batch of packets on its way.
pub(super) struct Overlay<'a> {
    pub(super) device: &'a Device,
    pub(super) table: &'a PeerTable,
    pub(super) now: Instant,
    /// The lane whose thread this is.
    pub(super) lane: usize,
    pub(super) icmp_limiter: &'a mut IcmpLimiter,
    pub(super) send: &'a mut UnderlayBatch,
    pub(super) deliver: &'a mut OverlayBatch,
}

/// What holds for all packets of a run to one peer.
struct Run {
    sender: Option<usize>,
    endpoint: Option<SocketAddr>,
    mtu_ipv4: usize,
    mtu_ipv6: usize,
}

impl Run {
    fn new(set: &SessionSet, context: &Context<'_>) -> Self {
        let endpoint = set.endpoint(context);
        let mtu = |family| {
            let mtu = endpoint.map(|endpoint| context.peer.inner_mtu(endpoint, family));
            mtu.and_then(|mtu| usize::try_from(mtu).ok()).unwrap_or(0)
        };
        Self {
            sender: set.sender(context.now),
            endpoint,
            mtu_ipv4: mtu(Family::Ipv4),
            mtu_ipv6: mtu(Family::Ipv6),
        }
    }

    fn mtu(&self, packet: &IpPacket) -> usize {
        match packet.family() {
            Family::Ipv4 => self.mtu_ipv4,
            Family::Ipv6 => self.mtu_ipv6,
        }
    }

    /// Why a packet cannot be sent to the peer at all, and what its sender is told.
    fn refusal(&self, packet: &IpPacket, bytes: &[u8]) -> Option<(DropReason, Option<IcmpError>)> {
        if packet.is_source_routed {
            return Some((DropReason::SourceRouted, Some(IcmpError::Unreachable)));
        }
        if self.endpoint.is_none() {
            return Some((DropReason::NoEndpoint, Some(IcmpError::Unreachable)));
        }
        let mtu = self.mtu(packet);
        if packet.length <= mtu {
            return None;
        }
        // IPv4 that may be fragmented is fragmented by the kernel, by the route's MTU. It is too
        // big here only between a drop of the path MTU and the route's; its sender need change
        // nothing.
        let is_told = packet.family() == Family::Ipv6 || has_dont_fragment(bytes);
        let mtu = u32::try_from(mtu).unwrap_or(u32::MAX);
        Some((
            DropReason::TooBig,
            is_told.then_some(IcmpError::TooBig(mtu)),
        ))
    }
}

impl Overlay<'_> {
    pub(super) fn handle(&mut self, packets: &mut OverlayBatch) -> Result<(), OutputFull> {
        let (device, table) = (self.device, self.table);
        while let Some(bytes) = packets.packet() {
            let Some(packet) = IpPacket::parse(bytes) else {
                device.lanes[self.lane]
                    .counters
                    .drop(DropReason::MalformedInner);
                packets.consume(1);
                continue;
            };
            let owner = table.owner(packet.destination);
            let peer = owner.and_then(|ordinal| table.by_ordinal(ordinal));
            let Some(peer) = peer.filter(|peer| peer.lanes > 0) else {
                let counters = &device.lanes[self.lane].counters;
                let error = Some(IcmpError::Unreachable);
                self.refuse(counters, DropReason::NoPeer, error, &packet, bytes);
                packets.consume(1);
                continue;
            };
            self.send_run(peer, packets)?;
        }
        Ok(())
    }

    /// Sends the next packets, as long as they are for `peer`, under one lock.
    fn send_run(&mut self, peer: &Peer, packets: &mut OverlayBatch) -> Result<(), OutputFull> {
        let device = self.device;
        let own = self.lane % peer.lanes;
        let of_peer = if own == 0 || self.is_usable(own, peer)? {
            own
        } else {
            0
        };
        let context = device.context(of_peer, peer, self.now);
        let mut cell = peer.state.lanes[of_peer].lock();
        let Some(set) = device.open(&mut cell, &context) else {
            // Removed since the table was read.
            context.counters.drop(DropReason::NoPeer);
            packets.consume(1);
            return Ok(());
        };
        set.flush(&context, self.send)?;
        let run = Run::new(set, &context);
        let mut last: Option<IpAddr> = None;
        while let Some(bytes) = packets.packet() {
            let Some(packet) = IpPacket::parse(bytes) else {
                break;
            };
            let is_same = last == Some(packet.destination)
                || self.table.owner(packet.destination) == Some(peer.state.ordinal);
            if !is_same {
                break;
            }
            last = Some(packet.destination);
            if let Some((reason, error)) = run.refusal(&packet, bytes) {
                set.traffic.drops += 1;
                self.refuse(context.counters, reason, error, &packet, bytes);
            } else {
                self.send_packet(set, &context, &run, &packet, packets)?;
            }
            packets.consume(1);
        }
        Ok(())
    }

    /// Whether a lane above 0 carries its flows. Else its handshake is started, and lane 0 takes
    /// them.
    fn is_usable(&mut self, lane: usize, peer: &Peer) -> Result<bool, OutputFull> {
        let context = self.device.context(lane, peer, self.now);
        let mut cell = peer.state.lanes[lane].lock();
        let Some(set) = self.device.open(&mut cell, &context) else {
            return Ok(false);
        };
        if set.is_usable(&context) {
            return Ok(true);
        }
        set.initiate(&context, self.send, None)?;
        Ok(false)
    }

    /// Encrypts the next packet, or lets it wait for a session.
    fn send_packet(
        &mut self,
        set: &mut SessionSet,
        context: &Context<'_>,
        run: &Run,
        packet: &IpPacket,
        packets: &mut OverlayBatch,
    ) -> Result<(), OutputFull> {
        let send = &mut *self.send;
        if let (Some(sender), Some(endpoint)) = (run.sender, run.endpoint) {
            //= WireGuard §5.4.6
            // Padded to 16 bytes, but never beyond what the path takes in one piece.
            let padded = packet.length.next_multiple_of(PADDING).min(run.mtu(packet));
            let padded = padded.max(packet.length);
            if !send.has_room((padded + DATA_OVERHEAD).max(HANDSHAKE_ROOM)) {
                return Err(OutputFull);
            }
            let sent = packets.with_padded_packet(packet.length, padded, |bytes| {
                set.send(context.now, sender, bytes, send.room())
            });
            if let Some(Some(length)) = sent {
                send.commit_front(context.lane, endpoint, length);
                set.traffic.sent_packets += 1;
                set.traffic.sent_bytes += packet.length as u64;
                return Ok(());
            }
        }
        set.initiate(context, send, None)?;
        if let Some(bytes) = packets.packet() {
            set.enqueue(context, &bytes[..packet.length]);
        }
        Ok(())
    }

    /// Counts a packet that cannot be sent and tells its sender why.
    fn refuse(
        &mut self,
        counters: &LaneCounters,
        reason: DropReason,
        error: Option<IcmpError>,
        packet: &IpPacket,
        bytes: &[u8],
    ) {
        counters.drop(reason);
        let Some(error) = error else { return };
        if !self.icmp_limiter.take(self.now) {
            return;
        }
        if !self.deliver.has_room(ERROR_ROOM) {
            counters.drop(DropReason::OutputFull);
        } else if let Some(length) = error.write(packet, bytes, self.deliver.room()) {
            self.deliver.commit_front(length);
        }
    }
}
