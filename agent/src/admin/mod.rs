//! The agent's own voice: the admin socket, the Prometheus endpoint, and the client that the
//! command line asks them with. It reads, and takes requests about the own keys.

pub(crate) mod client;
mod metrics;
mod peers;
mod requests;
mod server;
pub(crate) mod view;

use arc_swap::{ArcSwap, ArcSwapOption};
use podwire_core::desired_kernel::UnroutableReason;
use podwire_core::kernel::Kernel;
use podwire_core::mesh::DesiredMesh;
use podwire_core::node::NodeName;
use podwire_core::request::Request;
use ring::cipher::Cipher;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use crate::control::status::Status;
use crate::transport::{Counter, OffloadsInUse};

pub use server::routes;
pub(crate) use server::{serve_metrics, serve_socket};

/// Name of the admin socket in the run folder.
pub(crate) const SOCKET_NAME: &str = "admin.sock";

/// Only root may look into the run folder.
pub(crate) const RUN_DIR_MODE: u32 = 0o700;

/// What the control plane shows to the admin side: each part replaced as a whole.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    /// The last reconcile's status.
    pub(crate) status: ArcSwap<Status>,
    /// The mesh in force.
    pub(crate) mesh: ArcSwapOption<DesiredMesh>,
    /// The data plane, once it runs; absent in host-network mode.
    pub(crate) device: ArcSwapOption<podwire_dataplane::Device>,
    /// What the guard table has refused so far.
    pub(crate) guard: ArcSwap<GuardCounts>,
    /// The transport's counters, summed over the lanes, as of the last housekeeping.
    pub(crate) transport: ArcSwap<Vec<(Counter, u64)>>,
    /// What the kernel does for many packets at once, once the data plane runs.
    pub(crate) offloads: ArcSwapOption<OffloadsInUse>,
    pub(crate) cipher: ArcSwapOption<Cipher>,
    /// The kernel state that the last pass brought about.
    pub(crate) kernel: ArcSwap<Kernel>,
    /// Peers whose packets have no way to go.
    pub(crate) unroutable: ArcSwap<BTreeMap<NodeName, UnroutableReason>>,
    /// Encrypted peers with a live session, as of the last housekeeping.
    pub(crate) peers_up: AtomicUsize,
    /// What was asked last of the own keys over the socket: the only thing that is told to the
    /// control plane from here.
    pub(crate) asked: ArcSwapOption<Request>,
    /// When the control loop turned last.
    pub(crate) turned: ArcSwapOption<Instant>,
}

/// Packets that the guard table stopped.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GuardCounts {
    /// Packets for the cluster's pods that would have left in plaintext.
    pub(crate) egress: u64,
    /// Packets with a pod's source that came in by a wrong interface.
    pub(crate) ingress: u64,
}

/// The shared handle.
pub(crate) type ShownHandle = Arc<Shown>;
