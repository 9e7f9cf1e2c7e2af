//! Datagrams between all nodes' pods while something happens to the mesh, and how long it takes
//! until all of them pass again.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::address::IpVersion;
use crate::counter::{UdpCount, UdpCounter};
use crate::impair::Impairment;
use crate::node::{self, Node};
use crate::testbed::Testbed;
use crate::until::until;

/// Datagrams of each flow that must arrive before it counts as passing: not what was under way.
const FEW: u64 = 3;

/// Whatever is measured here takes seconds; a busy machine is slow.
const DEADLINE: Duration = Duration::from_secs(120);

/// One flow.
#[derive(Debug)]
struct Flow {
    from: u8,
    to: u8,
    version: IpVersion,
    counter: UdpCounter,
}

impl Flow {
    fn stop(self) -> Result<FlowCount> {
        Ok(FlowCount {
            from: self.from,
            to: self.to,
            version: self.version,
            count: self.counter.stop()?,
        })
    }
}

/// What a flow counted from its start to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowCount {
    /// Number of the node that sent.
    pub from: u8,
    /// Number of the node that received.
    pub to: u8,
    /// Of the inner packets.
    pub version: IpVersion,
    /// What was counted.
    pub count: UdpCount,
}

/// A flow from each node's first pod to each other's. It ends when it is dropped.
#[derive(Debug)]
pub struct Traffic<'a> {
    bed: &'a Testbed,
    flows: Vec<Flow>,
}

impl<'a> Traffic<'a> {
    /// Starts all flows of these versions at this rate each.
    ///
    /// # Errors
    /// The kernel's.
    pub fn between_all(bed: &'a Testbed, versions: &[IpVersion], per_second: u32) -> Result<Self> {
        let mut flows = Vec::new();
        let pairs = bed.nodes().iter().flat_map(|from| {
            let others = bed.nodes().iter();
            let others = others.filter(|to| to.number() != from.number());
            others.map(move |to| (from, to))
        });
        for (from, to) in pairs {
            for version in versions {
                let (source, target) = (from.pod(1).host(), to.pod(1).host());
                flows.push(Flow {
                    from: from.number(),
                    to: to.number(),
                    version: *version,
                    counter: bed.udp_counter(source, target, *version, per_second)?,
                });
            }
        }
        ensure!(!flows.is_empty(), "nobody to send to");
        Ok(Self { bed, flows })
    }

    /// Waits until every flow passes, and returns after how long all did.
    ///
    /// # Errors
    /// At the deadline, with the first flow that does not.
    pub fn passes(&self) -> Result<Duration> {
        let start = Instant::now();
        let goals: Vec<_> = self
            .flows
            .iter()
            .map(|flow| flow.counter.count().received + FEW)
            .collect();
        for (flow, goal) in self.flows.iter().zip(goals) {
            let (from, to, version) = (flow.from, flow.to, flow.version);
            let what = format!("{version} from node {from} to node {to}");
            until(DEADLINE, &what, || {
                let count = flow.counter.count();
                ensure!(count.received >= goal, "{count:?}");
                Ok(())
            })?;
        }
        Ok(start.elapsed())
    }

    /// Kills all agents, starts them again, and returns how long after their start all flows
    /// passed.
    ///
    /// # Errors
    /// When an agent cannot be started, or a flow does not pass in time.
    pub fn restart_all(&self) -> Result<Duration> {
        node::on_all(self.bed.nodes(), |node| node.kill_agent().map(drop))?;
        let start = Instant::now();
        node::on_all(self.bed.nodes(), Node::start_agent)?;
        self.passes()?;
        let elapsed = start.elapsed();
        self.bed.nodes().iter().try_for_each(Node::wait_ready)?;
        Ok(elapsed)
    }

    /// Puts an impairment in force for `length`, and returns how long after its end all flows
    /// passed.
    ///
    /// # Errors
    /// nft's, or when a flow does not pass in time.
    pub fn ride_over(&self, impairment: &Impairment, length: Duration) -> Result<Duration> {
        let (start, id) = (Instant::now(), self.bed.impair(impairment)?);
        until(length + DEADLINE, "the end of an outage", || {
            ensure!(start.elapsed() >= length, "it goes on");
            Ok(())
        })?;
        self.bed.heal(id)?;
        self.passes()
            .with_context(|| format!("after {impairment:?} of {length:?}"))
    }

    /// Stops all flows and returns what they counted.
    ///
    /// # Errors
    /// When one does not stop.
    pub fn stop(self) -> Result<Vec<FlowCount>> {
        // Each waits until nothing has come for a second: all at the same time.
        thread::scope(|scope| {
            let stops: Vec<_> = self
                .flows
                .into_iter()
                .map(|flow| scope.spawn(|| flow.stop()))
                .collect();
            stops
                .into_iter()
                .map(|stop| {
                    stop.join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect()
        })
    }
}
