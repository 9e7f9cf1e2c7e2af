//! Numbered messages at a steady rate, for hours if need be: what was lost, repeated or late.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::address;
use crate::cookie::Cookie;
use crate::echo::{self, ECHO_PORT, HEADER_BYTES};
use crate::namespace::Namespace;
use crate::until::until;

/// How often messages are sent that have become due.
const TICK: Duration = Duration::from_millis(1);

/// Header and more than one whole cookie.
const MESSAGE_BYTES: usize = 96;

/// A connection must be made, and at the end drained, within this.
const DEADLINE: Duration = Duration::from_secs(60);

/// UDP messages that are this late are lost.
const QUIET: Duration = Duration::from_secs(1);

/// What a TCP counter counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpCount {
    /// Messages handed to the connection.
    pub sent: u64,
    /// Messages that came back, in order.
    pub echoed: u64,
    /// Messages that came back out of their turn: TCP forbids it.
    pub out_of_turn: u64,
    /// The longest time between two messages that came back.
    pub longest_gap: Duration,
    /// Why the connection ended before it was stopped.
    pub broken: Option<String>,
}

/// What a UDP counter counted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpCount {
    /// Messages sent, also those that the kernel refused to send.
    pub sent: u64,
    /// Of those, refused at once: no route, no room, or an ICMP error of an earlier one.
    pub refused: u64,
    /// Different messages received.
    pub received: u64,
    /// Messages received again.
    pub repeated: u64,
    /// Messages received after one with a higher number.
    pub reordered: u64,
    /// The longest time between two messages received.
    pub longest_gap: Duration,
}

impl UdpCount {
    /// Messages that were not received; those under way are among them.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.sent - self.received
    }
}

/// One connection that sends numbers and wants each back. Ends when it is dropped.
#[derive(Debug)]
pub struct TcpCounter {
    count: Arc<Mutex<TcpCount>>,
    tasks: Tasks,
}

/// Numbers in datagrams, one way. Ends when it is dropped.
#[derive(Debug)]
pub struct UdpCounter {
    count: Arc<Mutex<UdpCount>>,
    tasks: Tasks,
}

/// The sending and the receiving task of a counter.
#[derive(Debug)]
struct Tasks {
    stop: watch::Sender<bool>,
    handles: [AbortHandle; 2],
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.handles.iter().for_each(AbortHandle::abort);
    }
}

impl TcpCounter {
    pub(crate) fn start(
        runtime: &Handle,
        from: &Namespace,
        target: IpAddr,
        per_second: u32,
        cookie: &Cookie,
    ) -> Result<Self> {
        let address = SocketAddr::new(target, ECHO_PORT);
        let socket = from.run(|| Socket::new(Domain::for_address(address), Type::STREAM, None))?;
        socket
            .connect_timeout(&address.into(), DEADLINE)
            .with_context(|| format!("connecting {} to {address}", from.name()))?;
        socket.set_nonblocking(true)?;
        let _inside = runtime.enter();
        let stream = TcpStream::from_std(socket.into())?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let count = Arc::new(Mutex::new(TcpCount::default()));
        let (stop, stopped) = watch::channel(false);
        let sender = runtime.spawn({
            let (count, cookie) = (Arc::clone(&count), cookie.clone());
            async move {
                let sent = send_tcp(writer, per_second, cookie, &count, stopped).await;
                note_break(&count, sent);
            }
        });
        let receiver = runtime.spawn({
            let count = Arc::clone(&count);
            async move {
                let received = receive_tcp(reader, &count).await;
                note_break(&count, received);
            }
        });
        let handles = [sender.abort_handle(), receiver.abort_handle()];
        Ok(Self {
            count,
            tasks: Tasks { stop, handles },
        })
    }

    /// What was counted up to now.
    #[must_use]
    pub fn count(&self) -> TcpCount {
        lock(&self.count).clone()
    }

    /// Waits until this many more messages have come back.
    ///
    /// # Errors
    /// At the deadline, or when the connection broke.
    pub fn wait_for_more(&self, messages: u64, deadline: Duration) -> Result<()> {
        let goal = self.count().echoed + messages;
        until(deadline, &format!("{messages} more messages"), || {
            let count = self.count();
            ensure!(count.echoed >= goal, "{count:?}");
            Ok(())
        })
    }

