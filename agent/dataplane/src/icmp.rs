//! ICMP errors to the sender of an inner packet, so that nothing is a black hole.
//!
//! Their source is the original destination: it lies behind the device, so that the reverse-path
//! and martian checks of the kernel let them in.

use std::time::{Duration, Instant};

use podwire_core::mtu::Family;

use crate::checksum::Sum;
use crate::ip_packet::{IPV4_HEADER, IPV6_HEADER, IpPacket};

/// ICMP errors that one lane sends a second at most; the kernel's own limit is 1,000 for all.
pub(crate) const ERRORS_PER_SECOND: u32 = 100;
/// The longest ICMP error for IPv4 (RFC 1812 §4.3.2.3).
const IPV4_ERROR_MAX: usize = 576;
/// The longest ICMPv6 error (RFC 4443 §2.4 c).
const IPV6_ERROR_MAX: usize = 1280;
/// Bytes of an ICMP header.
const ICMP_HEADER: usize = 8;
const TIME_TO_LIVE: u8 = 64;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IcmpError {
    /// Nobody to send it to.
    Unreachable,
    /// Longer than this many bytes.
    TooBig(u32),
}

/// Bytes that an output must have room for.
pub(crate) const ERROR_ROOM: usize = IPV6_ERROR_MAX;

impl IcmpError {
    /// Writes the error about `packet`, whose bytes are `bytes`, to the front of `output`; returns
    /// its length, or none when it must not be answered.
    pub(crate) fn write(self, packet: &IpPacket, bytes: &[u8], output: &mut [u8]) -> Option<usize> {
        if !packet.may_be_answered(bytes) || output.len() < ERROR_ROOM {
            return None;
        }
        let quote = &bytes[..packet.length.min(bytes.len())];
        match packet.family() {
            Family::Ipv4 => self.write_ipv4(quote, output),
            Family::Ipv6 => self.write_ipv6(quote, output),
        }
    }

    fn write_ipv4(self, quote: &[u8], output: &mut [u8]) -> Option<usize> {
        let quoted = quote.len().min(IPV4_ERROR_MAX - IPV4_HEADER - ICMP_HEADER);
        let length = IPV4_HEADER + ICMP_HEADER + quoted;
        let output = output.get_mut(..length)?;
        output.fill(0);
        output[0] = 0x45;
        output[2..4].copy_from_slice(&u16::try_from(length).ok()?.to_be_bytes());
        output[8] = TIME_TO_LIVE;
        output[9] = 1;
        output[12..16].copy_from_slice(&quote[16..20]);
        output[16..20].copy_from_slice(&quote[12..16]);
        let checksum = Sum::default().add(&output[..IPV4_HEADER]).checksum();
        output[10..12].copy_from_slice(&checksum);
        let message = &mut output[IPV4_HEADER..];
        message[0] = 3;
        match self {
            // RFC 792: host unreachable, as the kernel's WireGuard says it.
            Self::Unreachable => message[1] = 1,
            Self::TooBig(mtu) => {
                message[1] = 4;
                let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
                //= RFC 1191 §4
                message[6..8].copy_from_slice(&mtu.to_be_bytes());
            }
        }
        message[ICMP_HEADER..].copy_from_slice(&quote[..quoted]);
        let checksum = Sum::default().add(message).checksum();
        message[2..4].copy_from_slice(&checksum);
        Some(length)
    }

    fn write_ipv6(self, quote: &[u8], output: &mut [u8]) -> Option<usize> {
        let quoted = quote.len().min(IPV6_ERROR_MAX - IPV6_HEADER - ICMP_HEADER);
        let length = IPV6_HEADER + ICMP_HEADER + quoted;
        let output = output.get_mut(..length)?;
        output.fill(0);
        output[0] = 0x60;
        let payload = u16::try_from(length - IPV6_HEADER).ok()?;
        output[4..6].copy_from_slice(&payload.to_be_bytes());
        output[6] = 58;
        output[7] = TIME_TO_LIVE;
        output[8..24].copy_from_slice(&quote[24..40]);
        output[24..40].copy_from_slice(&quote[8..24]);
        // The pseudo header: both addresses, the length and the protocol (RFC 8200 §8.1).
        let pseudo = Sum::default()
            .add(&output[8..40])
            .add_number(payload)
            .add_number(58);
        let message = &mut output[IPV6_HEADER..];
        match self {
            // Address unreachable.
            Self::Unreachable => message[..2].copy_from_slice(&[1, 3]),
            Self::TooBig(mtu) => {
                message[0] = 2;
                message[4..8].copy_from_slice(&mtu.to_be_bytes());
            }
        }
        message[ICMP_HEADER..].copy_from_slice(&quote[..quoted]);
        let checksum = pseudo.add(message).checksum();
        message[2..4].copy_from_slice(&checksum);
        Some(length)
    }
}

