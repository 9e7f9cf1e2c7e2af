//! Takes one sample: one measure of one implementation in one round.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use podwire_testbed::{IpVersion, Iperf, IperfDirection, Testbed};

use crate::contestant::Contestant;
use crate::load::bulk::Bulk;
use crate::load::connections;
use crate::load::datagrams::{Count, Datagrams, Receiver};
use crate::load::round_trips::{Answerer, QUESTION_BYTES};
use crate::measure::{Direction, Measure};
use crate::rate_search::RateSearch;
use crate::sample::{Costs, Percentiles};
use crate::window::Window;

/// Loss up to which a rate of datagrams counts as carried.
const LOSS_MAX: f64 = 0.001;

/// Length of one try of a rate.
const TRY: Duration = Duration::from_millis(400);

/// Share of a rate that may still be on its way when its last packet is sent: what a healthy path
/// holds, and no more.
const BEHIND_MAX: f64 = 0.02;

/// Of a rate that was wanted, so much has to have been sent and to arrive.
const FULL_MIN: f64 = 0.9;

/// Length of a window of round trips: a 99th percentile takes thousands of them.
const ROUND_TRIPS_IDLE: Duration = Duration::from_secs(1);
const ROUND_TRIPS_LOADED: Duration = Duration::from_secs(2);

/// Length of a window of connections.
const CONNECTIONS: Duration = Duration::from_secs(1);

/// Headers of the least that opens and ends a connection: three segments and a reset.
const CONNECTION_BYTES: u64 = 4 * 40;

/// A stream has found its speed by then.
const WARM_UP: Duration = Duration::from_millis(500);

/// How samples are taken.
#[derive(Debug, Clone)]
pub(crate) struct Method {
    /// Seconds of an iperf3 run.
    pub(crate) seconds: u32,
    /// TCP congestion control.
    pub(crate) congestion: String,
}

/// A value and what it cost.
#[derive(Debug, Clone)]
pub(crate) struct Taken {
    pub(crate) value: f64,
    pub(crate) percentiles: Option<Percentiles>,
    /// Bytes of payload that came through the implementation at least, all tries together.
    pub(crate) carried_bytes: u64,
    pub(crate) costs: Costs,
}

impl Method {
    /// Takes it.
    ///
    /// # Errors
    /// What hindered it, or that the traffic did not go through the implementation.
    ///
    /// `near` is what an earlier round has found: a search begins there.
    pub(crate) fn take(
        &self,
        contestant: &Contestant,
        measure: Measure,
        near: Option<f64>,
    ) -> Result<Taken> {
        let before = contestant.carried_bytes()?;
        let taken = match measure {
            Measure::Tcp { streams, direction } => self.tcp(contestant, streams, direction),
            Measure::Udp { bytes, trains } => {
                datagrams(contestant, Datagrams { bytes, trains }, near)
            }
            Measure::RttIdle => round_trips(contestant, None),
            Measure::RttLoaded => round_trips(contestant, Some(&self.congestion)),
            Measure::Connect => connect(contestant),
            Measure::Many { nodes } => many(contestant, nodes, self),
            Measure::Start => bail!("a start is taken by whoever starts it"),
        }?;
        contestant.check_carried(before, taken.carried_bytes)?;
        Ok(taken)
    }

    fn tcp(&self, contestant: &Contestant, streams: u32, direction: Direction) -> Result<Taken> {
        let direction = match direction {
            Direction::Forward => IperfDirection::Forward,
            Direction::Reverse => IperfDirection::Reverse,
            Direction::Both => IperfDirection::Both,
        };
        let processes = contestant.processes()?;
        let window = Window::begin(&processes)?;
        let found = Iperf::new(contestant.pod(1), contestant.pod(2))
            .seconds(self.seconds)
            .streams(streams)
            .direction(direction)
            .congestion(&self.congestion)
            .run()?;
        let costs = Costs {
            bytes: found.bytes,
            retransmits: found.retransmits,
            ..window.end()?
        };
        Ok(Taken {
            value: found.gbits_per_second,
            percentiles: None,
            carried_bytes: found.bytes,
            costs,
        })
    }
}

fn address(contestant: &Contestant, node: u8) -> Result<IpAddr> {
    contestant.pod(node).address(IpVersion::V4)
}

