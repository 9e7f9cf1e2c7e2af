//! The thread of one lane: receive first, then send, until there is nothing left; then wait.

mod moderation;
mod poller;
mod sending;

use std::mem;
use std::num::NonZeroU64;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use podwire_dataplane::batch::{Delivery, ROOM_MIN, SEGMENTS_MAX};
use podwire_dataplane::{
    Coalescing, DeliveryBatch, Lane, OverlayBatch, Packet, UnderlayBatch, VnetHeader,
};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use tracing::debug;

use self::moderation::{Moderation, Round};
use self::poller::{Poller, Ready, Source};
use super::counters::{Counter, Counters};
use super::events::EventQueue;
use super::offload::{Offload, OffloadsInUse};
use super::tun::TunQueue;
use super::udp::{self, Family, LaneSockets};
use super::{NumberedQueue, Shared};

/// Longest time between two ticks of the lane: boringtun reads the clock only then (reference/
/// datapath.md section 1.2).
const TICK_INTERVAL: Duration = Duration::from_millis(250);

/// Receive calls in one round for each family, and bytes of one after which there is no further.
/// A flood from the underlay leaves packets of the pods their turn; a full call is 32 datagrams or
/// trains of them, at most four times what is read from the pods.
const RECEIVE_CALLS_MAX: usize = 4;
const RECEIVE_BYTES_MAX: usize = PACKET_BATCH_BYTES;

/// Packets read in one round: as many as fill one train.
const PACKETS_MAX: usize = SEGMENTS_MAX;

/// Bytes of a batch of packets: the longest eight times. With fewer, trains are shorter; with more,
/// they no longer fit a processor's own cache.
const PACKET_BATCH_BYTES: usize = 8 * ROOM_MIN;

/// Bytes and descriptors of the batches that the lane fills: one call of the dataplane on a full
/// batch, with what encryption adds, rarely has to be repeated.
const OUTPUT_BYTES: usize = 9 * ROOM_MIN;
const OUTPUT_DESCRIPTORS: usize = 128;

/// Packets that wait for one write or several: the bytes of the batch in full segments.
const DELIVERED_MAX: usize = 512;

/// How soon a datagram is tried again when the full buffer is that of another lane's socket, which
/// only that lane watches. It happens only between nodes of different lane counts.
const FOREIGN_SOCKET_RETRY: Duration = Duration::from_millis(1);

/// Everything that one lane thread owns.
#[derive(Debug)]
pub(super) struct LaneThread {
    index: usize,
    lane: Lane,
    sockets: Arc<[LaneSockets]>,
    shared: Arc<Shared>,
    events: Arc<EventQueue>,
    offloads: Arc<OffloadsInUse>,
    poller: Poller,
    tun: Option<NumberedQueue>,
    /// The sources that have something, as the last wait told.
    ready: Ready,
    /// Received, not handled yet.
    datagrams: UnderlayBatch,
    /// Read from the TUN, not handled yet.
    packets: OverlayBatch,
    /// To be sent. Empty between rounds unless a socket's buffer is full.
    send: UnderlayBatch,
    /// To be written to the TUN.
    deliver: DeliveryBatch,
    /// The socket whose buffer is full: lane and family.
    blocked: Option<(usize, Family)>,
    tick: Instant,
    moderation: Moderation,
    /// Packets written to the TUN in this round, joined ones as one.
    written: u32,
}

/// Ends the process when its thread panics: a node without one of its lanes looks alive and is not.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}

