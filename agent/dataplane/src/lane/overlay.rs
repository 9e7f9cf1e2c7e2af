//! From the pods: route by destination, encrypt.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use podwire_core::mtu::Family;

use crate::batch::{DeliveryBatch, OverlayBatch, UnderlayBatch};
use crate::counters::LaneCounters;
use crate::device::Device;
use crate::drop_reason::DropReason;
use crate::ecn::Ecn;
use crate::icmp::{ERROR_ROOM, IcmpError, IcmpLimiter};
use crate::ip_packet::{IpPacket, has_dont_fragment};
use crate::message::{DATA_OVERHEAD, PADDING};
use crate::noise::HANDSHAKE_ROOM;
use crate::peer::Peer;
use crate::peer_table::PeerTable;
use crate::session_set::{Context, OutputFull, SessionSet};
use crate::super_packet::SuperPacket;

/// One batch of packets on its way.
pub(super) struct Overlay<'a> {
    pub(super) device: &'a Device,
    pub(super) table: &'a PeerTable,
    pub(super) now: Instant,
    /// The lane whose thread this is.
    pub(super) lane: usize,
    pub(super) icmp_limiter: &'a mut IcmpLimiter,
    pub(super) send: &'a mut UnderlayBatch,
    pub(super) deliver: &'a mut DeliveryBatch,
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

    fn mtu(&self, family: Family) -> usize {
        match family {
            Family::Ipv4 => self.mtu_ipv4,
            Family::Ipv6 => self.mtu_ipv6,
        }
    }

    /// Why a packet, of which the longest segment has so many bytes, cannot be sent to the peer at
    /// all, and what its sender is told.
    fn refusal(
        &self,
        packet: &IpPacket,
        longest: usize,
        bytes: &[u8],
    ) -> Option<(DropReason, Option<IcmpError>)> {
        if packet.is_source_routed {
            return Some((DropReason::SourceRouted, Some(IcmpError::Unreachable)));
        }
        if self.endpoint.is_none() {
            return Some((DropReason::NoEndpoint, Some(IcmpError::Unreachable)));
        }
        let mtu = self.mtu(packet.family());
        if longest <= mtu {
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

/// Bytes that a packet of so many is sent with.
//= WireGuard §5.4.6
/// Padded to 16 bytes, but never beyond what the path takes in one piece.
fn padded(length: usize, mtu: usize) -> usize {
    length.next_multiple_of(PADDING).min(mtu).max(length)
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
            let Ok(cut) = packets.cut(packet.length) else {
                set.traffic.drops += 1;
                context.counters.drop(DropReason::MalformedInner);
                packets.consume(1);
                continue;
            };
            let longest = cut.map_or(packet.length, |cut| cut.longest());
            let bytes = packets.packet().unwrap_or_default();
            if let Some((reason, error)) = run.refusal(&packet, longest, bytes) {
                let lost = cut.map_or(1, |cut| cut.count() - packets.segment()) as u64;
                set.traffic.drops += lost;
                context.counters.drop_many(reason, lost - 1);
                self.refuse(context.counters, reason, error, &packet, bytes);
            } else if let Some(cut) = cut {
                self.send_segments(set, &context, &run, &cut, packets)?;
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

    /// Encrypts the segments of the next packet that are left, or lets them wait for a session.
    fn send_segments(
        &mut self,
        set: &mut SessionSet,
        context: &Context<'_>,
        run: &Run,
        cut: &SuperPacket,
        packets: &mut OverlayBatch,
    ) -> Result<(), OutputFull> {
        let send = &mut *self.send;
        let ecn = packets.packet().map_or_else(Ecn::default, Ecn::of);
        let mtu = run.mtu(cut.family());
        let room = (padded(cut.longest(), mtu) + DATA_OVERHEAD).max(HANDSHAKE_ROOM);
        while packets.segment() < cut.count() {
            if !send.has_room(room) {
                return Err(OutputFull);
            }
            let sent = packets.with_padded_segment(
                cut,
                |length| padded(length, mtu),
                |segment, length| {
                    let way = run.sender.zip(run.endpoint);
                    let sent = way.and_then(|(sender, endpoint)| {
                        let sent = set.send(context.now, sender, segment, send.room())?;
                        Some((endpoint, sent))
                    });
                    if sent.is_none() {
                        set.enqueue(context, &segment[..length]);
                    }
                    sent.map(|(endpoint, sent)| (endpoint, sent, length))
                },
            );
            packets.consume_segment();
            if let Some(Some((endpoint, sent, length))) = sent {
                send.append(context.lane, endpoint, ecn, sent);
                set.traffic.sent_packets += 1;
                set.traffic.sent_bytes += length as u64;
            } else {
                set.initiate(context, send, None)?;
            }
        }
        Ok(())
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
            let padded = padded(packet.length, run.mtu(packet.family()));
            if !send.has_room((padded + DATA_OVERHEAD).max(HANDSHAKE_ROOM)) {
                return Err(OutputFull);
            }
            let sent = packets.with_padded_packet(packet.length, padded, |bytes| {
                let sent = set.send(context.now, sender, bytes, send.room());
                sent.map(|length| (length, Ecn::of(bytes)))
            });
            if let Some(Some((length, ecn))) = sent {
                send.append(context.lane, endpoint, ecn, length);
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
            self.deliver.append(length);
        }
    }
}
