//! The AEAD floor: what sealing and opening alone cost, with AWS-LC, which is as fast as ring.

use std::thread::{self, ScopedJoinHandle};

use anyhow::{Result, anyhow};
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustix::time::{ClockId, clock_gettime};

/// A full packet of a tunnel on Ethernet.
const PACKET_BYTES: usize = 1420;

/// Bytes of Poly1305's tag.
const TAG_BYTES: usize = 16;

/// Packets of one thread: 0.17 GiB, which takes about half a second.
const PACKETS: u32 = 1 << 17;

/// Of it TCP payload, behind IPv4's header and TCP's with timestamps: what other figures count.
const PAYLOAD_BYTES: usize = PACKET_BYTES - 20 - 32;

/// Processor seconds to seal and to open one GiB of TCP payload in packets of [`PACKET_BYTES`]:
/// what both ends of a tunnel spend at least that use it, and a yardstick for others. All
/// processors do it at once, as in a measurement: two that share a core are slower together.
///
/// # Errors
/// The system's, and of a thread that failed.
pub(crate) fn measure() -> Result<f64> {
    let processors = thread::available_parallelism()?.get();
    let spent: Vec<Result<f64>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..processors).map(|_| scope.spawn(one)).collect();
        let join = |thread: ScopedJoinHandle<'_, Result<f64>>| {
            thread.join().map_err(|_| anyhow!("a thread failed"))?
        };
        threads.into_iter().map(join).collect()
    });
    let spent: f64 = spent.into_iter().collect::<Result<Vec<_>>>()?.iter().sum();
    #[expect(
        clippy::cast_precision_loss,
        reason = "a number of bytes is exact in a double"
    )]
    let gib = (processors * PACKETS as usize * PAYLOAD_BYTES) as f64 / f64::from(1 << 30);
    Ok(spent / gib)
}

/// Processor seconds of one thread for all its packets.
fn one() -> Result<f64> {
    let unusable = |_| anyhow!("the cipher refuses what it has made itself");
    let key = UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).map_err(unusable)?;
    let key = LessSafeKey::new(key);
    let mut packet = vec![0x5a; PACKET_BYTES + TAG_BYTES];
    let began = thread_seconds();
    for number in 0..PACKETS {
        let (data, tag_bytes) = packet.split_at_mut(PACKET_BYTES);
        let tag = key
            .seal_in_place_separate_tag(nonce(number), Aad::empty(), data)
            .map_err(unusable)?;
        tag_bytes.copy_from_slice(tag.as_ref());
        key.open_in_place(nonce(number), Aad::empty(), &mut packet)
            .map_err(unusable)?;
    }
    Ok(thread_seconds() - began)
}

fn nonce(number: u32) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..8].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Processor time of the calling thread.
fn thread_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    #[expect(clippy::cast_precision_loss, reason = "seconds of a thread")]
    let seconds = time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
    seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealing_and_opening_takes_time() {
        let seconds = measure().expect("a floor");
        assert!((0.05..500.0).contains(&seconds), "{seconds} s/GiB");
    }
}
