//! WireGuard's four messages by type, length and receiver index: what can be told without a key.

//= WireGuard §5.4.2
/// Length of a handshake initiation.
pub(crate) const INITIATION_LENGTH: usize = 148;
//= WireGuard §5.4.3
/// Length of a handshake response.
pub(crate) const RESPONSE_LENGTH: usize = 92;
//= WireGuard §5.4.7
/// Length of a cookie reply.
pub(crate) const COOKIE_REPLY_LENGTH: usize = 64;
//= WireGuard §5.4.6
/// Length of transport data around its inner packet: type, receiver index and counter, and the tag.
pub(crate) const DATA_OVERHEAD: usize = 32;
//= WireGuard §5.4.6
/// Inner packets are padded with zeros to a multiple of this.
pub(crate) const PADDING: usize = 16;

/// What a datagram says that it is. Nothing of it is authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Initiation,
    Response { receiver: u32 },
    CookieReply { receiver: u32 },
    Data { receiver: u32 },
}

impl Message {
    /// Reads type and receiver index; none when type, reserved bytes or length are not WireGuard's.
    pub(crate) fn parse(datagram: &[u8]) -> Option<Self> {
        let word = |at: usize| -> Option<u32> {
            Some(u32::from_le_bytes(
                datagram.get(at..at + 4)?.try_into().ok()?,
            ))
        };
        match (word(0)?, datagram.len()) {
            (1, INITIATION_LENGTH) => Some(Self::Initiation),
            (2, RESPONSE_LENGTH) => Some(Self::Response { receiver: word(8)? }),
            (3, COOKIE_REPLY_LENGTH) => Some(Self::CookieReply { receiver: word(4)? }),
            (4, length) if length >= DATA_OVERHEAD => Some(Self::Data { receiver: word(4)? }),
            _ => None,
        }
    }
}

/// The sender index of an initiation or response.
pub(crate) fn sender_index(message: &[u8]) -> u32 {
    u32::from_le_bytes(message[4..8].try_into().expect("four bytes are four bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(kind: u32, length: usize) -> Vec<u8> {
        let mut bytes = vec![0_u8; length];
        let known = length.min(4);
        bytes[..known].copy_from_slice(&kind.to_le_bytes()[..known]);
        bytes
    }

    #[test]
    fn only_the_exact_lengths_are_messages() {
        for length in 0..200 {
            let parsed = |kind| Message::parse(&datagram(kind, length)).is_some();
            assert_eq!(parsed(1), length == 148, "initiation of {length}");
            assert_eq!(parsed(2), length == 92, "response of {length}");
            assert_eq!(parsed(3), length == 64, "cookie reply of {length}");
            assert_eq!(parsed(4), length >= 32, "data of {length}");
            assert!(!parsed(0) && !parsed(5) && !parsed(0x0100_0004));
        }
    }
}
