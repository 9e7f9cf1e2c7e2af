//! What the lane threads tell the control plane: coalesced, bounded, never waited for.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// Most addresses that wait for the control plane. One that does not fit is told at its next
/// refusal.
const ADDRESSES_MAX: usize = 4096;

/// What happened since the control plane last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TransportEvents {
    /// The TUN device was deleted: the lanes wait for queues of another one.
    pub(crate) device_lost: bool,
    /// The paths to these endpoints are narrower than their peers' configuration says.
    pub(crate) path_mtu_changed: BTreeSet<IpAddr>,
}

/// The mailbox of the control plane.
#[derive(Debug, Default)]
pub(crate) struct EventQueue {
    pending: Mutex<Pending>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    events: TransportEvents,
    /// Which of the transport's devices is in use: the loss of an earlier one is old news.
    device: u64,
    /// Whether that one is lost, taken or not.
    is_lost: bool,
}

impl EventQueue {
    /// Waits until something happened and takes all of it. May be dropped and called again without
    /// losing anything.
    pub(crate) async fn next(&self) -> TransportEvents {
        loop {
            let woken = self.wake.notified();
            let events = self.take();
            if events != TransportEvents::default() {
                return events;
            }
            woken.await;
        }
    }

    /// Takes what happened, without waiting.
    fn take(&self) -> TransportEvents {
        std::mem::take(&mut self.lock().events)
    }

    /// Another device is in use from now on.
    pub(super) fn device_replaced(&self, device: u64) {
        let mut pending = self.lock();
        pending.device = device;
        pending.events.device_lost = false;
        pending.is_lost = false;
    }

    /// Whether the lanes have no device, or one that is gone.
    pub(crate) fn is_device_lost(&self) -> bool {
        self.lock().is_lost
    }

    /// A lane found that its queue's device is gone.
    pub(super) fn device_lost(&self, device: u64) {
        let mut pending = self.lock();
        if pending.device == device {
            pending.events.device_lost = true;
            pending.is_lost = true;
            drop(pending);
            self.wake.notify_one();
        }
    }

    /// A lane found that a path is narrower than it was told.
    pub(super) fn path_mtu_changed(&self, address: IpAddr) {
        let mut pending = self.lock();
        let addresses = &mut pending.events.path_mtu_changed;
        if addresses.len() < ADDRESSES_MAX {
            addresses.insert(address);
        }
        drop(pending);
        self.wake.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        // A panic elsewhere ends the process; until then the events are whole.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(queue: &EventQueue) -> TransportEvents {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("runtime");
        runtime.block_on(queue.next())
    }

    #[test]
    fn events_are_coalesced_until_they_are_taken() {
        let queue = EventQueue::default();
        let address: IpAddr = "192.0.2.1".parse().expect("address");
        queue.path_mtu_changed(address);
        queue.path_mtu_changed(address);
        queue.device_lost(0);
        let expected = TransportEvents {
            device_lost: true,
            path_mtu_changed: BTreeSet::from([address]),
        };
        assert_eq!(next(&queue), expected);
        assert_eq!(queue.take(), TransportEvents::default());
    }

    #[test]
    fn the_loss_of_a_device_that_was_replaced_is_no_news() {
        let queue = EventQueue::default();
        queue.device_lost(0);
        queue.device_replaced(1);
        queue.device_lost(0);
        assert_eq!(queue.take(), TransportEvents::default());
        assert!(!queue.is_device_lost());
        queue.device_lost(1);
        assert!(next(&queue).device_lost);
        assert!(queue.is_device_lost(), "lost until it is replaced");
        queue.device_replaced(2);
        assert!(!queue.is_device_lost());
    }

    #[test]
    fn addresses_that_wait_are_bounded() {
        let queue = EventQueue::default();
        for bits in 0..=ADDRESSES_MAX {
            let bits = u32::try_from(bits).expect("small");
            queue.path_mtu_changed(IpAddr::V4(std::net::Ipv4Addr::from_bits(bits)));
        }
        assert_eq!(queue.take().path_mtu_changed.len(), ADDRESSES_MAX);
    }
}