impl LaneThread {
    /// The thread of lane `index`, which sends by all of `sockets`.
    pub(super) fn new(
        index: usize,
        lane: Lane,
        sockets: Arc<[LaneSockets]>,
        shared: Arc<Shared>,
        events: Arc<EventQueue>,
        offloads: Arc<OffloadsInUse>,
    ) -> Result<Self, Errno> {
        let mut thread = Self {
            index,
            lane,
            sockets,
            shared,
            events,
            offloads,
            poller: Poller::new()?,
            tun: None,
            ready: Ready::default(),
            datagrams: UnderlayBatch::with_capacity(udp::RECEIVE_ROOM, udp::RECEIVE_MESSAGES),
            packets: OverlayBatch::with_capacity(PACKET_BATCH_BYTES, PACKETS_MAX),
            send: UnderlayBatch::with_capacity(OUTPUT_BYTES, OUTPUT_DESCRIPTORS),
            deliver: DeliveryBatch::with_capacity(OUTPUT_BYTES, DELIVERED_MAX),
            blocked: None,
            tick: Instant::now(),
            moderation: Moderation::new(Instant::now()),
            written: 0,
        };
        thread
            .poller
            .watch(Source::Bell, thread.shared.bell.as_fd(), EventFlags::IN)?;
        thread.watch_what_can_be_handled()?;
        thread.follow_offloads();
        Ok(thread)
    }

