//! Round trips of small datagrams, in microseconds: a question, an answer, the next question.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use podwire_testbed::Host;

use super::Stop;
use crate::sample::Percentiles;

const PORT: u16 = 5302;

/// A question's payload: its number.
const NUMBER_BYTES: usize = 8;

/// What is not answered by then is lost.
const PATIENCE: Duration = Duration::from_millis(200);

/// Between an answer and the next question: questions are far apart on an idle path, as a
/// program's are.
const PAUSE: Duration = Duration::from_micros(500);

/// Microseconds, to three digits, up to ten seconds.
const MOST: u64 = 10_000_000;
const DIGITS: u8 = 3;

/// Answers, in a pod, whatever is asked.
#[derive(Debug)]
pub(crate) struct Answerer {
    target: SocketAddr,
    stop: Stop,
    thread: Option<JoinHandle<()>>,
}

impl Answerer {
    /// Waits at an address of the host.
    pub(crate) fn start(host: &Host, address: IpAddr) -> Result<Self> {
        let target = SocketAddr::new(address, PORT);
        let socket = host
            .namespace()
            .run(|| UdpSocket::bind(target))
            .with_context(|| format!("waiting at {target}"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let stop = Stop::default();
        let thread = thread::Builder::new().name("answerer".to_owned()).spawn({
            let stop = stop.clone();
            move || answer(&socket, &stop)
        })?;
        Ok(Self {
            target,
            stop,
            thread: Some(thread),
        })
    }

    /// Asks it for so long.
    ///
    /// # Errors
    /// When nothing at all is answered.
    pub(crate) fn measure(&self, from: &Host, duration: Duration) -> Result<Percentiles> {
        let socket = from.namespace().run(|| -> Result<UdpSocket> {
            let socket = UdpSocket::bind((super::datagrams::unspecified(self.target), 0))?;
            socket.connect(self.target)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(socket)
        })?;
        ask(&socket, duration)
    }

    /// Asks until the first answer, as often as every millisecond.
    ///
    /// # Errors
    /// When none comes within `deadline`.
    pub(crate) fn first_answer(&self, from: &Host, deadline: Duration) -> Result<()> {
        let socket = from
            .namespace()
            .run(|| UdpSocket::bind((super::datagrams::unspecified(self.target), 0)))?;
        socket.set_read_timeout(Some(Duration::from_millis(1)))?;
        let start = Instant::now();
        while start.elapsed() < deadline {
            // Until there is a way, the kernel says that there is none.
            let _ = socket.send_to(&[0; NUMBER_BYTES], self.target);
            if socket.recv(&mut [0; NUMBER_BYTES]).is_ok() {
                return Ok(());
            }
        }
        anyhow::bail!("nothing was answered within {} s", deadline.as_secs())
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(socket: &UdpSocket, stop: &Stop) {
    let mut buffer = [0; 2048];
    while !stop.is_set() {
        if let Ok((length, asker)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], asker);
        }
    }
}

fn ask(socket: &UdpSocket, duration: Duration) -> Result<Percentiles> {
    let mut times = Histogram::<u64>::new_with_bounds(1, MOST, DIGITS)?;
    let (start, mut number, mut lost) = (Instant::now(), 0_u64, 0_u64);
    while start.elapsed() < duration {
        number += 1;
        let asked = Instant::now();
        let question = number.to_be_bytes();
        let sent = socket.send(&question).is_ok();
        match sent.then(|| answer_to(socket, &question, asked)).flatten() {
            Some(time) => times.saturating_record(u64::try_from(time.as_micros())?.max(1)),
            None => lost += 1,
        }
        thread::sleep(PAUSE);
    }
    ensure!(!times.is_empty(), "none of {lost} questions was answered");
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a round trip")]
    let at = |quantile: f64| times.value_at_quantile(quantile) as f64;
    Ok(Percentiles {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        max: at(1.0),
        answers: times.len(),
        lost,
    })
}

/// The answer to this question: one to an earlier one came late, and counted as lost.
fn answer_to(
    socket: &UdpSocket,
    question: &[u8; NUMBER_BYTES],
    asked: Instant,
) -> Option<Duration> {
    let mut answer = [0; NUMBER_BYTES];
    while asked.elapsed() < PATIENCE {
        match socket.recv(&mut answer) {
            Ok(NUMBER_BYTES) if answer == *question => return Some(asked.elapsed()),
            Ok(_) => {}
            Err(_) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_timed_and_silence_is_lost() {
        let answerer = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        answerer.set_read_timeout(Some(PATIENCE)).expect("set");
        let asker = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        asker
            .connect(answerer.local_addr().expect("bound"))
            .expect("connected");
        asker.set_read_timeout(Some(PATIENCE)).expect("set");
        let stop = Stop::default();
        let thread = thread::spawn({
            let stop = stop.clone();
            move || answer(&answerer, &stop)
        });
        let found = ask(&asker, Duration::from_millis(300)).expect("answers");
        assert!(
            found.answers > 10 && found.p50 >= 1.0 && found.p50 <= found.max,
            "{found:?}"
        );
        stop.set();
        thread.join().expect("ended");
        assert!(
            ask(&asker, Duration::from_millis(1)).is_err(),
            "nobody answers"
        );
    }
}
