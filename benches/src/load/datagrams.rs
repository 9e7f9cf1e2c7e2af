//! Datagrams at a steady rate, many a system call, each counted where it arrives.
//!
//! One by one (`sendmmsg`), or in trains (UDP_SEGMENT): each way, all that are due are one call.
//! Two sockets of the pod send, a thread for each: one alone is slower than a fast path.

use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Error, Result, anyhow};
use podwire_testbed::Host;

use super::{Stop, UdpService};
use crate::socket_buffer;

const PORT: u16 = 5301;

/// Datagrams of one system call: what both ends of the path take in one go anyway.
const BATCH: usize = 64;

/// Sockets that send, each at its share of the rate: as many as the least machine has processors.
const SENDERS: u32 = 2;

/// Datagrams of a train at least, as senders of QUIC and of video make them: shorter ones would
/// measure how often the sender wakes up.
const TRAIN_MIN: f64 = 16.0;

/// A sender that was held up makes up for so much at most: more would be a burst and no rate.
const LAG_MAX: Duration = Duration::from_millis(4);

/// What is on its way when the sender ends has arrived when nothing came for so long: else it would
/// count for the next rate.
const SETTLING_TIME: Duration = Duration::from_millis(60);

/// A path that is still not quiet then is flooded by somebody else.
const SETTLING_MAX: Duration = Duration::from_secs(2);

/// What is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagrams {
    /// Payload of each.
    pub(crate) bytes: usize,
    /// Whether the kernel gets what is due at once in one piece.
    pub(crate) trains: bool,
}

impl Datagrams {
    /// Most of one message, which is less than 64 KiB.
    fn of_a_train(self) -> usize {
        const TRAIN_BYTES: usize = 60_000;
        (TRAIN_BYTES / self.bytes).clamp(1, BATCH)
    }
}

/// What became of one run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Count {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Those of them that had arrived when the last one was sent.
    pub(crate) in_time: u64,
    /// Of sending.
    pub(crate) seconds: f64,
}

impl Count {
    /// The share that did not arrive.
    pub(crate) fn loss(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a share of millions")]
        let share = self.received as f64 / self.sent.max(1) as f64;
        1.0 - share
    }

    /// The share that was still on its way when the last one was sent: buffers that fill hide that
    /// a rate is too high, for as long as they last.
    pub(crate) fn behind(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a share of millions")]
        let share = self.in_time as f64 / self.sent.max(1) as f64;
        1.0 - share
    }

    /// Datagrams that arrived, a second.
    pub(crate) fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate of millions")]
        let received = self.received as f64;
        received / self.seconds
    }
}

/// A receiver that waits in a pod.
#[derive(Debug)]
pub(crate) struct Receiver {
    service: UdpService,
    received: Arc<AtomicU64>,
}

impl Receiver {
    /// Waits at an address of the host.
    pub(crate) fn start(host: &Host, address: IpAddr) -> Result<Self> {
        let received = Arc::new(AtomicU64::new(0));
        let service = UdpService::start(host, SocketAddr::new(address, PORT), {
            let received = Arc::clone(&received);
            move |socket, stop| {
                // Room for a burst, so that what is lost is lost on the path.
                let _ = socket_buffer::raise(socket);
                receive(socket, &received, stop);
            }
        })?;
        Ok(Self { service, received })
    }

    /// Sends it datagrams at this rate for so long, and counts.
    pub(crate) fn measure(
        &self,
        from: &Host,
        datagrams: Datagrams,
        per_second: f64,
        duration: Duration,
    ) -> Result<Count> {
        let sockets: Vec<UdpSocket> = (0..SENDERS)
            .map(|_| self.service.connect(from))
            .collect::<Result<_>>()?;
        let before = self.received.load(Ordering::Relaxed);
        let share = per_second / f64::from(SENDERS);
        let (sent, seconds) = thread::scope(|scope| {
            let start = |socket| scope.spawn(move || send(socket, datagrams, share, duration));
            let threads: Vec<_> = sockets.iter().map(start).collect();
            threads.into_iter().try_fold((0, 0.0_f64), |sum, thread| {
                let (sent, seconds) = thread.join().map_err(|_| anyhow!("a sender panicked"))??;
                Ok::<_, Error>((sum.0 + sent, sum.1.max(seconds)))
            })
        })?;
        let in_time = self.received.load(Ordering::Relaxed) - before;
        self.settle();
        Ok(Count {
            sent,
            received: self.received.load(Ordering::Relaxed) - before,
            in_time,
            seconds,
        })
    }

