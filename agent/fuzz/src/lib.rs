//! Fuzz targets for every parser of bytes that somebody else has made.
//!
//! A target is a function `one` over bytes, which panics when something does not hold. The fuzzer
//! calls it (`fuzz_targets/`, run by `agent/fuzz/run`), and so does a test of the ordinary tool
//! chain with every file of `corpus/`.
//!
//! | target | bytes of | what must hold beside "it does not panic" |
//! |---|---|---|
//! | [`underlay`] | anybody, a peer | the unauthenticated is not delivered and moves no endpoint |
//! | [`overlay`] | pods | each packet arrives unchanged, waits, or is counted; queues are bounded |
//! | [`icmp`] | pods | answers are well-formed, quote what they answer, and answer no error |
//! | [`cut_packet`] | the kernel | segments are packets whose payload is that of the whole |
//! | [`coalescing`] | peers | what is joined and cut again is what came |
//! | [`sealing`] | pods, peers | what is sealed and opened is what two other implementations say |
//! | [`record`] | other nodes | what is read is what is written; no other pair changes |
//! | [`manifest`] | the directory's writers | what is read is what is written |
//! | [`admin`] | local processes | every request is answered and nothing hangs |
#![forbid(unsafe_code)]

pub mod admin;
pub mod coalescing;
pub mod cut_packet;
pub mod icmp;
mod inner_packet;
mod input;
pub mod manifest;
pub mod overlay;
pub mod record;
pub mod sealing;
mod shown_text;
pub mod underlay;
mod wireguard_peer;
mod world;

/// A target: panics when something does not hold.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: [(&str, Target); 9] = [
    ("underlay", underlay::one),
    ("overlay", overlay::one),
    ("icmp", icmp::one),
    ("cut_packet", cut_packet::one),
    ("coalescing", coalescing::one),
    ("sealing", sealing::one),
    ("record", record::one),
    ("manifest", manifest::one),
    ("admin", admin::one),
];
