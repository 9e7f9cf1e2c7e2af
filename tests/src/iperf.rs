//! iperf3 between two hosts, and the processor time of others meanwhile.

use std::fs;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::address::IpVersion;
use crate::host::Host;
use crate::sandbox::find_program;
use crate::until::until;

const PORT: u16 = 5201;

/// A server that does not listen by then never will.
const LISTEN_DEADLINE: Duration = Duration::from_secs(20);

/// A client exchanges results after its time, over the path that it has just filled.
const END_DEADLINE: Duration = Duration::from_secs(20);

/// Which way the streams send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IperfDirection {
    /// From client to server.
    Forward,
    /// From server to client.
    Reverse,
    /// Both at once, so many streams each.
    Both,
}

/// One TCP measurement. Before it, [`crate::capture::Capture::search_payloads`] should be false.
#[derive(Debug, Clone)]
pub struct Iperf<'a> {
    from: &'a Host,
    to: &'a Host,
    version: IpVersion,
    seconds: u32,
    streams: u32,
    processes: Vec<u32>,
    direction: IperfDirection,
    congestion: Option<String>,
}

/// What it found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IperfResult {
    /// As received, payload only.
    pub gbits_per_second: f64,
    /// Payload bytes received.
    pub bytes: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// Processor time of the given processes, user and system, in seconds.
    pub cpu_seconds: f64,
}

impl IperfResult {
    /// Processor seconds of the given processes for each GiB of payload.
    #[must_use]
    pub fn cpu_seconds_per_gib(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a quotient for people")]
        let gib = self.bytes as f64 / f64::from(1 << 30);
        self.cpu_seconds / gib
    }
}

impl<'a> Iperf<'a> {
    /// From client to server, IPv4, five seconds, one stream.
    #[must_use]
    pub fn new(from: &'a Host, to: &'a Host) -> Self {
        Self {
            from,
            to,
            version: IpVersion::V4,
            seconds: 5,
            streams: 1,
            processes: Vec::new(),
            direction: IperfDirection::Forward,
            congestion: None,
        }
    }

    /// Over this version.
    #[must_use]
    pub fn version(mut self, version: IpVersion) -> Self {
        self.version = version;
        self
    }

    /// For this long.
    #[must_use]
    pub fn seconds(mut self, seconds: u32) -> Self {
        self.seconds = seconds;
        self
    }

    /// In this many connections.
    #[must_use]
    pub fn streams(mut self, streams: u32) -> Self {
        self.streams = streams;
        self
    }

    /// Measures the processor time of these processes, such as the agents'.
    #[must_use]
    pub fn processes(mut self, processes: &[u32]) -> Self {
        self.processes = processes.to_vec();
        self
    }

    /// That way.
    #[must_use]
    pub fn direction(mut self, direction: IperfDirection) -> Self {
        self.direction = direction;
        self
    }

    /// With this TCP congestion control at both ends, in place of the kernel's choice.
    #[must_use]
    pub fn congestion(mut self, algorithm: &str) -> Self {
        self.congestion = Some(algorithm.to_owned());
        self
    }

