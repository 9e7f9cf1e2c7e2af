//! Takes one sample: one measure of one implementation in one round.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use podwire_testbed::{IpVersion, Iperf, IperfDirection, Testbed};

use crate::contestant::Contestant;
use crate::load::bulk::Bulk;
use crate::load::connections;
use crate::load::datagrams::{Count, Receiver};
use crate::load::round_trips::Answerer;
use crate::measure::{Direction, Measure};
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

/// Packets a second at which the search begins; above the last the generator is what is measured.
const RATE_FIRST: f64 = 20_000.0;
const RATE_MIN: f64 = 100.0;
const RATE_MAX: f64 = 2_000_000.0;

/// Factor of the search's first steps; and where an earlier round has been near.
const GROWTH: f64 = 2.0;
const GROWTH_NEAR: f64 = 1.15;

/// The search ends when what is carried and what is not are so close.
const RATE_RESOLUTION: f64 = 0.04;

/// Length of a window of round trips, and of connections.
const ROUND_TRIPS: Duration = Duration::from_millis(1500);
const CONNECTIONS: Duration = Duration::from_millis(1500);

/// A stream has found its speed by then.
const WARM_UP: Duration = Duration::from_millis(500);

/// Of what arrived, the implementation's own count must show so much: headers and tags are more,
/// a path around it is nothing.
const CARRIED_MIN: f64 = 0.9;

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
        let before = carried(contestant)?;
        let taken = match measure {
            Measure::Tcp { streams, direction } => self.tcp(contestant, streams, direction),
            Measure::Udp { bytes } => datagrams(contestant, bytes, near),
            Measure::RttIdle => round_trips(contestant, false),
            Measure::RttLoaded => round_trips(contestant, true),
            Measure::Connect => connect(contestant),
            Measure::Many { nodes } => many(contestant, nodes, self.seconds),
            Measure::Start => bail!("a start is taken by whoever starts it"),
        }?;
        let carried = carried(contestant)? - before;
        #[expect(clippy::cast_precision_loss, reason = "a share of gigabytes")]
        let share = carried as f64 / taken.costs.bytes.max(1) as f64;
        ensure!(
            share >= CARRIED_MIN,
            "{} bytes arrived, and {} says that it carried {carried}: the traffic took another way",
            taken.costs.bytes,
            contestant.implementation
        );
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
            costs,
        })
    }
}

/// Bytes that all nodes say they have carried.
fn carried(contestant: &Contestant) -> Result<u64> {
    let nodes = contestant.bed.nodes().iter();
    nodes
        .map(|node| contestant.carried_bytes(node.number()))
        .sum()
}

fn address(contestant: &Contestant, node: u8) -> Result<IpAddr> {
    contestant.pod(node).address(IpVersion::V4)
}

/// The highest rate of which at most [`LOSS_MAX`] is lost and [`BEHIND_MAX`] is behind: faster until
/// it is too much, slower until it is not, then halved between the two. `near` is what an earlier
/// round has found.
fn datagrams(contestant: &Contestant, bytes: usize, near: Option<f64>) -> Result<Taken> {
    let receiver = Receiver::start(contestant.pod(2), address(contestant, 2)?)?;
    let processes = contestant.processes()?;
    let mut best: Option<(Count, Costs)> = None;
    let growth = near.map_or(GROWTH, |_| GROWTH_NEAR);
    let (mut carried, mut too_much) = (0.0, RATE_MAX);
    let mut rate = near.unwrap_or(RATE_FIRST).clamp(RATE_MIN, RATE_MAX);
    loop {
        let window = Window::begin(&processes)?;
        let count = receiver.measure(contestant.pod(1), bytes, rate, TRY)?;
        let costs = Costs {
            bytes: count.received * bytes as u64,
            packets: count.received,
            ..window.end()?
        };
        // The generator's own limit is one, too.
        let is_full = rate * FULL_MIN <= count.rate();
        if is_full && count.loss() <= LOSS_MAX && count.behind() <= BEHIND_MAX {
            carried = rate;
            best = Some((count, costs));
        } else {
            too_much = rate;
        }
        if too_much - carried <= RATE_RESOLUTION * too_much || too_much <= RATE_MIN {
            break;
        }
        rate = if too_much >= RATE_MAX {
            (rate * growth).min(RATE_MAX * (1.0 - RATE_RESOLUTION))
        } else if carried <= 0.0 {
            rate / growth
        } else {
            f64::midpoint(carried, too_much)
        };
    }
    let (count, costs) = best.context("no rate of datagrams is carried without loss")?;
    Ok(Taken {
        value: count.rate(),
        percentiles: None,
        costs,
    })
}

fn round_trips(contestant: &Contestant, loaded: bool) -> Result<Taken> {
    let answerer = Answerer::start(contestant.pod(2), address(contestant, 2)?)?;
    let from = contestant.pod(1);
    let stream = if loaded {
        let bulk = Bulk::start(&[from], contestant.pod(2), address(contestant, 2)?)?;
        thread::sleep(WARM_UP);
        Some(bulk)
    } else {
        None
    };
    let processes = contestant.processes()?;
    let before = stream.as_ref().map_or(0, Bulk::received);
    let window = Window::begin(&processes)?;
    let found = answerer.measure(from, ROUND_TRIPS)?;
    let mut costs = window.end()?;
    costs.bytes = stream.as_ref().map_or(0, Bulk::received) - before;
    Ok(Taken {
        value: if loaded { found.p99 } else { found.p50 },
        percentiles: Some(found),
        costs,
    })
}

fn connect(contestant: &Contestant) -> Result<Taken> {
    let processes = contestant.processes()?;
    let window = Window::begin(&processes)?;
    let target = address(contestant, 2)?;
    let value = connections::measure(contestant.pod(1), contestant.pod(2), target, CONNECTIONS)?;
    Ok(Taken {
        value,
        percentiles: None,
        costs: window.end()?,
    })
}

/// So many nodes of the mesh send to node 1; others are idle.
fn many(contestant: &Contestant, nodes: u8, seconds: u32) -> Result<Taken> {
    let bed: &Testbed = &contestant.bed;
    let senders: Vec<_> = bed
        .nodes()
        .iter()
        .skip(1)
        .take(usize::from(nodes))
        .map(|node| node.pod(1).host())
        .collect();
    let processes = contestant.processes()?;
    let bulk = Bulk::start(&senders, contestant.pod(1), address(contestant, 1)?)?;
    thread::sleep(WARM_UP);
    let before = bulk.received();
    let window = Window::begin(&processes)?;
    let start = Instant::now();
    thread::sleep(Duration::from_secs(u64::from(seconds)));
    let bytes = bulk.received() - before;
    let elapsed = start.elapsed().as_secs_f64();
    let costs = Costs {
        bytes,
        ..window.end()?
    };
    #[expect(clippy::cast_precision_loss, reason = "a rate of gigabits")]
    let value = bytes as f64 * 8.0 / elapsed / 1e9;
    Ok(Taken {
        value,
        percentiles: None,
        costs,
    })
}
