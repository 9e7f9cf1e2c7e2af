//! What a TCP stream at full speed loses to what happens beside it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use podwire_testbed::agent_view::{status, wait_peers};
use podwire_testbed::suite::Context;
use podwire_testbed::{
    Attack, Family, Flood, FloodPlan, Impairment, IpVersion, Iperf, PaperNode, Testbed, Topology,
    until,
};

use crate::measure::{AtMost, Measure};

pub(crate) const MEASURES: &[Measure] = &[
    Measure {
        name: "reconciling_a_thousand_peers_each_second_costs_a_stream_less_than_5_percent",
        promise: "a stream beside two agents that reconcile 1,000 peers once a second: loss of speed",
        bound: AtMost(5.0),
        unit: "%",
        samples: reconciling,
    },
    Measure {
        name: "a_flooded_peer_that_is_gone_costs_another_pairs_stream_less_than_10_percent",
        promise: "a stream beside 10,000 full packets a second to a peer that is gone: loss of speed",
        bound: AtMost(10.0),
        unit: "%",
        samples: flooded,
    },
];

/// Nodes beside the two that exchange traffic.
const PEERS: u32 = 1_000;

/// Rounds of a run without and a run with, of which the median counts: one run differs from the
/// next by some percent.
const ROUNDS: usize = 9;

/// Of each run.
const SECONDS: u32 = 3;

/// Reading a thousand records and making a thousand routes.
const PEERS_DEADLINE: Duration = Duration::from_secs(120);

/// Full packets a second to the peer that is gone.
const FLOOD_RATE: u32 = 10_000;

/// What of it must have been sent for a run to count, in percent.
const FLOOD_MIN: u64 = 90;

/// Inner bytes of a full packet.
const PACKET_BYTES: usize = 1_400;

/// The port that nobody reads.
const DISCARD: u16 = 9;

/// What one TCP stream from a pod of node 1 to one of node 2 carries, in Gbit/s.
fn stream(bed: &Testbed) -> Result<f64> {
    let (from, to) = (bed.pod(1, 1).host(), bed.pod(2, 1).host());
    let result = Iperf::new(from, to).seconds(SECONDS).run()?;
    Ok(result.gbits_per_second)
}

/// The median loss in percent of runs beside something, each to the run without it before or after.
fn median_loss(bed: &Testbed, beside: impl Fn() -> Result<f64>) -> Result<f64> {
    let mut losses = (0..ROUNDS)
        .map(|round| {
            // A machine that grows slower or faster favours neither.
            let (without, with) = if round % 2 == 0 {
                let without = stream(bed)?;
                (without, beside()?)
            } else {
                let with = beside()?;
                (stream(bed)?, with)
            };
            Ok((1.0 - with / without) * 100.0)
        })
        .collect::<Result<Vec<f64>>>()?;
    losses.sort_by(f64::total_cmp);
    Ok(losses[ROUNDS / 2])
}

fn reconciling(context: &Context) -> Result<Vec<f64>> {
    let topology = Topology::new()
        .nodes(2)
        .pods_per_node(1)
        .family(Family::V4)
        .agent_arguments(&["--cluster-cidr", PaperNode::CLUSTER_CIDR]);
    let bed = context.testbed(&topology)?;
    let nodes: Vec<_> = (0..PEERS).map(PaperNode::new).collect();
    for node in &nodes {
        node.join(bed.directory())?;
    }
    bed.start_agents()?;
    let expected = nodes.len() + 1;
    until(PEERS_DEADLINE, "all peers", || {
        for node in bed.nodes() {
            let peers = status(node)?.peers;
            ensure!(peers.encrypted == expected, "{peers:?}");
        }
        Ok(())
    })?;
    bed.capture().search_payloads(false)?;
    // The first session.
    stream(&bed)?;
    let changes = || Ok::<_, anyhow::Error>(status(bed.node(1))?.reconcile.peer_changes);
    let before = changes()?;
    let changed = Arc::new(Mutex::new(PaperNode::new(PEERS / 2)));
    let loss = median_loss(&bed, || {
        let _changing = Changing::start(&bed, &changed);
        stream(&bed)
    })?;
    let (seen, asked) = (changes()? - before, ROUNDS as u64 * u64::from(SECONDS));
    ensure!(seen >= asked, "only {seen} of {asked} changes arrived");
    Ok(vec![loss])
}

/// One of the peers changes its key each second, until this value is dropped.
struct Changing {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<Result<()>>>,
}

impl Changing {
    fn start(bed: &Arc<Testbed>, node: &Arc<Mutex<PaperNode>>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (bed, node, stopped) = (Arc::clone(bed), Arc::clone(node), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            // A key generation never goes back, in no run.
            let mut node = node.lock().unwrap_or_else(PoisonError::into_inner);
            while !stopped.load(Ordering::Relaxed) {
                node.rotate(bed.directory())?;
                thread::park_timeout(Duration::from_secs(1));
            }
            Ok(())
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn flooded(context: &Context) -> Result<Vec<f64>> {
    // One lane: with more, the stream might use another one than the flood.
    let topology = Topology::new()
        .nodes(3)
        .pods_per_node(2)
        .agent_arguments(&["--lanes", "1"]);
    let bed = context.testbed(&topology)?;
    bed.start_agents()?;
    wait_peers(&bed)?;
    bed.capture().search_payloads(false)?;
    stream(&bed)?;
    // With a session: what is sent to it is sealed, and nothing says that it is gone.
    bed.impair(&Impairment::blackhole().to(3))?;
    let plan = FloodPlan {
        sources: Vec::new(),
        target: SocketAddr::new(bed.pod(3, 2).host().address(IpVersion::V4)?, DISCARD),
        per_second: FLOOD_RATE,
        attack: Attack::Payload(vec![0x5a; PACKET_BYTES]),
    };
    let loss = median_loss(&bed, || {
        let flood = Flood::start(bed.pod(1, 2).host().namespace(), &plan)?;
        let speed = stream(&bed)?;
        let sent = flood.stop().per_second();
        ensure!(
            sent * 100 >= u64::from(FLOOD_RATE) * FLOOD_MIN,
            "only {sent} of {FLOOD_RATE} a second were sent; is the machine busy?"
        );
        Ok(speed)
    })?;
    Ok(vec![loss])
}
