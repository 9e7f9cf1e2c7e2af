//! What the lane threads count: one writer each, read at any time.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $label:literal,)+) => {
        /// What a lane counts, since the start of the process.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) enum Counter { $($(#[$doc])* $variant,)+ }

        impl Counter {
            /// Every counter, in order.
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The counter's name in metrics.
            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }
        }
    };
}

counters! {
    /// Datagrams that came in by the lane's sockets.
    DatagramsReceived = "datagrams_received",
    /// Their bytes.
    DatagramBytesReceived = "datagram_bytes_received",
    /// Datagrams that the kernel took.
    DatagramsSent = "datagrams_sent",
    /// Their bytes.
    DatagramBytesSent = "datagram_bytes_sent",
    /// Inner packets read from the TUN queue; one that is to be cut is one.
    PacketsRead = "packets_read",
    /// Their bytes.
    PacketBytesRead = "packet_bytes_read",
    /// Inner packets that the kernel took from the TUN queue; one that was joined is one.
    PacketsWritten = "packets_written",
    /// Their bytes.
    PacketBytesWritten = "packet_bytes_written",
    /// System calls that receive datagrams.
    ReceiveCalls = "receive_calls",
    /// System calls that send datagrams.
    SendCalls = "send_calls",
    /// System calls that read a packet.
    ReadCalls = "read_calls",
    /// System calls that wait for something to do.
    WaitCalls = "wait_calls",
    /// Datagrams sent in fragments, because the path is narrower than IPv6's least packet needs.
    DatagramsFragmented = "datagrams_fragmented",
    /// Fault: a datagram was longer than any that WireGuard sends, and was cut off.
    ReceiveTruncated = "receive_truncated",
    /// Fault: the kernel failed to receive.
    ReceiveFailed = "receive_failed",
    /// Fault: a datagram was longer than the path's MTU.
    SendTooBig = "send_too_big",
    /// Fault: no route to an endpoint, or its network or host is unreachable.
    SendUnreachable = "send_unreachable",
    /// Fault: a filter on this node refused a datagram.
    SendRefused = "send_refused",
    /// Fault: the kernel had no memory for a datagram.
    SendNoBuffers = "send_no_buffers",
    /// Fault: this node has no socket of the endpoint's family, or no such lane.
    SendNoSocket = "send_no_socket",
    /// Fault: a datagram could not be sent for another reason.
    SendFailed = "send_failed",
    /// Fault: the socket's buffer was full; the lane stopped to read packets until it was not.
    SendBlocked = "send_blocked",
    /// Fault: a packet could not be written, because the lane has no TUN queue.
    WriteNoDevice = "write_no_device",
    /// Fault: a packet could not be written, because the device is down.
    WriteDeviceDown = "write_device_down",
    /// Fault: the kernel had no memory for a packet.
    WriteNoBuffers = "write_no_buffers",
    /// Fault: the kernel took a packet for malformed.
    WriteMalformed = "write_malformed",
    /// Fault: a packet could not be written for another reason.
    WriteFailed = "write_failed",
    /// Fault: the kernel gave a packet with a kind of segmentation that it was not asked for.
    ReadMalformed = "read_malformed",
    /// Fault: the kernel failed to read a packet.
    ReadFailed = "read_failed",
    /// Fault: the device was deleted while the lane ran.
    DeviceLost = "device_lost",
}

impl Counter {
    /// Whether each count is a packet or a datagram that went no further.
    pub(crate) const fn is_drop(self) -> bool {
        matches!(
            self,
            Self::ReceiveTruncated
                | Self::SendTooBig
                | Self::SendUnreachable
                | Self::SendRefused
                | Self::SendNoBuffers
                | Self::SendNoSocket
                | Self::SendFailed
                | Self::WriteNoDevice
                | Self::WriteDeviceDown
                | Self::WriteNoBuffers
                | Self::WriteMalformed
                | Self::WriteFailed
                | Self::ReadMalformed
        )
    }
}

const COUNT: usize = Counter::ALL.len();

/// The counters of one lane. On its own cache lines: the neighbour is another thread's.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Counters([AtomicU64; COUNT]);

impl Default for Counters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Counters {
    /// Adds to a counter.
    pub(super) fn add(&self, counter: Counter, amount: usize) {
        // Nothing is ordered by a counter.
        self.0[counter as usize].fetch_add(amount as u64, Ordering::Relaxed);
    }

    /// All counters at this time.
    pub(super) fn counts(&self) -> Counts {
        Counts(std::array::from_fn(|i| self.0[i].load(Ordering::Relaxed)))
    }
}

/// The counters of a lane at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts([u64; COUNT]);

impl Counts {
    /// One counter.
    pub(crate) fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }
}
