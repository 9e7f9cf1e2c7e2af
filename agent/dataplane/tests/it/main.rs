//! The device in simulated time: `cargo test -p podwire-dataplane --features sim`.

mod chaos;
mod endpoints;
mod flood;
mod hostile;
mod key_rotation;
mod lanes;
mod mangled;
mod nat;
mod outages;
mod packets;
mod parted;
mod peers;
mod rekey;
mod replays;
mod restarts;
mod robustness;
mod rotating;
mod routing;
mod simulation;
mod steady_state;
mod super_packets;
mod traps;