    /// Runs it.
    ///
    /// # Errors
    /// iperf3's, and when a process ends meanwhile.
    pub fn run(&self) -> Result<IperfResult> {
        let address = self.to.address(self.version)?.to_string();
        let mut server = Server(self.spawn(self.to, &["-s", "-1"])?);
        self.wait_listening()?;
        let before = self.cpu_seconds()?;
        let (seconds, streams) = (self.seconds.to_string(), self.streams.to_string());
        let mut arguments = vec!["-c", &address, "-t", &seconds, "-P", &streams, "-J"];
        arguments.extend(match self.direction {
            IperfDirection::Forward => None,
            IperfDirection::Reverse => Some("--reverse"),
            IperfDirection::Both => Some("--bidir"),
        });
        if let Some(algorithm) = &self.congestion {
            arguments.extend(["-C", algorithm]);
        }
        let client = self.spawn(self.from, &arguments)?;
        let output = self.finish(client)?;
        let cpu_seconds = self.cpu_seconds()? - before;
        let report: serde_json::Value =
            serde_json::from_slice(&output).context("reading iperf3's report")?;
        if let Some(error) = report["error"].as_str() {
            bail!("iperf3 from {} to {address}: {error}", self.from.name());
        }
        server.0.wait()?;
        let end = &report["end"];
        // The second of each pair is there where both ends send.
        let received = [&end["sum_received"], &end["sum_received_bidir_reverse"]];
        let sent = [&end["sum_sent"], &end["sum_sent_bidir_reverse"]];
        let rate = received[0]["bits_per_second"].as_f64().context("no rate")?;
        let rate_back = received[1]["bits_per_second"].as_f64();
        received[0]["bytes"].as_u64().context("no bytes")?;
        let is_both = self.direction == IperfDirection::Both;
        ensure!(rate_back.is_some() == is_both, "one direction in {report}");
        Ok(IperfResult {
            gbits_per_second: (rate + rate_back.unwrap_or(0.0)) / 1e9,
            bytes: received
                .iter()
                .filter_map(|sum| sum["bytes"].as_u64())
                .sum(),
            retransmits: sent
                .iter()
                .filter_map(|sum| sum["retransmits"].as_u64())
                .sum(),
            cpu_seconds,
        })
    }

    /// What a client says. One whose other end is gone waits for a quarter of an hour.
    fn finish(&self, mut client: Child) -> Result<Vec<u8>> {
        let mut pipe = client.stdout.take().context("no output")?;
        let reader = thread::spawn(move || {
            let mut output = Vec::new();
            pipe.read_to_end(&mut output).map(|_| output)
        });
        let deadline = Duration::from_secs(self.seconds.into()) + END_DEADLINE;
        let ended = until(deadline, "iperf3 to end", || {
            let status = client.try_wait()?;
            status.context("it waits for its other end")
        });
        if ended.is_err() {
            client.kill()?;
            client.wait()?;
        }
        let output = reader.join().map_err(|_| anyhow!("no reader"))??;
        ended.map(|_| output)
    }

    fn spawn(&self, host: &Host, arguments: &[&str]) -> Result<Child> {
        let mut command = Command::new(find_program("iperf3").context("iperf3 is not installed")?);
        let version = match self.version {
            IpVersion::V4 => "-4",
            IpVersion::V6 => "-6",
        };
        command
            .args(arguments)
            .args([version, "-p", &PORT.to_string()]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        host.namespace().spawn(command)
    }

    /// A trial connection would be the server's one test.
    fn wait_listening(&self) -> Result<()> {
        let table = match self.version {
            IpVersion::V4 => "/proc/thread-self/net/tcp",
            IpVersion::V6 => "/proc/thread-self/net/tcp6",
        };
        // A local address ending in the port, no remote one, and state 0A: LISTEN.
        let port = format!(":{PORT:04X}");
        until(LISTEN_DEADLINE, "iperf3's server to listen", || {
            let sockets = self.to.namespace().run(|| fs::read_to_string(table))?;
            let listens = sockets.lines().any(|line| {
                let mut fields = line.split_whitespace().skip(1);
                fields.next().is_some_and(|local| local.ends_with(&port))
                    && fields.nth(1) == Some("0A")
            });
            ensure!(listens, "it does not");
            Ok(())
        })
    }

    fn cpu_seconds(&self) -> Result<f64> {
        self.processes
            .iter()
            .map(|process| cpu_seconds(*process))
            .sum()
    }
}

/// Killed with this value, when the client failed.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// User and system time of a process since its start, all threads.
///
/// # Errors
/// When there is no such process.
pub fn cpu_seconds(process: u32) -> Result<f64> {
    let path = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    // proc(5): the name is in parentheses and may contain anything; utime is the 12th after it.
    let (_, rest) = text.rsplit_once(')').context("no name in it")?;
    let ticks: u64 = rest
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse::<u64>)
        .sum::<Result<_, _>>()
        .with_context(|| format!("reading {path}"))?;
    #[expect(clippy::cast_precision_loss, reason = "ticks of a process are few")]
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
