//! Every pod to every other pod, over every protocol and version.

use std::fmt;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::address::IpVersion;
use crate::pod::{Pod, PodId};
use crate::probe::{Answer, Protocol};
use crate::testbed::Testbed;

/// Probes that wait at the same time.
const WORKERS: usize = 16;

/// A first datagram may be lost while a session is made.
const DEFAULT_ATTEMPTS: u32 = 3;

/// Failures in a message: a mesh that is down has thousands.
const FAILURES_SHOWN: usize = 10;

/// Questions from every pod to every other pod, made by [`Testbed::matrix`].
pub struct Matrix<'a> {
    testbed: &'a Testbed,
    protocols: Vec<Protocol>,
    versions: Vec<IpVersion>,
    attempts: u32,
    bytes: Option<usize>,
    timeout: Option<Duration>,
    progress: Option<&'a (dyn Fn(usize, usize) + Sync)>,
}

impl fmt::Debug for Matrix<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Matrix")
            .field("protocols", &self.protocols)
            .finish_non_exhaustive()
    }
}

/// One direction of one pair, over one protocol and version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PairResult {
    /// Who asked.
    pub from: PodId,
    /// Who was asked.
    pub to: PodId,
    /// In what.
    pub protocol: Protocol,
    /// Over which version.
    pub version: IpVersion,
    /// How many questions it took.
    pub attempts: u32,
    /// The answer, or why there was none.
    pub outcome: Result<Answer, String>,
}

impl PairResult {
    /// Whether the target answered.
    #[must_use]
    pub fn reached(&self) -> bool {
        self.outcome.is_ok()
    }

    /// Whether it answered and nothing translated the source.
    #[must_use]
    pub fn source_kept(&self) -> bool {
        self.outcome.as_ref().is_ok_and(Answer::source_kept)
    }
}

impl fmt::Display for PairResult {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} > {} {} {}: ",
            self.from, self.to, self.protocol, self.version
        )?;
        match &self.outcome {
            Ok(answer) if answer.source_kept() => formatter.write_str("reached"),
            Ok(answer) => {
                write!(
                    formatter,
                    "source {} seen as {}",
                    answer.source, answer.source_seen
                )
            }
            Err(reason) => formatter.write_str(reason),
        }
    }
}

/// Whether every pair was reached with its source kept.
///
/// # Errors
/// The number of those that were not, and the first few; also when there is no pair at all.
pub fn all_reached(results: &[PairResult]) -> Result<()> {
    let failures: Vec<_> = results
        .iter()
        .filter(|result| !result.source_kept())
        .collect();
    if results.is_empty() {
        bail!("no pair was asked");
    }
    if failures.is_empty() {
        return Ok(());
    }
    let shown: Vec<_> = failures
        .iter()
        .take(FAILURES_SHOWN)
        .map(ToString::to_string)
        .collect();
    bail!(
        "{} of {} pairs failed:\n{}",
        failures.len(),
        results.len(),
        shown.join("\n")
    );
}

impl<'a> Matrix<'a> {
    pub(crate) fn new(testbed: &'a Testbed) -> Self {
        Self {
            testbed,
            protocols: Protocol::ALL.to_vec(),
            versions: vec![IpVersion::V4, IpVersion::V6],
            attempts: DEFAULT_ATTEMPTS,
            bytes: None,
            timeout: None,
            progress: None,
        }
    }

    /// Only these protocols.
    #[must_use]
    pub fn protocols(mut self, protocols: &[Protocol]) -> Self {
        self.protocols = protocols.to_vec();
        self
    }

    /// Only these versions.
    #[must_use]
    pub fn versions(mut self, versions: &[IpVersion]) -> Self {
        self.versions = versions.to_vec();
        self
    }

    /// How often to ask at most; 1 shows every lost packet.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Payload bytes of each question.
    #[must_use]
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// How long to wait for each answer.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Told after each pair: how many are done, of how many.
    #[must_use]
    pub fn progress(mut self, progress: &'a (dyn Fn(usize, usize) + Sync)) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Asks every pod from every other pod, also on the same node.
    #[must_use]
    pub fn run(&self) -> Vec<PairResult> {
        let pods: Vec<&Pod> = self.testbed.pods().collect();
        let mut questions = Vec::new();
        for from in &pods {
            for to in pods.iter().filter(|to| to.id() != from.id()) {
                let addresses = to.addresses().into_iter();
                let is_meant = |it: &IpAddr| self.versions.contains(&IpVersion::of(*it));
                for target in addresses.filter(is_meant) {
                    questions.extend(self.protocols.iter().map(|p| (*from, *to, target, *p)));
                }
            }
        }
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let results = Mutex::new(Vec::with_capacity(questions.len()));
        thread::scope(|scope| {
            for _ in 0..WORKERS.min(questions.len()) {
                scope.spawn(|| {
                    while let Some((from, to, target, protocol)) =
                        questions.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        let result = self.ask(from, to, *target, *protocol);
                        results
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(result);
                        if let Some(progress) = self.progress {
                            progress(done.fetch_add(1, Ordering::Relaxed) + 1, questions.len());
                        }
                    }
                });
            }
        });
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.sort_by_key(|result| (result.from, result.to, result.version, result.protocol));
        results
    }

    fn ask(&self, from: &Pod, to: &Pod, target: IpAddr, protocol: Protocol) -> PairResult {
        let mut probe = self.testbed.probe(from.host(), protocol, target);
        if let Some(bytes) = self.bytes {
            probe = probe.bytes(bytes);
        }
        if let Some(timeout) = self.timeout {
            probe = probe.timeout(timeout);
        }
        let mut attempts = 1;
        let outcome = loop {
            match probe.ask() {
                Ok(answer) => break Ok(answer),
                Err(error) if attempts >= self.attempts => break Err(error.to_string()),
                Err(_) => attempts += 1,
            }
        };
        let version = IpVersion::of(target);
        PairResult {
            from: from.id(),
            to: to.id(),
            protocol,
            version,
            attempts,
            outcome,
        }
    }
}
