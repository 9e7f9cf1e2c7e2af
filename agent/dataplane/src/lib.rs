//! Podwire's WireGuard device, without I/O and without a clock: datagrams, packets and the time
//! come in as arguments, and what is to be sent and delivered goes out in the caller's buffers.
//!
//! ```text
//! Device ── peer table (one pointer) ── Peer ── SessionSet of each lane ── Member: one Tunn
//!   └ Lane, one for each thread: handle_overlay, handle_underlay, handle_timeout
//! ```
//!
//! The protocol engine is boringtun, named in `noise.rs` only; what its traps are and how they are
//! kept away is told there.
#![forbid(unsafe_code)]

pub mod batch;
mod checksum;
pub mod coalesce;
mod counters;
pub mod device;
pub mod drop_reason;
pub mod ecn;
mod endpoint;
pub mod handshake_limiter;
mod icmp;
mod ip_packet;
mod jitter;
pub mod lane;
mod message;
mod noise;
mod one_sided;
mod own_epoch;
pub mod own_keys;
pub mod packet_queue;
mod peer;
mod peer_table;
mod receiver_index;
mod session_set;
#[cfg(feature = "sim")]
pub mod simulated_clock;
mod stamp_clock;
pub mod status;
mod super_packet;
mod timers;
mod transport_header;
pub mod vnet_header;

pub use batch::{Datagram, DeliveryBatch, OverlayBatch, Packet, UnderlayBatch};
pub use coalesce::Coalescing;
pub use device::{Device, DeviceConfig, DeviceError, LANES_MAX};
pub use drop_reason::DropReason;
pub use ecn::Ecn;
pub use handshake_limiter::{HANDSHAKES_PER_SECOND, HANDSHAKES_PER_SOURCE};
pub use lane::Lane;
pub use noise::REPLAY_WINDOW;
pub use own_keys::{Fate, OwnKeys};
pub use peer::PeerConfig;
pub use status::{HandshakeCounts, LaneStatus, PeerChanges, PeerState, PeerStatus, Traffic};
pub use vnet_header::{VNET_HEADER, VnetHeader};
