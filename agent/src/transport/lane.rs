//! The thread of one lane: receive first, then send, until there is nothing left; then wait.

mod poller;

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use podwire_dataplane::batch::ROOM_MIN;
use podwire_dataplane::{Lane, OverlayBatch, UnderlayBatch};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use tracing::debug;

use self::poller::{Poller, Ready, Source};
use super::counters::{Counter, Counters};
use super::events::EventQueue;
use super::udp::{self, Family, LaneSockets, Sent};
use super::{NumberedQueue, Shared};

/// Longest time between two ticks of the lane: boringtun reads the clock only then (reference/
/// datapath.md section 1.2).
const TICK_INTERVAL: Duration = Duration::from_millis(250);

/// Receive calls in one round for each family. A flood from the underlay leaves packets of the pods
/// their turn; a full call is 32 datagrams.
const RECEIVE_CALLS_MAX: usize = 4;

/// Packets read in one round: as many as fill one `sendmmsg(2)` twice over.
const PACKETS_MAX: usize = 64;

/// Bytes of a batch of packets: [`PACKETS_MAX`] of an Ethernet's size and room for the longest one.
const PACKET_BATCH_BYTES: usize = PACKETS_MAX * 1500 + ROOM_MIN;

/// Bytes and descriptors of the batches that the lane fills: one call of the dataplane on a full
/// batch rarely has to be repeated.
const OUTPUT_BYTES: usize = 4 * ROOM_MIN;
const OUTPUT_DESCRIPTORS: usize = 128;

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
    deliver: OverlayBatch,
    /// The socket whose buffer is full: lane and family.
    blocked: Option<(usize, Family)>,
    tick: Instant,
}