    /// Stops sending, waits for what is under way, and returns the final count.
    ///
    /// # Errors
    /// When messages do not come back within a minute though the connection is there.
    pub fn stop(self) -> Result<TcpCount> {
        self.tasks.stop.send_replace(true);
        until(DEADLINE, "the last messages to come back", || {
            let count = self.count();
            let drained = count.echoed + count.out_of_turn >= count.sent;
            ensure!(drained || count.broken.is_some(), "{count:?}");
            // Sending has ended once its task is gone; a number could still be on its way.
            ensure!(self.tasks.handles[0].is_finished(), "it still sends");
            Ok(count)
        })
    }
}

impl UdpCounter {
    pub(crate) fn start(
        runtime: &Handle,
        from: &Namespace,
        to: &Namespace,
        target: IpAddr,
        per_second: u32,
        cookie: &Cookie,
    ) -> Result<Self> {
        let bind = |address| -> io::Result<Socket> {
            let address = SocketAddr::new(address, 0);
            let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
            // Room for what comes while the receiver waits for a processor.
            socket.set_recv_buffer_size(8 << 20)?;
            socket.bind(&address.into())?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let receiver = to
            .run(|| bind(target))
            .with_context(|| format!("binding {target}"))?;
        let address = receiver.local_addr()?;
        let sender = from.run(|| {
            let socket = bind(address::unspecified(target))?;
            socket.connect(&address)?;
            io::Result::Ok(socket)
        })?;
        let _inside = runtime.enter();
        let (sender, receiver) = (
            UdpSocket::from_std(sender.into())?,
            UdpSocket::from_std(receiver.into())?,
        );
        let count = Arc::new(Mutex::new(UdpCount::default()));
        let (stop, stopped) = watch::channel(false);
        let sending = runtime.spawn({
            let (count, cookie) = (Arc::clone(&count), cookie.clone());
            async move { send_udp(sender, per_second, cookie, &count, stopped).await }
        });
        let receiving = runtime.spawn({
            let count = Arc::clone(&count);
            async move { receive_udp(receiver, &count).await }
        });
        let handles = [sending.abort_handle(), receiving.abort_handle()];
        Ok(Self {
            count,
            tasks: Tasks { stop, handles },
        })
    }

    /// What was counted up to now.
    #[must_use]
    pub fn count(&self) -> UdpCount {
        lock(&self.count).clone()
    }

    /// Waits until this many more messages have arrived.
    ///
    /// # Errors
    /// At the deadline.
    pub fn wait_for_more(&self, messages: u64, deadline: Duration) -> Result<()> {
        Self::wait_for_more_of_each(&[self], messages, deadline)
    }

    /// Waits until this many more messages have arrived of each from now on.
    ///
    /// # Errors
    /// At the deadline, with the place of the first that lacks some.
    pub fn wait_for_more_of_each(
        counters: &[&Self],
        messages: u64,
        deadline: Duration,
    ) -> Result<()> {
        let goal = |counter: &&Self| counter.count().received + messages;
        let goals: Vec<u64> = counters.iter().map(goal).collect();
        until(deadline, &format!("{messages} more messages"), || {
            for (place, (counter, goal)) in counters.iter().zip(&goals).enumerate() {
                let count = counter.count();
                ensure!(count.received >= *goal, "counter {place}: {count:?}");
            }
            Ok(())
        })
    }

    /// Stops sending, waits until all have arrived or none has for a second, and returns the
    /// final count.
    ///
    /// # Errors
    /// When the sending task does not end.
    pub fn stop(self) -> Result<UdpCount> {
        self.tasks.stop.send_replace(true);
        until(DEADLINE, "the sender's end", || {
            ensure!(self.tasks.handles[0].is_finished(), "it still sends");
            Ok(())
        })?;
        let (mut last, mut since) = (self.count().received, Instant::now());
        until(DEADLINE, "the last messages", || {
            let count = self.count();
            if count.received != last {
                (last, since) = (count.received, Instant::now());
            }
            ensure!(
                count.received == count.sent || since.elapsed() >= QUIET,
                "{count:?}"
            );
            Ok(count)
        })
    }
}

/// Calls for each number as it becomes due, until it is stopped.
struct Pace {
    per_second: u32,
    start: Instant,
    next: u64,
    ticks: tokio::time::Interval,
    stopped: watch::Receiver<bool>,
}

impl Pace {
    fn new(per_second: u32, stopped: watch::Receiver<bool>) -> Self {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Self {
            per_second,
            start: Instant::now(),
            next: 0,
            ticks,
            stopped,
        }
    }

