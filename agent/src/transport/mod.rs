//! The transport: one OS thread for each lane between the TUN device and the UDP sockets.
//!
//! ```text
//!              +----------------- lane thread i: epoll, run to completion -----------------+
//! TUN queue i ==> packets --> Lane::handle_overlay  --> datagrams ==> sockets of lane i
//! TUN queue i <== packets <-- Lane::handle_underlay <-- datagrams <== sockets of lane i
//!              +---------------------------------------------------------------------------+
//! ```
//!
//! Nothing here decides about packets: that is the dataplane's. It is the only module with unsafe
//! code.

mod counters;
mod events;
mod lane;
mod offload;
#[cfg(test)]
mod tests;
mod tun;
mod udp;

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use podwire_dataplane::Device;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

pub(crate) use self::counters::Counter;
pub(crate) use self::events::EventQueue;
pub(crate) use self::offload::{Offload, Offloads, OffloadsInUse};
pub(crate) use self::tun::TunDevice;
pub(crate) use self::udp::LaneSockets;

use self::counters::{Counters, Counts};
use self::lane::LaneThread;
use self::tun::TunQueue;

/// Why the transport cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransportError {
    /// The kernel lacks a thread or a descriptor.
    #[error(
        "the thread of lane {lane} cannot be started: raise the limits on threads and open files \
         (`ulimit -u`, `ulimit -n`), or lower --lanes"
    )]
    Thread {
        lane: usize,
        #[source]
        source: io::Error,
    },
}

/// What the control plane and one lane thread share.
#[derive(Debug)]
struct Shared {
    /// Rings when there is something in here to see.
    bell: OwnedFd,
    stopping: AtomicBool,
    /// A queue of another device.
    mailbox: Mutex<Option<NumberedQueue>>,
    counters: Counters,
}

/// A queue and which of the transport's devices it belongs to.
#[derive(Debug)]
struct NumberedQueue {
    queue: TunQueue,
    device: u64,
    /// Whether it takes UDP datagrams that were joined.
    has_udp: bool,
}

impl Shared {
    fn new() -> Result<Self, Errno> {
        Ok(Self {
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            stopping: AtomicBool::new(false),
            mailbox: Mutex::new(None),
            counters: Counters::default(),
        })
    }

    fn ring(&self) {
        // Refused only when the counter overflows: then it rings already.
        let _ = rustix::io::write(self.bell.as_fd(), &1_u64.to_ne_bytes());
    }

    fn put_queue(&self, queue: NumberedQueue) {
        *self.mailbox.lock().unwrap_or_else(PoisonError::into_inner) = Some(queue);
        self.ring();
    }

    fn take_queue(&self) -> Option<NumberedQueue> {
        self.mailbox
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

/// The running lane threads.
#[derive(Debug)]
pub(crate) struct Transport {
    lanes: Vec<(Arc<Shared>, Option<JoinHandle<()>>)>,
    events: Arc<EventQueue>,
    /// How many devices were used so far.
    device: u64,
}

impl Transport {
    /// Starts one thread for each of `sockets`. Lane i takes queue i of `tun`, which has as many,
    /// and sends by any of the sockets.
    ///
    /// # Errors
    /// [`TransportError`]; then no thread is left.
    pub(crate) fn start(
        device: &Arc<Device>,
        tun: TunDevice,
        sockets: Vec<LaneSockets>,
        offloads: &Arc<OffloadsInUse>,
    ) -> Result<Self, TransportError> {
        for sockets in &sockets {
            sockets.join_datagrams(offloads);
        }
        let sockets: Arc<[LaneSockets]> = sockets.into();
        let mut transport = Self {
            lanes: Vec::new(),
            events: Arc::default(),
            device: 0,
        };
        for lane in 0..sockets.len() {
            let failed = |source| TransportError::Thread { lane, source };
            let shared = Arc::new(Shared::new().map_err(|errno| failed(errno.into()))?);
            let thread = LaneThread::new(
                lane,
                device.lane(lane, Instant::now()),
                Arc::clone(&sockets),
                Arc::clone(&shared),
                Arc::clone(&transport.events),
                Arc::clone(offloads),
            )
            .map_err(|errno| failed(errno.into()))?;
            let handle = thread::Builder::new()
                .name(format!("podwire-lane-{lane}"))
                .spawn(move || thread.run())
                .map_err(failed)?;
            transport.lanes.push((shared, Some(handle)));
        }
        transport.replace_tun(tun);
        Ok(transport)
    }

    /// Gives the lanes the queues of another device, in place of those that they have.
    pub(crate) fn replace_tun(&mut self, tun: TunDevice) {
        debug_assert_eq!(tun.queue_count(), self.lanes.len(), "a queue for each lane");
        self.device += 1;
        self.events.device_replaced(self.device);
        let has_udp = tun.has_udp_segmentation();
        for ((shared, _), queue) in self.lanes.iter().zip(tun.into_queues()) {
            shared.put_queue(NumberedQueue {
                queue,
                device: self.device,
                has_udp,
            });
        }
    }

    /// What the lanes tell. The queue may be waited on while the transport is used otherwise.
    pub(crate) fn events(&self) -> Arc<EventQueue> {
        Arc::clone(&self.events)
    }

    /// The counters of every lane, lane 0 first.
    pub(crate) fn counters(&self) -> Vec<Counts> {
        self.lanes
            .iter()
            .map(|(shared, _)| shared.counters.counts())
            .collect()
    }

    /// Stops all threads and waits for them. The device stays, and so do the packets in its queues.
    pub(crate) fn stop(mut self) {
        self.stop_threads();
    }

    fn stop_threads(&mut self) {
        for (shared, _) in &self.lanes {
            shared.stopping.store(true, Ordering::Release);
            shared.ring();
        }
        for (_, handle) in &mut self.lanes {
            if let Some(handle) = handle.take() {
                // A panic on a lane has ended the process already.
                let _ = handle.join();
            }
        }
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.stop_threads();
    }
}
