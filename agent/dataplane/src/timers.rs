//! The timers of WireGuard (§6.1), and those that keep boringtun's away from their edges.

use std::time::Duration;

//= WireGuard §6.1
/// Age at which the initiator of a session starts the next one.
pub(crate) const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
//= WireGuard §6.1
/// Age at which a session is neither sent on nor received on.
pub(crate) const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
//= WireGuard §6.1
/// Time between two initiations of one handshake.
pub(crate) const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
//= WireGuard §6.1
/// Silence after which a receiver of data says that it lives.
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
//= WireGuard §6.1
/// Time after which a handshake without an answer is given up: WireGuard's 90 s less 5 s, because
/// boringtun logs an error for a peer that is merely offline once 90 s have passed at a tick.
pub(crate) const GIVE_UP_AFTER: Duration = Duration::from_secs(85);
/// Age without a session up to which a `Tunn` may start another handshake: boringtun expires it
/// (and logs an error) 540 s after its last session, so a whole attempt must fit in between.
pub(crate) const REUSE_UNTIL: Duration = Duration::from_secs(420);
/// Age at which a session is not sent on any more: boringtun drops it a moment later by its own
/// clock, and must not be asked then.
pub(crate) const LIFETIME: Duration = Duration::from_secs(179);
/// Silence after which a node that nobody can reach unasked renews its session, which also keeps
/// the way open: routers forget a UDP mapping that nothing answers after 30 s (Linux,
/// `nf_conntrack_udp_timeout`), and WireGuard's own advice for its keepalives is 25 s.
pub(crate) const KEEP_OPEN_AFTER: Duration = Duration::from_secs(25);
/// How far boringtun's clock may be behind when it makes a session: by one hold (see
/// `Tunnel::is_held`).
pub(crate) const CLOCK_DRIFT_MAX: Duration = Duration::from_secs(20);

// A session that starts a new one every 120 s and dies at 180 s cannot reach REKEY_AFTER_MESSAGES.
const _: () = assert!((1_u64 << 60) / REJECT_AFTER_TIME.as_secs() > 6_000_000_000_000_000);
const _: () = assert!(GIVE_UP_AFTER.as_secs() + REUSE_UNTIL.as_secs() < 3 * 180);
const _: () = assert!(LIFETIME.as_secs() < REJECT_AFTER_TIME.as_secs());
