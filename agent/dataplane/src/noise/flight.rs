//! A handshake of ours that waits for its response.

use std::time::Instant;

/// Its initiations so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flight {
    /// When its first initiation was made.
    pub(crate) started: Instant,
    /// When its latest was made.
    pub(crate) latest: Instant,
    /// How many there are.
    pub(crate) attempts: u32,
    /// How many of them other tunnels have made, which it was taken over from.
    inherited: u32,
}

impl Flight {
    /// One that begins, with its first initiation.
    pub(super) const fn begin(now: Instant) -> Self {
        Self {
            started: now,
            latest: now,
            attempts: 1,
            inherited: 0,
        }
    }

    /// One more initiation is made.
    pub(super) const fn repeat(&mut self, now: Instant) {
        self.latest = now;
        self.attempts += 1;
    }

    /// The same handshake in another tunnel. The latest initiation of this one is not sent.
    pub(super) const fn handed_over(self) -> Self {
        let attempts = self.attempts - 1;
        Self {
            attempts,
            inherited: attempts,
            ..self
        }
    }

    /// The initiations that the present tunnel has made.
    pub(crate) const fn own_attempts(self) -> u32 {
        self.attempts - self.inherited
    }
}
