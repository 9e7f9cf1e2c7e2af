//! Every pod asks every other one all the time, over both versions: what was answered, and when.
//!
//! One thread and one socket for each pod and version, so that 40 ways cost little; datagrams to
//! the pods' echo servers. Where a pod is, is asked anew at every beat.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Socket, Type};

use crate::address::IpVersion;
use crate::echo::{self, ECHO_PORT, HEADER_BYTES};
use crate::pod::PodId;
use crate::testbed::Testbed;

/// Time between two questions of one way: what a recovery is measured to.
pub const BEAT: Duration = Duration::from_millis(200);

/// A question that is answered later was not answered in time: it waited somewhere for the path.
pub const IN_TIME: Duration = Duration::from_secs(1);

/// Payloads, by turns: one whole cookie, and nearly what a link of 1,500 bytes leaves inside an
/// IPv6 tunnel.
const PAYLOAD_BYTES: [usize; 2] = [96, 1_340];

/// One direction of one pair, over one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// Who asks.
    pub from: PodId,
    /// Who is asked.
    pub to: PodId,
    /// Over which version.
    pub version: IpVersion,
}

/// A question, in times since the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question {
    /// On which way.
    pub way: Way,
    /// When it was asked.
    pub asked: Duration,
    /// When it was answered.
    pub answered: Option<Duration>,
}

impl Question {
    /// Whether it was answered while that could still be called reachable.
    #[must_use]
    pub fn in_time(&self) -> bool {
        self.answered
            .is_some_and(|answered| answered - self.asked <= IN_TIME)
    }
}

/// The questions of a testbed's pods; they end with this value.
#[derive(Debug)]
pub struct Pulse {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    questions: Mutex<Vec<Question>>,
    stop: AtomicBool,
}

