//! What the kernel does for many packets at once, each with a switch, and each given up by itself
//! where the kernel refuses it.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use tracing::warn;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offload {
    /// The TUN device gives us packets of up to 64 KiB that we cut, and checksums that we complete.
    TunGso,
    /// We give the TUN device packets that we have joined.
    TunGro,
    /// The socket takes many datagrams in one piece and cuts them.
    UdpGso,
    /// The socket gives us many datagrams in one piece.
    UdpGro,
}

impl Offload {
    /// Every one.
    pub(crate) const ALL: [Self; 4] = [Self::TunGso, Self::TunGro, Self::UdpGso, Self::UdpGro];

    /// Its name on the command line and in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::TunGso => "tun-gso",
            Self::TunGro => "tun-gro",
            Self::UdpGso => "udp-gso",
            Self::UdpGro => "udp-gro",
        }
    }
}

/// Which are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offloads([bool; Offload::ALL.len()]);

impl Default for Offloads {
    fn default() -> Self {
        Self([true; Offload::ALL.len()])
    }
}

impl Offloads {
    /// Switches one.
    pub(crate) fn set(&mut self, offload: Offload, is_wanted: bool) {
        self.0[offload as usize] = is_wanted;
    }

    /// Whether one is wanted.
    pub(crate) const fn has(self, offload: Offload) -> bool {
        self.0[offload as usize]
    }
}

/// Which are in use, in all lanes: those that are wanted until the kernel refuses them.
#[derive(Debug)]
pub(crate) struct OffloadsInUse {
    wanted: Offloads,
    refused: [AtomicBool; Offload::ALL.len()],
}

impl OffloadsInUse {
    /// Those that are wanted.
    pub(crate) fn new(wanted: Offloads) -> Self {
        Self {
            wanted,
            refused: Default::default(),
        }
    }

    /// Whether one is in use.
    pub(crate) fn has(&self, offload: Offload) -> bool {
        // Nothing is ordered by it: a lane that learns it late is refused once more.
        self.wanted.has(offload) && !self.was_refused(offload)
    }

    /// Whether the kernel has refused it.
    pub(crate) fn was_refused(&self, offload: Offload) -> bool {
        self.refused[offload as usize].load(Ordering::Relaxed)
    }

    /// The kernel refuses one: from here on it is done without.
    pub(super) fn give_up(&self, offload: Offload, error: Errno) {
        if !self.refused[offload as usize].swap(true, Ordering::Relaxed) {
            warn!(
                offload = offload.as_str(),
                %error,
                "the kernel refuses an offload: it is done without from here on, which costs speed"
            );
        }
    }
}