    /// Waits until nothing comes any more.
    fn settle(&self) {
        let start = Instant::now();
        let mut before = self.received.load(Ordering::Relaxed);
        while start.elapsed() < SETTLING_MAX {
            thread::sleep(SETTLING_TIME);
            let now = self.received.load(Ordering::Relaxed);
            if now == before {
                return;
            }
            before = now;
        }
    }
}

/// Sends at a steady rate, as many datagrams a call as are due.
fn send(
    socket: &UdpSocket,
    datagrams: Datagrams,
    per_second: f64,
    duration: Duration,
) -> Result<(u64, f64)> {
    let mut batch = Batch::new(datagrams);
    if datagrams.trains {
        set_segment(socket, datagrams.bytes)?;
    }
    let least = if datagrams.trains { TRAIN_MIN } else { 1.0 };
    let (start, mut sent, mut offset) = (Instant::now(), 0_u64, 0.0_f64);
    while start.elapsed() < duration {
        let elapsed = start.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a count of a second")]
        let mut due = (elapsed - offset) * per_second - sent as f64;
        let most = (LAG_MAX.as_secs_f64() * per_second).max(least);
        if due > most {
            // Time that the sender did not have is not made up for.
            offset += (due - most) / per_second;
            due = most;
        }
        if due < least {
            thread::sleep(Duration::from_secs_f64(
                ((least - due) / per_second).max(20e-6),
            ));
            continue;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is from 1 to the batch"
        )]
        let count = (due as usize).min(BATCH);
        sent += batch.send(socket, count)? as u64;
    }
    Ok((sent, start.elapsed().as_secs_f64()))
}

/// A message header for each vector, and nothing else in it.
#[expect(
    unsafe_code,
    reason = "a message header's zeros are one without anything"
)]
fn headers(vectors: &mut [libc::iovec]) -> Box<[libc::mmsghdr]> {
    let header = |vector| {
        // SAFETY: all fields are integers and pointers, for which zero is valid.
        let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
        message.msg_hdr.msg_iov = ptr::from_mut(vector);
        message.msg_hdr.msg_iovlen = 1;
        message
    };
    vectors.iter_mut().map(header).collect()
}

/// From now on a message is a train of datagrams of so many bytes (udp(7)).
#[expect(unsafe_code, reason = "no crate here names this option")]
fn set_segment(socket: &UdpSocket, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).map_err(io::Error::other)?;
    let length = libc::socklen_t::try_from(mem::size_of_val(&bytes)).map_err(io::Error::other)?;
    // SAFETY: the value is an integer that lives as long as the call, and its length is its own.
    let result = unsafe {
        let value = ptr::from_ref(&bytes).cast();
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            value,
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// One system call's datagrams, all the same.
struct Batch {
    datagrams: Datagrams,
    // The kernel reads it through `vectors`, too.
    payload: Box<[u8]>,
    _vectors: Box<[libc::iovec]>,
    messages: Box<[libc::mmsghdr]>,
}

impl Batch {
    fn new(datagrams: Datagrams) -> Self {
        let bytes = if datagrams.trains {
            datagrams.bytes * datagrams.of_a_train()
        } else {
            datagrams.bytes
        };
        let mut payload = vec![0x5a_u8; bytes].into_boxed_slice();
        let vector = libc::iovec {
            iov_base: payload.as_mut_ptr().cast(),
            iov_len: bytes,
        };
        let mut vectors = vec![vector; BATCH].into_boxed_slice();
        let messages = headers(&mut vectors);
        Self {
            datagrams,
            payload,
            _vectors: vectors,
            messages,
        }
    }

    /// How many the kernel took, of at most so many.
    fn send(&mut self, socket: &UdpSocket, count: usize) -> io::Result<usize> {
        if !self.datagrams.trains {
            return self.send_singly(socket, count);
        }
        let bytes = self.datagrams.bytes;
        let train = count.min(self.datagrams.of_a_train());
        match socket.send(&self.payload[..train * bytes]) {
            Ok(sent) => Ok(sent / bytes),
            Err(error) if is_loss(&error) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// How many the kernel took.
    #[expect(unsafe_code, reason = "std sends one datagram a call")]
    fn send_singly(&mut self, socket: &UdpSocket, count: usize) -> io::Result<usize> {
        let count = libc::c_uint::try_from(count.min(BATCH)).unwrap_or(0);
        // SAFETY: the headers point to vectors, and these to a payload, that live as long as self.
        let sent =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), self.messages.as_mut_ptr(), count, 0) };
        match usize::try_from(sent) {
            Ok(sent) => Ok(sent),
            Err(_) => match io::Error::last_os_error() {
                error if is_loss(&error) => Ok(0),
                error => Err(error),
            },
        }
    }
}