impl Pulse {
    /// Starts to ask.
    ///
    /// # Errors
    /// The kernel's.
    pub fn start(bed: &Arc<Testbed>) -> Result<Self> {
        let sockets = bed
            .pods()
            .flat_map(|pod| {
                let versions = bed.topology().family.versions();
                versions.iter().map(move |version| (pod, *version))
            })
            .map(|(pod, version)| {
                let socket = pod.host().namespace().run(|| open(version));
                let socket = socket.with_context(|| format!("opening a socket in {}", pod.id()))?;
                Ok((pod.id(), version, socket))
            })
            .collect::<Result<Vec<_>>>()?;
        let shared = Arc::new(Shared {
            start: Instant::now(),
            questions: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let thread = thread::Builder::new().name("pulse".to_owned()).spawn({
            let (bed, shared) = (Arc::clone(bed), Arc::clone(&shared));
            move || beat(&bed, &sockets, &shared)
        })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// The present, as questions count time.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.shared.start.elapsed()
    }

    /// Every question so far, in the order in which they were asked.
    #[must_use]
    pub fn questions(&self) -> Vec<Question> {
        self.shared.lock().clone()
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Question>> {
        self.questions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long after `since` it took until every question was answered in time, if since then each of
/// `ways` ways was asked and answered for at least `quiet`.
#[must_use]
pub fn recovery(
    questions: &[Question],
    ways: usize,
    since: Duration,
    now: Duration,
    quiet: Duration,
) -> Option<Duration> {
    let settled = now.saturating_sub(IN_TIME);
    let late = questions
        .iter()
        .filter(|question| question.asked >= since && !question.in_time())
        // The youngest may still be answered.
        .filter(|question| question.asked < settled)
        .map(|question| question.asked)
        .max();
    let recovered = late.map_or(since, |asked| asked + BEAT);
    if settled < recovered + quiet {
        return None;
    }
    let alive: BTreeSet<Way> = questions
        .iter()
        .filter(|question| question.asked >= recovered && question.in_time())
        .map(|question| question.way)
        .collect();
    (alive.len() == ways).then(|| recovered - since)
}

type Asker = (PodId, IpVersion, Socket);

/// The thread: asks at every beat, and takes answers in between.
fn beat(bed: &Testbed, sockets: &[Asker], shared: &Shared) {
    let mut due = Instant::now();
    let mut turn = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        if Instant::now() >= due {
            ask(
                bed,
                sockets,
                shared,
                PAYLOAD_BYTES[turn % PAYLOAD_BYTES.len()],
            );
            turn += 1;
            // After a stall it goes on from there.
            due = (due + BEAT).max(Instant::now());
        }
        let left = due.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).ok();
        let mut ready: Vec<_> = sockets
            .iter()
            .map(|(_, _, socket)| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN))
            .collect();
        let _ = poll(&mut ready, timeout.as_ref());
        sockets
            .iter()
            .for_each(|(_, _, socket)| take_answers(socket, shared));
    }
}

fn ask(bed: &Testbed, sockets: &[Asker], shared: &Shared, bytes: usize) {
    for (from, version, socket) in sockets {
        for to in bed.pods().filter(|to| to.id() != *from) {
            // A pod that is between two addresses has none for a moment.
            let Ok(target) = to.host().address(*version) else {
                continue;
            };
            let number = {
                let mut questions = shared.lock();
                questions.push(Question {
                    way: Way {
                        from: *from,
                        to: to.id(),
                        version: *version,
                    },
                    asked: shared.start.elapsed(),
                    answered: None,
                });
                questions.len() as u64 - 1
            };
            let mut payload = number.to_be_bytes().to_vec();
            payload.resize(HEADER_BYTES, 0);
            payload.extend(bed.secret().payload(number, bytes - HEADER_BYTES));
            // Refused, or sent and lost: it counts as asked and not answered.
            let _ = socket.send_to(&payload, &SocketAddr::new(target, ECHO_PORT).into());
        }
    }
}

fn take_answers(socket: &Socket, shared: &Shared) {
    let mut answer = [0; PAYLOAD_BYTES[1]];
    while let Ok(length) = io::Read::read(&mut &*socket, &mut answer) {
        let number = echo::number(&answer[..length]).and_then(|n| usize::try_from(n).ok());
        let now = shared.start.elapsed();
        let mut questions = shared.lock();
        if let Some(question) = number.and_then(|number| questions.get_mut(number)) {
            question.answered.get_or_insert(now);
        }
    }
}

fn open(version: IpVersion) -> io::Result<Socket> {
    let (domain, any) = match version {
        IpVersion::V4 => (Domain::IPV4, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
        IpVersion::V6 => (Domain::IPV6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))),
    };
    let socket = Socket::new(domain, Type::DGRAM, None)?;
    socket.bind(&any.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn way(to: u8) -> Way {
        Way {
            from: PodId { node: 1, pod: 1 },
            to: PodId { node: to, pod: 1 },
            version: IpVersion::V4,
        }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// One question a second on each of two ways; those on the first are not answered in `lost`.
    fn asked(until: u64, lost: std::ops::Range<u64>) -> Vec<Question> {
        (0..until)
            .flat_map(|second| [(second, way(2)), (second, way(3))])
            .map(|(second, of)| Question {
                way: of,
                asked: seconds(second),
                answered: (of != way(2) || !lost.contains(&second)).then(|| seconds(second)),
            })
            .collect()
    }

    #[test]
    fn recovery_ends_with_the_last_question_that_nobody_answered() {
        let questions = asked(20, 3..8);
        let found = recovery(&questions, 2, seconds(5), seconds(20), seconds(3));
        assert_eq!(found, Some(seconds(2) + BEAT));
        let nothing = recovery(&questions, 2, seconds(9), seconds(20), seconds(3));
        assert_eq!(nothing, Some(Duration::ZERO));
    }

    #[test]
    fn nothing_is_recovered_before_it_was_quiet_on_every_way() {
        let questions = asked(20, 3..8);
        let early = recovery(&questions[..22], 2, seconds(5), seconds(11), seconds(3));
        assert_eq!(early, None);
        let third_way = recovery(&questions, 3, seconds(5), seconds(20), seconds(3));
        assert_eq!(third_way, None);
    }

    #[test]
    fn a_late_answer_is_none_and_the_youngest_question_has_time() {
        let mut questions = asked(20, 0..0);
        questions[12].answered = Some(seconds(9));
        let found = recovery(&questions, 2, seconds(5), seconds(20), seconds(3));
        assert_eq!(found, Some(seconds(1) + BEAT));
        let last = questions.len() - 1;
        questions[last].answered = None;
        let found = recovery(&questions, 2, seconds(5), seconds(20), seconds(3));
        assert_eq!(found, Some(seconds(1) + BEAT));
    }
}