    /// Runs until it is told to stop.
    pub(super) fn run(mut self) {
        let _guard = AbortOnPanic;
        // Where it is refused, pauses take a little longer.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        loop {
            self.wait();
            if self.ready.has(Source::Bell) && !self.answer_bell() {
                return;
            }
            let now = Instant::now();
            // Before anything is received: after a long pause the sessions' keys may have expired.
            if now >= self.tick {
                self.handle_timeout(now);
            }
            self.flush();
            let has_more = self.receive(now);
            let packets = self.transmit(now);
            let round = Round {
                packets: u32::try_from(packets).unwrap_or(u32::MAX),
                answers: mem::take(&mut self.written),
                has_more: has_more || !self.is_done(),
            };
            if let Some(pause) = self.moderation.after_round(now, round) {
                thread::sleep(pause);
            }
        }
    }

    /// Whether nothing is left of what was received and read.
    fn is_done(&self) -> bool {
        self.datagrams.is_empty() && self.packets.is_empty() && self.send.is_empty()
    }

    /// Waits until a source has something or the next tick is due.
    fn wait(&mut self) {
        let mut timeout = self.tick.saturating_duration_since(Instant::now());
        if self.blocked.is_some_and(|(lane, _)| lane != self.index) {
            timeout = timeout.min(FOREIGN_SOCKET_RETRY);
        }
        self.count(Counter::WaitCalls, 1);
        self.ready = self
            .watch_what_can_be_handled()
            .and_then(|()| self.poller.wait(timeout))
            // Out of kernel memory, or a bug: without it the lane is dead.
            .expect("epoll works on descriptors that are open");
    }

    /// While a socket's buffer is full, no packet is taken from the pods: the device's queue is
    /// where they wait, and where the kernel drops them.
    fn watch_what_can_be_handled(&mut self) -> Result<(), Errno> {
        if let Some(tun) = &self.tun {
            let idle = self.send.is_empty() && self.packets.is_empty();
            self.poller
                .watch(Source::Tun, tun.queue.as_fd(), when(idle, EventFlags::IN))?;
        }
        for family in Family::BOTH {
            if let Some(socket) = self.sockets[self.index].socket(family) {
                let wanted = when(self.datagrams.is_empty(), EventFlags::IN)
                    | when(self.blocked == Some((self.index, family)), EventFlags::OUT);
                self.poller
                    .watch(Source::Udp(family), socket.as_fd(), wanted)?;
            }
        }
        Ok(())
    }

    /// Takes what the control plane left. False when the thread is to stop.
    fn answer_bell(&mut self) -> bool {
        let mut rings = [0; 8];
        // Nobody else reads it, and what it counts does not matter.
        let _ = rustix::io::read(&self.shared.bell, &mut rings);
        if let Some(queue) = self.shared.take_queue() {
            self.drop_tun();
            self.tun = Some(queue);
            self.follow_offloads();
        }
        !self.shared.stopping.load(Ordering::Acquire)
    }

    /// Makes trains and long packets where they are in use. One that the kernel has refused in
    /// another lane ends here at the next tick.
    fn follow_offloads(&mut self) {
        let has_udp = self.tun.as_ref().is_some_and(|tun| tun.has_udp);
        let joins = self.offloads.has(Offload::TunGro);
        self.deliver.set_coalescing(Coalescing {
            tcp: joins,
            udp: joins && has_udp,
        });
        let trains = self.offloads.has(Offload::UdpGso);
        self.send
            .set_segments_max(if trains { SEGMENTS_MAX } else { 1 });
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.follow_offloads();
        self.lane
            .handle_timeout(now, &mut self.send, &mut self.deliver);
        self.flush();
        self.tick = self.lane.poll_timeout().min(now + TICK_INTERVAL);
    }

    /// Underlay to overlay. True when a budget was used up, and there may be more.
    fn receive(&mut self, now: Instant) -> bool {
        self.handle_datagrams(now);
        let mut has_more = false;
        for family in Family::BOTH {
            if !self.ready.has(Source::Udp(family)) {
                continue;
            }
            let mut calls = 0;
            while calls < RECEIVE_CALLS_MAX && self.datagrams.is_empty() {
                calls += 1;
                let is_drained = !self.receive_batch(family);
                self.handle_datagrams(now);
                if is_drained {
                    break;
                }
                has_more |= calls == RECEIVE_CALLS_MAX;
            }
        }
        has_more
    }

    /// Receives one batch. False when there is no more to be had now.
    fn receive_batch(&mut self, family: Family) -> bool {
        let Some(socket) = self.sockets[self.index].socket(family) else {
            return false;
        };
        self.datagrams.clear();
        let received = socket.receive(self.index, &mut self.datagrams);
        self.count(Counter::ReceiveCalls, 1);
        match received {
            Ok(received) => {
                self.count(Counter::DatagramsReceived, received.datagrams);
                self.count(Counter::DatagramBytesReceived, received.bytes);
                self.count(Counter::ReceiveTruncated, received.truncated);
                // With fewer than asked for the next call would find nothing.
                received.messages == udp::RECEIVE_MESSAGES && received.bytes < RECEIVE_BYTES_MAX
            }
            Err(Errno::AGAIN | Errno::INTR) => false,
            Err(error) => {
                // Such as an ICMP error that a former send met: the call cleared it.
                debug!(lane = self.index, %family, %error, "cannot receive");
                self.count(Counter::ReceiveFailed, 1);
                true
            }
        }
    }

    fn handle_datagrams(&mut self, now: Instant) {
        while !self.datagrams.is_empty() {
            let before = self.datagrams.len();
            self.lane
                .handle_underlay(now, &mut self.datagrams, &mut self.send, &mut self.deliver);
            self.flush();
            if self.datagrams.len() == before && !self.send.is_empty() {
                // The answers wait for room in a socket's buffer, and so does what asks for more.
                return;
            }
        }
    }

    /// Overlay to underlay, until a budget is used up; returns how many packets it read.
    fn transmit(&mut self, now: Instant) -> usize {
        self.handle_packets(now);
        if !self.ready.has(Source::Tun) || !self.packets.is_empty() || !self.send.is_empty() {
            return 0;
        }
        let packets = self.read_packets();
        self.handle_packets(now);
        packets
    }

    /// How many packets it read, the segments of each counted.
    fn read_packets(&mut self) -> usize {
        self.packets.clear();
        let mut calls = 0;
        let (mut bytes, mut segments, mut malformed) = (0, 0, 0);
        let mut failure = None;
        if let Some(tun) = &self.tun {
            while !self.packets.is_full() {
                calls += 1;
                match tun.queue.read(self.packets.room()) {
                    Ok(Some((length, vnet_header))) => {
                        bytes += length;
                        segments += vnet_header.segment_count(length);
                        let start = self.packets.room_start();
                        self.packets.commit(Packet {
                            start,
                            length,
                            vnet_header,
                        });
                    }
                    Ok(None) => malformed += 1,
                    Err(Errno::AGAIN | Errno::INTR) => break,
                    Err(error) => {
                        failure = Some(error);
                        break;
                    }
                }
            }
        }
        self.count(Counter::ReadCalls, calls);
        self.count(Counter::PacketsRead, self.packets.len());
        self.count(Counter::PacketBytesRead, bytes);
        self.count(Counter::ReadMalformed, malformed);
        match failure {
            None => {}
            Some(Errno::BADFD) => self.lose_device(),
            Some(error) => {
                debug!(lane = self.index, %error, "cannot read a packet");
                self.count(Counter::ReadFailed, 1);
            }
        }
        segments
    }

    fn handle_packets(&mut self, now: Instant) {
        while !self.packets.is_empty() && self.send.is_empty() {
            self.lane
                .handle_overlay(now, &mut self.packets, &mut self.send, &mut self.deliver);
            self.flush();
        }
    }

    /// Writes all packets, and sends all datagrams unless a socket's buffer is full.
    fn flush(&mut self) {
        self.write_packets();
        self.send_datagrams();
    }

    fn write_packets(&mut self) {
        if self.deliver.is_empty() {
            return;
        }
        let counters = &self.shared.counters;
        let mut lost = false;
        let (mut packets, mut bytes) = (0, 0);
        for packet in self.deliver.iter() {
            let Some(tun) = self.tun.as_ref().filter(|_| !lost) else {
                counters.add(Counter::WriteNoDevice, 1);
                continue;
            };
            let mut written = tun.queue.write(&packet.vnet_header, packet.pieces());
            if written == Err(Errno::INVAL) && packet.vnet_header.segments.is_some() {
                // Such as Linux 6.6.44, of packets whose last segment is short.
                self.offloads.give_up(Offload::TunGro, Errno::INVAL);
                written = write_segments(&tun.queue, packet);
            }
            match written {
                Ok(length) => {
                    packets += 1;
                    bytes += length;
                }
                Err(Errno::BADFD) => {
                    lost = true;
                    counters.add(Counter::WriteNoDevice, 1);
                }
                Err(error) => counters.add(write_fault(error), 1),
            }
        }
        counters.add(Counter::PacketsWritten, packets);
        self.written = self
            .written
            .saturating_add(u32::try_from(packets).unwrap_or(u32::MAX));
        counters.add(Counter::PacketBytesWritten, bytes);
        self.deliver.clear();
        if lost {
            self.lose_device();
        }
    }

    fn lose_device(&mut self) {
        if let Some(device) = self.tun.as_ref().map(|tun| tun.device) {
            self.drop_tun();
            self.count(Counter::DeviceLost, 1);
            self.events.device_lost(device);
        }
    }

    /// Gives the queue up. The poller forgets it with its last descriptor, which this is.
    fn drop_tun(&mut self) {
        self.tun = None;
        self.poller.forget(Source::Tun);
    }

    fn count(&self, counter: Counter, amount: usize) {
        let counters: &Counters = &self.shared.counters;
        if amount > 0 {
            counters.add(counter, amount);
        }
    }
}

/// Writes a joined packet as what it was made of; returns its bytes.
fn write_segments(queue: &TunQueue, packet: Delivery<'_>) -> Result<usize, Errno> {
    let content = packet.bytes();
    let mut written = Ok(content.len());
    packet.vnet_header.each_segment(&content, |segment| {
        let one = queue.write(&VnetHeader::default(), std::iter::once(segment));
        written = written.and_then(|bytes| one.map(|_| bytes));
    });
    written
}

fn when(condition: bool, flags: EventFlags) -> EventFlags {
    if condition {
        flags
    } else {
        EventFlags::empty()
    }
}

fn write_fault(error: Errno) -> Counter {
    match error {
        Errno::IO => Counter::WriteDeviceDown,
        Errno::NOBUFS | Errno::NOMEM | Errno::AGAIN => Counter::WriteNoBuffers,
        Errno::INVAL => Counter::WriteMalformed,
        _ => Counter::WriteFailed,
    }
}