/// The receiver's ICMP error about an earlier one, or a full queue: that one is lost.
fn is_loss(error: &io::Error) -> bool {
    let loss = [libc::ECONNREFUSED, libc::ENOBUFS, libc::EINTR];
    error
        .raw_os_error()
        .is_some_and(|code| loss.contains(&code))
}

/// Counts until it is told to stop.
fn receive(socket: &UdpSocket, received: &AtomicU64, stop: &Stop) {
    let mut incoming = Incoming::new();
    while !stop.is_set() {
        received.fetch_add(incoming.receive(socket), Ordering::Relaxed);
    }
}

/// Room for one system call's datagrams, of which nothing but their number is wanted.
struct Incoming {
    _byte: Box<u8>,
    _vectors: Box<[libc::iovec]>,
    messages: Box<[libc::mmsghdr]>,
}

impl Incoming {
    fn new() -> Self {
        // What does not fit is cut off: the copy would be paid for, and nobody reads it.
        let mut byte = Box::new(0_u8);
        let vector = libc::iovec {
            iov_base: ptr::from_mut(byte.as_mut()).cast(),
            iov_len: 1,
        };
        let mut vectors = vec![vector; BATCH].into_boxed_slice();
        let messages = headers(&mut vectors);
        Self {
            _byte: byte,
            _vectors: vectors,
            messages,
        }
    }

    #[expect(unsafe_code, reason = "std receives one datagram a call")]
    fn receive(&mut self, socket: &UdpSocket) -> u64 {
        let room = libc::c_uint::try_from(BATCH).unwrap_or(1);
        // SAFETY: the headers point to vectors, and these to a byte, that live as long as self. No
        // timeout: the socket has one of its own.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.messages.as_mut_ptr(),
                room,
                libc::MSG_WAITFORONE,
                ptr::null_mut(),
            )
        };
        // Nothing came, or an error about nothing that was sent.
        u64::try_from(received).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::LOOK_INTERVAL;

    #[test]
    fn datagrams_are_sent_at_their_rate_and_all_counted() {
        for trains in [false, true] {
            count_all(Datagrams { bytes: 64, trains });
        }
    }

    fn count_all(datagrams: Datagrams) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(LOOK_INTERVAL)).expect("set");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        sender
            .connect(socket.local_addr().expect("bound"))
            .expect("connected");
        let (received, stop) = (Arc::new(AtomicU64::new(0)), Stop::default());
        let thread = thread::spawn({
            let (received, stop) = (Arc::clone(&received), stop.clone());
            move || receive(&socket, &received, &stop)
        });
        let (sent, seconds) =
            send(&sender, datagrams, 10_000.0, Duration::from_millis(500)).expect("sent");
        thread::sleep(SETTLING_TIME);
        stop.set();
        thread.join().expect("ended");
        assert!((2_000..=5_100).contains(&sent), "{sent} in {seconds} s");
        assert_eq!(received.load(Ordering::Relaxed), sent);
    }

    #[test]
    fn loss_is_the_share_that_did_not_arrive() {
        let count = Count {
            sent: 1000,
            received: 999,
            in_time: 990,
            seconds: 2.0,
        };
        assert!((count.loss() - 0.001).abs() < 1e-9);
        assert!((count.behind() - 0.01).abs() < 1e-9);
        assert!((count.rate() - 499.5).abs() < 1e-9);
    }
}