/// The highest rate of which at most [`LOSS_MAX`] is lost and [`BEHIND_MAX`] is behind. `near` is
/// what an earlier round has found.
fn datagrams(contestant: &Contestant, datagrams: Datagrams, near: Option<f64>) -> Result<Taken> {
    let receiver = Receiver::start(contestant.pod(2), address(contestant, 2)?)?;
    let processes = contestant.processes()?;
    let mut best: Option<(Count, Costs)> = None;
    let (mut search, mut carried_bytes) = (RateSearch::new(near), 0);
    let (mut failed, mut not_sent) = (0, 0);
    while let Some(rate) = search.next() {
        let window = Window::begin(&processes)?;
        let count = receiver.measure(contestant.pod(1), datagrams, rate, TRY)?;
        let costs = Costs {
            bytes: count.received * datagrams.bytes as u64,
            packets: count.received,
            ..window.end()?
        };
        carried_bytes += costs.bytes;
        // The generator's own limit is one, too.
        let is_full = rate * FULL_MIN <= count.rate();
        let has_arrived = count.loss() <= LOSS_MAX && count.behind() <= BEHIND_MAX;
        let is_carried = is_full && has_arrived;
        if is_carried {
            best = Some((count, costs));
        } else {
            failed += 1;
            not_sent += u32::from(has_arrived);
        }
        search.tried(is_carried);
    }
    let (count, mut costs) = best.context("no rate of datagrams is carried without loss")?;
    // What was too much was so for the generator more often than for the path.
    costs.is_generators_limit = not_sent * 2 > failed;
    Ok(Taken {
        value: count.rate(),
        percentiles: None,
        carried_bytes,
        costs,
    })
}

fn round_trips(contestant: &Contestant, loaded: Option<&str>) -> Result<Taken> {
    let answerer = Answerer::start(contestant.pod(2), address(contestant, 2)?)?;
    let from = contestant.pod(1);
    let (stream, duration) = match loaded {
        None => (None, ROUND_TRIPS_IDLE),
        Some(congestion) => {
            let target = address(contestant, 2)?;
            let bulk = Bulk::start(&[from], contestant.pod(2), target, congestion)?;
            thread::sleep(WARM_UP);
            (Some(bulk), ROUND_TRIPS_LOADED)
        }
    };
    let processes = contestant.processes()?;
    let window = Window::begin(&processes)?;
    let before = stream.as_ref().map_or(0, Bulk::received);
    let found = answerer.measure(from, duration)?;
    let bytes = stream.as_ref().map_or(0, Bulk::received) - before;
    let costs = Costs {
        bytes,
        ..window.end()?
    };
    Ok(Taken {
        value: if loaded.is_some() {
            found.p99
        } else {
            found.p50
        },
        // There and back.
        carried_bytes: bytes + 2 * found.answers * QUESTION_BYTES as u64,
        percentiles: Some(found),
        costs,
    })
}

fn connect(contestant: &Contestant) -> Result<Taken> {
    let processes = contestant.processes()?;
    let window = Window::begin(&processes)?;
    let target = address(contestant, 2)?;
    let found = connections::measure(contestant.pod(1), contestant.pod(2), target, CONNECTIONS)?;
    #[expect(clippy::cast_precision_loss, reason = "a count of a second")]
    let value = found.opened as f64 / found.seconds;
    Ok(Taken {
        value,
        percentiles: None,
        carried_bytes: found.opened * CONNECTION_BYTES,
        costs: window.end()?,
    })
}

/// So many nodes of the mesh send to node 1; others are idle.
fn many(contestant: &Contestant, nodes: u8, method: &Method) -> Result<Taken> {
    let bed: &Testbed = &contestant.bed;
    let senders: Vec<_> = bed
        .nodes()
        .iter()
        .skip(1)
        .take(usize::from(nodes))
        .map(|node| node.pod(1).host())
        .collect();
    let processes = contestant.processes()?;
    let target = address(contestant, 1)?;
    let bulk = Bulk::start(&senders, contestant.pod(1), target, &method.congestion)?;
    thread::sleep(WARM_UP);
    let window = Window::begin(&processes)?;
    let (start, before) = (Instant::now(), bulk.received());
    thread::sleep(Duration::from_secs(u64::from(method.seconds)));
    let (bytes, elapsed) = (bulk.received() - before, start.elapsed());
    let costs = Costs {
        bytes,
        ..window.end()?
    };
    #[expect(clippy::cast_precision_loss, reason = "a rate of gigabits")]
    let value = bytes as f64 * 8.0 / elapsed.as_secs_f64() / 1e9;
    Ok(Taken {
        value,
        percentiles: None,
        carried_bytes: bytes,
        costs,
    })
}