/// Ends the process when its thread panics: a node without one of its lanes looks alive and is not.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
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
    ) -> Result<Self, Errno> {
        let mut thread = Self {
            index,
            lane,
            sockets,
            shared,
            events,
            poller: Poller::new()?,
            tun: None,
            ready: Ready::default(),
            datagrams: UnderlayBatch::with_capacity(udp::RECEIVE_ROOM, udp::RECEIVE_MESSAGES),
            packets: OverlayBatch::with_capacity(PACKET_BATCH_BYTES, PACKETS_MAX),
            send: UnderlayBatch::with_capacity(OUTPUT_BYTES, OUTPUT_DESCRIPTORS),
            deliver: OverlayBatch::with_capacity(OUTPUT_BYTES, OUTPUT_DESCRIPTORS),
            blocked: None,
            tick: Instant::now(),
        };
        thread
            .poller
            .watch(Source::Bell, thread.shared.bell.as_fd(), EventFlags::IN)?;
        thread.watch_what_can_be_handled()?;
        Ok(thread)
    }

    /// Runs until it is told to stop.
    pub(super) fn run(mut self) {
        let _guard = AbortOnPanic;
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
            self.receive(now);
            self.transmit(now);
        }
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
        }
        !self.shared.stopping.load(Ordering::Acquire)
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.lane
            .handle_timeout(now, &mut self.send, &mut self.deliver);
        self.flush();
        self.tick = self.lane.poll_timeout().min(now + TICK_INTERVAL);
    }

    /// Underlay to overlay, until a budget is used up.
    fn receive(&mut self, now: Instant) {
        self.handle_datagrams(now);
        for family in Family::BOTH {
            if !self.ready.has(Source::Udp(family)) {
                continue;
            }
            for _ in 0..RECEIVE_CALLS_MAX {
                if !self.datagrams.is_empty() {
                    break;
                }
                let more = self.receive_batch(family);
                self.handle_datagrams(now);
                if !more {
                    break;
                }
            }
        }
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
                // Fewer than asked for: the next call would find nothing.
                received.datagrams + received.truncated == udp::RECEIVE_MESSAGES
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

    /// Overlay to underlay, until a budget is used up.
    fn transmit(&mut self, now: Instant) {
        self.handle_packets(now);
        if self.ready.has(Source::Tun) && self.packets.is_empty() && self.send.is_empty() {
            self.read_packets();
            self.handle_packets(now);
        }
    }

    fn read_packets(&mut self) {
        self.packets.clear();
        let mut calls = 0;
        let mut bytes = 0;
        let mut failure = None;
        if let Some(tun) = &self.tun {
            while !self.packets.is_full() {
                calls += 1;
                match tun.queue.read(self.packets.room()) {
                    Ok(length) => {
                        bytes += length;
                        self.packets.commit_front(length);
                    }
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
        match failure {
            None => {}
            Some(Errno::BADFD) => self.lose_device(),
            Some(error) => {
                debug!(lane = self.index, %error, "cannot read a packet");
                self.count(Counter::ReadFailed, 1);
            }
        }
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
        for (_, packet) in self.deliver.iter() {
            let Some(tun) = self.tun.as_ref().filter(|_| !lost) else {
                counters.add(Counter::WriteNoDevice, 1);
                continue;
            };
            match tun.queue.write(packet) {
                Ok(()) => {
                    packets += 1;
                    bytes += packet.len();
                }
                Err(Errno::BADFD) => {
                    lost = true;
                    counters.add(Counter::WriteNoDevice, 1);
                }
                Err(error) => counters.add(write_fault(error), 1),
            }
        }
        counters.add(Counter::PacketsWritten, packets);
        counters.add(Counter::PacketBytesWritten, bytes);
        self.deliver.clear();
        if lost {
            self.lose_device();
        }
    }

    fn send_datagrams(&mut self) {
        self.blocked = None;
        while let Some((lane, family)) = self.next_socket() {
            let socket = self
                .sockets
                .get(lane)
                .and_then(|sockets| sockets.socket(family));
            let Some(socket) = socket else {
                self.count(Counter::SendNoSocket, 1);
                self.send.consume(1);
                continue;
            };
            let run = self
                .send
                .iter()
                .take_while(|(d, _)| d.lane == lane && Family::of(&d.endpoint) == family);
            let sent = socket.send(run);
            self.count(Counter::SendCalls, 1);
            match sent {
                Sent::Taken(count) => {
                    let bytes = self.send.iter().take(count).map(|(d, _)| d.length).sum();
                    self.count(Counter::DatagramsSent, count);
                    self.count(Counter::DatagramBytesSent, bytes);
                    self.send.consume(count);
                }
                Sent::Blocked => {
                    self.count(Counter::SendBlocked, 1);
                    self.blocked = Some((lane, family));
                    return;
                }
                Sent::Refused(error) => {
                    self.handle_refusal(lane, family, error);
                    self.send.consume(1);
                }
            }
        }
        self.send.clear();
    }

    /// The socket that the first datagram leaves by: lane and family.
    fn next_socket(&self) -> Option<(usize, Family)> {
        let (datagram, _) = self.send.iter().next()?;
        Some((datagram.lane, Family::of(&datagram.endpoint)))
    }

    /// The kernel refused the first datagram.
    fn handle_refusal(&mut self, lane: usize, family: Family, error: Errno) {
        let Some((datagram, bytes)) = self.send.iter().next() else {
            return;
        };
        let endpoint = datagram.endpoint;
        let length = bytes.len();
        if error != Errno::MSGSIZE {
            // Expected on a network: the peer's handshake tells whether it is there.
            debug!(lane, %endpoint, %error, "cannot send");
            return self.count(send_fault(error), 1);
        }
        let path_mtu = if udp::must_fit(length) {
            udp::path_mtu(&endpoint)
        } else {
            None
        };
        let again = match self
            .sockets
            .get(lane)
            .and_then(|sockets| sockets.socket(family))
        {
            Some(socket) => socket.send_again(&endpoint, bytes, path_mtu),
            None => return,
        };
        debug!(lane, %endpoint, length, ?path_mtu, "the path is too narrow");
        match again {
            Ok(()) => {
                self.count(Counter::DatagramsSent, 1);
                self.count(Counter::DatagramBytesSent, length);
                self.count(
                    Counter::DatagramsFragmented,
                    usize::from(!udp::must_fit(length)),
                );
            }
            Err(error) => self.count(send_fault(error), 1),
        }
        if let Some(path_mtu) = path_mtu {
            self.tell_path_mtu(endpoint, path_mtu);
        }
    }

    fn tell_path_mtu(&mut self, endpoint: SocketAddr, path_mtu: u32) {
        self.lane.handle_path_mtu(endpoint, path_mtu);
        self.events.path_mtu_changed(endpoint.ip());
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

fn when(condition: bool, flags: EventFlags) -> EventFlags {
    if condition {
        flags
    } else {
        EventFlags::empty()
    }
}

fn send_fault(error: Errno) -> Counter {
    match error {
        Errno::MSGSIZE => Counter::SendTooBig,
        Errno::NETUNREACH
        | Errno::HOSTUNREACH
        | Errno::NETDOWN
        | Errno::HOSTDOWN
        | Errno::CONNREFUSED
        | Errno::ADDRNOTAVAIL => Counter::SendUnreachable,
        Errno::PERM | Errno::ACCESS => Counter::SendRefused,
        Errno::NOBUFS | Errno::NOMEM => Counter::SendNoBuffers,
        _ => Counter::SendFailed,
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
