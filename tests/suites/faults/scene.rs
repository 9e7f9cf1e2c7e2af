//! Two nodes of two pods each, and traffic between them that no fault stops.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, wait_peers};
use podwire_testbed::suite::Context;
use podwire_testbed::{
    CaptureReport, Host, ImpairmentId, Node, Protocol, Sender, Testbed, Topology, matrix, until,
};

/// Rounds a second of each sender: two addresses each.
const RATE: u32 = 100;

/// Rounds of every sender that a fault is held for: 0.4 s of datagrams, and four connections.
const HELD_ROUNDS: u64 = 40;

/// One answer over a healthy path takes a millisecond; a mesh that heals is asked again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Who sends. Faults are made on node 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Site {
    /// A pod of node 1, to one of node 2.
    PodHere,
    /// Node 1 itself, to a pod of node 2.
    NodeHere,
    /// A pod of node 2, to one of node 1.
    PodThere,
    /// Node 2 itself, to a pod of node 1.
    NodeThere,
}

impl Site {
    pub(crate) const ALL: [Self; 4] = [
        Self::PodHere,
        Self::NodeHere,
        Self::PodThere,
        Self::NodeThere,
    ];

    pub(crate) fn host(self, bed: &Testbed) -> &Host {
        match self {
            Self::PodHere => bed.pod(1, 1).host(),
            Self::NodeHere => bed.node(1).host(),
            Self::PodThere => bed.pod(2, 1).host(),
            Self::NodeThere => bed.node(2).host(),
        }
    }

    /// Who asks there what a sender sees: not the sender, to which the kernel sends but one ICMP
    /// error a second, whatever it sends.
    pub(crate) fn bystander(self, bed: &Testbed) -> &Host {
        match self {
            Self::PodHere => bed.pod(1, 2).host(),
            Self::PodThere => bed.pod(2, 2).host(),
            Self::NodeHere | Self::NodeThere => self.host(bed),
        }
    }

    /// The addresses of the pod that it sends to.
    pub(crate) fn targets(self, bed: &Testbed) -> Vec<IpAddr> {
        match self {
            Self::PodHere | Self::NodeHere => bed.pod(2, 1).addresses(),
            Self::PodThere | Self::NodeThere => bed.pod(1, 1).addresses(),
        }
    }
}

/// The testbed, its senders and what is broken in it.
pub(crate) struct Scene {
    pub(crate) bed: Arc<Testbed>,
    senders: Mutex<BTreeMap<Site, Sender>>,
    pub(crate) blocked: Mutex<Vec<ImpairmentId>>,
}

impl Scene {
    /// A whole mesh with all its senders.
    pub(crate) fn new(context: &Context) -> Result<Self> {
        let topology = Topology::new()
            .nodes(2)
            .pods_per_node(2)
            .agent_arguments(&["--lanes", "2"]);
        let bed = context.mesh(&topology)?;
        wait_peers(&bed)?;
        let scene = Self {
            bed,
            senders: Mutex::default(),
            blocked: Mutex::default(),
        };
        scene.bed.nodes().iter().try_for_each(more_errors)?;
        scene.whole()?;
        scene.send_from_all()?;
        Ok(scene)
    }

    pub(crate) fn node(&self) -> &Node {
        self.bed.node(1)
    }

    pub(crate) fn has_pods(&self) -> Result<bool> {
        let links = self.node().namespace().output("ip", &["-br", "link"], "")?;
        Ok(links.contains("cni0"))
    }

    /// Starts to send from a site, unless it does.
    pub(crate) fn send_from(&self, site: Site) -> Result<()> {
        let mut senders = self.senders();
        if let Entry::Vacant(place) = senders.entry(site) {
            let (from, to) = (site.host(&self.bed), site.targets(&self.bed));
            let protocols = [Protocol::Udp, Protocol::Tcp];
            place.insert(self.bed.sender(from, &to, &protocols, RATE)?);
        }
        Ok(())
    }

    pub(crate) fn send_from_all(&self) -> Result<()> {
        Site::ALL.iter().try_for_each(|site| self.send_from(*site))
    }

    /// What sent from there has ended, with its host or because its network is to go.
    pub(crate) fn stop_sending_from(&self, sites: &[Site]) {
        let mut senders = self.senders();
        sites.iter().for_each(|site| drop(senders.remove(site)));
    }

    /// Lets every sender send on for a while, and proves that it did.
    pub(crate) fn hold(&self) -> Result<()> {
        let senders = self.senders();
        ensure!(senders.len() >= 2, "only {senders:?} send");
        let before: Vec<u64> = senders.values().map(Sender::attempts).collect();
        // All at the same time.
        let goals: Vec<u64> = senders
            .values()
            .map(|sender| sender.rounds() + HELD_ROUNDS)
            .collect();
        for (sender, goal) in senders.values().zip(goals) {
            sender.wait_for(goal, CONVERGENCE)?;
        }
        for (sender, before) in senders.values().zip(before) {
            // Two addresses: what was tried is at least a datagram to each in every round.
            ensure!(
                sender.attempts() - before >= 2 * HELD_ROUNDS,
                "{sender:?} sent too little"
            );
        }
        Ok(())
    }

    /// Waits until every pod reaches the other over every protocol and version.
    pub(crate) fn whole(&self) -> Result<()> {
        until(CONVERGENCE, "everything to be reachable", || {
            let matrix = self.bed.matrix().timeout(ANSWER_TIMEOUT);
            matrix::all_reached(&matrix.run())
        })
    }

    /// What the underlay has carried since the last call.
    pub(crate) fn take_report(&self) -> Result<CaptureReport> {
        self.bed.capture().take_report()
    }

    /// Nothing that was not encrypted has been seen since the last report.
    pub(crate) fn nothing_leaked(&self) -> Result<()> {
        let report = self.take_report()?;
        ensure!(
            report.leaked_frames() == 0,
            "{} frames were not encrypted: {:#?}",
            report.leaked_frames(),
            report.offenders
        );
        Ok(())
    }

    fn senders(&self) -> MutexGuard<'_, BTreeMap<Site, Sender>> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kernel sends one error a second to a host for want of a route, and of all ICMP errors one a
/// second: each such error counts as two. This leaves the first limit, which no setting of a
/// namespace changes.
pub(crate) fn more_errors(node: &Node) -> Result<()> {
    node.namespace()
        .sysctl(&[("ipv4/icmp_ratelimit", "0"), ("ipv6/icmp/ratelimit", "0")])
}
