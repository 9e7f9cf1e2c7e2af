//! What came of a call to the protocol engine.

/// What came of a handshake message that must prove its source address.
pub(crate) enum CookieCheck {
    /// It carries the cookie for its source address.
    Valid,
    /// It does not: this reply of so many bytes tells it the cookie.
    Reply(usize),
}

/// What came of an initiation of the peer's.
pub(crate) enum Accepted {
    /// The response of so many bytes is at the front of the output.
    Response(usize),
    /// It is the peer's but its stamp is not the latest, and the one with the latest led to
    /// nothing: perhaps that was a recording of a time when the peer's clock was ahead.
    ShutOut,
}

/// What a transport message turned out to be. All of these are authenticated.
pub(crate) enum Received {
    /// An inner packet of so many bytes, at the front of the output.
    Packet(usize),
    /// A keepalive.
    Keepalive,
    /// Neither IPv4 nor IPv6, or longer than the message.
    Malformed,
}

/// What the passing of time asks for. Its bytes are at the front of the output.
pub(crate) enum Due {
    Initiation,
    Keepalive(usize),
}