/// At most [`ERRORS_PER_SECOND`].
#[derive(Debug)]
pub(crate) struct IcmpLimiter {
    since: Instant,
    sent: u32,
}

impl IcmpLimiter {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            since: now,
            sent: 0,
        }
    }

    /// Whether one more may be sent.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        self.sent += 1;
        self.sent <= ERRORS_PER_SECOND
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An IPv4 packet of 10.244.1.2 to 10.244.2.2.
    pub(crate) fn ipv4(protocol: u8, payload: usize) -> Vec<u8> {
        let mut packet = vec![0; 20 + payload];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&u16::try_from(20 + payload).expect("fits").to_be_bytes());
        packet[8] = 64;
        packet[9] = protocol;
        packet[12..20].copy_from_slice(&[10, 244, 1, 2, 10, 244, 2, 2]);
        packet
    }

    /// An IPv6 packet of fd00:10:244:1::2 to fd00:10:244:2::2.
    pub(crate) fn ipv6(next_header: u8, payload: usize) -> Vec<u8> {
        let mut packet = vec![0; 40 + payload];
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&u16::try_from(payload).expect("fits").to_be_bytes());
        packet[6] = next_header;
        packet[7] = 64;
        packet[8..16].copy_from_slice(&[0xfd, 0, 0, 0x10, 2, 0x44, 0, 1]);
        packet[23] = 2;
        packet[24..32].copy_from_slice(&[0xfd, 0, 0, 0x10, 2, 0x44, 0, 2]);
        packet[39] = 2;
        packet
    }

    fn write(error: IcmpError, packet: &[u8]) -> Option<Vec<u8>> {
        let mut output = vec![0xaa; 2000];
        let parsed = IpPacket::parse(packet)?;
        let length = error.write(&parsed, packet, &mut output)?;
        output.truncate(length);
        Some(output)
    }

    #[test]
    fn ipv4_errors_come_from_the_original_destination_and_check_out() {
        let packet = ipv4(17, 1400);
        let error = write(IcmpError::TooBig(1380), &packet).expect("answered");
        let parsed = IpPacket::parse(&error).expect("a packet");
        assert_eq!((parsed.length, error.len()), (576, 576));
        assert_eq!(parsed.source.to_string(), "10.244.2.2");
        assert_eq!(parsed.destination.to_string(), "10.244.1.2");
        assert_eq!(error[20..22], [3, 4]);
        assert_eq!(error[26..28], 1380_u16.to_be_bytes());
        assert_eq!(error[28..], packet[..548]);
        assert!(Sum::default().add(&error[..20]).is_valid());
        assert!(Sum::default().add(&error[20..]).is_valid());
        let unreachable = write(IcmpError::Unreachable, &ipv4(6, 20)).expect("answered");
        assert_eq!(unreachable[20..22], [3, 1]);
    }

    #[test]
    fn ipv6_errors_come_from_the_original_destination_and_check_out() {
        let packet = ipv6(6, 1460);
        let error = write(IcmpError::TooBig(1400), &packet).expect("answered");
        let parsed = IpPacket::parse(&error).expect("a packet");
        assert_eq!((parsed.length, error.len()), (1280, 1280));
        assert_eq!(parsed.source.to_string(), "fd00:10:244:2::2");
        assert_eq!(error[40..42], [2, 0]);
        assert_eq!(error[44..48], 1400_u32.to_be_bytes());
        let pseudo = Sum::default()
            .add(&error[8..40])
            .add_number(1240)
            .add_number(58);
        assert!(pseudo.add(&error[40..]).is_valid());
        let unreachable = write(IcmpError::Unreachable, &ipv6(17, 9)).expect("answered");
        assert_eq!(unreachable[40..42], [1, 3]);
    }

    #[test]
    fn an_error_is_never_answered_with_an_error() {
        let first = write(IcmpError::Unreachable, &ipv4(17, 8)).expect("answered");
        assert_eq!(write(IcmpError::Unreachable, &first), None);
        let first = write(IcmpError::TooBig(1280), &ipv6(17, 8)).expect("answered");
        assert_eq!(write(IcmpError::Unreachable, &first), None);
    }

    #[test]
    fn errors_are_limited_by_the_second() {
        let start = Instant::now();
        let mut limiter = IcmpLimiter::new(start);
        assert_eq!((0..150).filter(|_| limiter.take(start)).count(), 100);
        assert!(limiter.take(start + Duration::from_secs(1)));
    }
}