    /// The numbers that are due now; `None` after the stop.
    async fn due(&mut self) -> Option<std::ops::Range<u64>> {
        loop {
            self.ticks.tick().await;
            if *self.stopped.borrow() {
                return None;
            }
            let due = self.start.elapsed().as_micros() * u128::from(self.per_second) / 1_000_000;
            let due = u64::try_from(due).unwrap_or(u64::MAX);
            if due > self.next {
                let numbers = self.next..due;
                self.next = due;
                return Some(numbers);
            }
        }
    }
}

fn message(number: u64, cookie: &Cookie) -> Vec<u8> {
    let mut message = number.to_be_bytes().to_vec();
    message.resize(HEADER_BYTES, 0);
    message.extend(cookie.payload(number, MESSAGE_BYTES - HEADER_BYTES));
    message
}

async fn send_tcp(
    mut writer: OwnedWriteHalf,
    per_second: u32,
    cookie: Cookie,
    count: &Mutex<TcpCount>,
    stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    let length = u32::try_from(MESSAGE_BYTES)
        .map_err(io::Error::other)?
        .to_be_bytes();
    let mut stop = stopped.clone();
    let mut pace = Pace::new(per_second, stopped);
    while let Some(numbers) = pace.due().await {
        for number in numbers {
            // Counted first: its answer must not come before it.
            lock(count).sent += 1;
            let message = [&length[..], &message(number, &cookie)].concat();
            tokio::select! {
                // A write that stands still, with the path down, must not outlive the stop; the
                // half message is then followed by nothing.
                written = writer.write_all(&message) => written?,
                _ = wait_stop(&mut stop) => {
                    lock(count).sent -= 1;
                    break;
                }
            }
        }
    }
    // Held open until the answers are in: the receiver's end of it ends the connection.
    writer.forget();
    Ok(())
}

async fn wait_stop(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn receive_tcp(mut reader: OwnedReadHalf, count: &Mutex<TcpCount>) -> io::Result<()> {
    let mut answer = vec![0; 4 + MESSAGE_BYTES];
    let mut last = Instant::now();
    loop {
        reader.read_exact(&mut answer).await?;
        let mut count = lock(count);
        count.longest_gap = count.longest_gap.max(last.elapsed());
        last = Instant::now();
        if echo::number(&answer[4..]) == Some(count.echoed) {
            count.echoed += 1;
        } else {
            count.out_of_turn += 1;
        }
    }
}

fn note_break(count: &Mutex<TcpCount>, outcome: io::Result<()>) {
    if let Err(error) = outcome {
        lock(count).broken.get_or_insert_with(|| error.to_string());
    }
}

async fn send_udp(
    socket: UdpSocket,
    per_second: u32,
    cookie: Cookie,
    count: &Mutex<UdpCount>,
    stopped: watch::Receiver<bool>,
) {
    let mut pace = Pace::new(per_second, stopped);
    while let Some(numbers) = pace.due().await {
        for number in numbers {
            lock(count).sent += 1;
            // A full queue is waited for; anything longer than a second counts as refused.
            let sent = timeout(QUIET, socket.send(&message(number, &cookie))).await;
            if !matches!(sent, Ok(Ok(_))) {
                lock(count).refused += 1;
            }
        }
    }
}

async fn receive_udp(socket: UdpSocket, count: &Mutex<UdpCount>) {
    let mut datagram = vec![0; 2 * MESSAGE_BYTES];
    let mut seen = Seen::default();
    let mut last = Instant::now();
    loop {
        let Ok(length) = socket.recv(&mut datagram).await else {
            continue;
        };
        let Some(number) = echo::number(&datagram[..length]) else {
            continue;
        };
        let mut count = lock(count);
        count.longest_gap = count.longest_gap.max(last.elapsed());
        last = Instant::now();
        let late = number + 1 < seen.next;
        if !seen.insert(number) {
            count.repeated += 1;
            continue;
        }
        count.received += 1;
        if late {
            count.reordered += 1;
        }
    }
}

/// Which numbers have arrived: those below `next`, but for the missing ones.
#[derive(Debug, Default)]
struct Seen {
    next: u64,
    missing: BTreeSet<u64>,
}

impl Seen {
    /// False when it was there.
    fn insert(&mut self, number: u64) -> bool {
        if number < self.next {
            return self.missing.remove(&number);
        }
        self.missing.extend(self.next..number);
        self.next = number + 1;
        true
    }
}

fn lock<T>(count: &Mutex<T>) -> MutexGuard<'_, T> {
    count.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_new_once_in_any_order() {
        let mut seen = Seen::default();
        for number in [0, 3, 1, 2, 7] {
            assert!(seen.insert(number), "{number}");
        }
        for number in [0, 1, 3, 7] {
            assert!(!seen.insert(number), "{number}");
        }
        assert!(seen.missing.contains(&5));
    }
}
