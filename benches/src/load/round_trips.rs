//! Round trips of small datagrams, in microseconds: a question each millisecond.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail, ensure};
use hdrhistogram::Histogram;
use podwire_testbed::Host;

use super::{Stop, UdpService};
use crate::sample::Percentiles;

const PORT: u16 = 5302;

/// A question's payload: when it was asked, in microseconds.
pub(crate) const QUESTION_BYTES: usize = 8;

/// What is not answered by then is lost.
const PATIENCE: Duration = Duration::from_millis(200);

/// Between two questions.
const INTERVAL: Duration = Duration::from_millis(1);

/// How often it is tried whether there is a way.
const TRY_INTERVAL: Duration = Duration::from_micros(200);

/// Microseconds, to three digits, up to ten seconds.
const MOST: u64 = 10_000_000;
const DIGITS: u8 = 3;

/// Answers, in a pod, whatever is asked.
#[derive(Debug)]
pub(crate) struct Answerer(UdpService);

impl Answerer {
    /// Waits at an address of the host.
    pub(crate) fn start(host: &Host, address: IpAddr) -> Result<Self> {
        let service = UdpService::start(host, SocketAddr::new(address, PORT), answer)?;
        Ok(Self(service))
    }

    /// Asks it for so long.
    ///
    /// # Errors
    /// When nothing at all is answered.
    pub(crate) fn measure(&self, from: &Host, duration: Duration) -> Result<Percentiles> {
        let socket = self.0.connect(from)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        ask(&socket, duration)
    }

    /// Asks until the first answer, every fraction of a millisecond.
    ///
    /// # Errors
    /// When none comes within `deadline`.
    pub(crate) fn first_answer(&self, from: &Host, deadline: Duration) -> Result<()> {
        let socket = self.0.socket(from)?;
        // A timeout of the socket's would be as coarse as the kernel's tick.
        socket.set_nonblocking(true)?;
        let start = Instant::now();
        while start.elapsed() < deadline {
            // Until there is a way, the kernel says that there is none.
            let _ = socket.send_to(&[0; QUESTION_BYTES], self.0.target);
            thread::sleep(TRY_INTERVAL);
            if socket.recv(&mut [0; QUESTION_BYTES]).is_ok() {
                return Ok(());
            }
        }
        bail!("nothing was answered within {} s", deadline.as_secs())
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

/// Asks on a schedule, whatever is answered: who waited for each answer would ask less often when
/// the path is slow, and see less of it.
fn ask(socket: &UdpSocket, duration: Duration) -> Result<Percentiles> {
    let start = Instant::now();
    let listener = socket.try_clone()?;
    let listen = thread::Builder::new()
        .name("listener".to_owned())
        .spawn(move || listen(&listener, start, duration + PATIENCE))?;
    let mut asked = 0_u64;
    loop {
        let due = INTERVAL * u32::try_from(asked)?;
        if due >= duration {
            break;
        }
        thread::sleep(due.saturating_sub(start.elapsed()));
        let now = u64::try_from(start.elapsed().as_micros())?;
        // What cannot be sent is not answered, either.
        let _ = socket.send(&now.to_be_bytes());
        asked += 1;
    }
    let mut times = listen
        .join()
        .map_err(|_| anyhow!("the listener failed"))??;
    let answers = times.len();
    ensure!(answers > 0, "none of {asked} questions was answered");
    let lost = asked.saturating_sub(answers);
    // Else a path that loses what is late would look better than one that delivers it.
    times.record_n(u64::try_from(PATIENCE.as_micros())?, lost)?;
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a round trip")]
    let at = |quantile: f64| times.value_at_quantile(quantile) as f64;
    Ok(Percentiles {
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        max: at(1.0),
        answers,
        lost,
    })
}

/// Times of the answers that come within `duration` from `start`, in microseconds: each answer
/// tells when its question was asked.
fn listen(socket: &UdpSocket, start: Instant, duration: Duration) -> Result<Histogram<u64>> {
    let mut times = Histogram::<u64>::new_with_bounds(1, MOST, DIGITS)?;
    let mut answer = [0; QUESTION_BYTES];
    while start.elapsed() < duration {
        if let Ok(QUESTION_BYTES) = socket.recv(&mut answer) {
            let now = u64::try_from(start.elapsed().as_micros())?;
            let time = now.saturating_sub(u64::from_be_bytes(answer)).max(1);
            if u128::from(time) < PATIENCE.as_micros() {
                times.saturating_record(time);
            }
        }
    }
    Ok(times)
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
