//! The faults, each made on purpose and undone again, in the order in which a node meets them.

use std::fs;
use std::sync::PoisonError;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::CONVERGENCE;
use podwire_testbed::kernel_state::guard_table;
use podwire_testbed::{Impairment, Node, Testbed, until};

use crate::scene::{Scene, Site, more_errors};

/// Metric of a foreign route that is better than every route of Podwire.
const BETTER_METRIC: u32 = 10;

/// UDP ports of the two lanes that every agent here has.
const LANE_PORTS: [u16; 2] = [51880, 51881];

/// What can go wrong. Where two are made together, the earlier one here is made first: what
/// surrounds the node, then its boot, then what is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Node 2's record has lost its keys, and node 2's agent is not there to put them back.
    KeyRemoved,
    /// Node 2's record cannot be read any more: somebody put something else in its place.
    RecordRemoved,
    /// WireGuard's ports are blocked from before any session.
    HandshakeImpossible,
    /// Node 2's Node is deleted while its pod still gets traffic.
    NodeDeleted,
    /// Node 1 boots; its agent starts, and its pods once that is ready.
    Reboot,
    /// Somebody routes node 2's pods over the underlay, with a better metric.
    BetterRoute,
    /// Somebody routes each half of node 2's pods over the underlay.
    LongerRoute,
    /// Node 1's agent is killed and left dead.
    AgentKilled,
    /// Node 1's device is deleted.
    DeviceDeleted,
    /// Every route of protocol 119, in whatever table, is flushed on node 1.
    RoutesFlushed,
    /// Every policy rule of protocol 119 is flushed on node 1.
    RulesFlushed,
    /// `nft flush ruleset` on node 1.
    TableFlushed,
    /// Node 1's pods, their bridge and so the routes to it are deleted while packets for it arrive.
    PodsDeleted,
}

impl Fault {
    pub(crate) const ALL: [Self; 13] = [
        Self::KeyRemoved,
        Self::RecordRemoved,
        Self::HandshakeImpossible,
        Self::NodeDeleted,
        Self::Reboot,
        Self::BetterRoute,
        Self::LongerRoute,
        Self::AgentKilled,
        Self::DeviceDeleted,
        Self::RoutesFlushed,
        Self::RulesFlushed,
        Self::TableFlushed,
        Self::PodsDeleted,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RecordRemoved => "record removed",
            Self::KeyRemoved => "key removed",
            Self::HandshakeImpossible => "handshake impossible",
            Self::NodeDeleted => "Node deleted",
            Self::Reboot => "reboot",
            Self::BetterRoute => "better foreign route",
            Self::LongerRoute => "longer foreign route",
            Self::DeviceDeleted => "device deleted",
            Self::RoutesFlushed => "routes flushed",
            Self::RulesFlushed => "rules flushed",
            Self::TableFlushed => "table flushed",
            Self::PodsDeleted => "local pods deleted",
            Self::AgentKilled => "agent killed",
        }
    }

    /// Whether a running agent puts it right by itself.
    pub(crate) fn is_mended(self) -> bool {
        matches!(
            self,
            Self::DeviceDeleted | Self::RoutesFlushed | Self::RulesFlushed | Self::TableFlushed
        )
    }

    fn inflict(self, scene: &Scene) -> Result<()> {
        let (bed, node) = (&scene.bed, scene.node());
        match self {
            Self::RecordRemoved => obstruct_record(bed, bed.node(2)),
            Self::KeyRemoved => remove_key(bed, bed.node(2)),
            Self::HandshakeImpossible => block_handshakes(scene),
            Self::NodeDeleted => bed.node(2).delete_manifest(),
            Self::Reboot => inflict_boot(scene),
            Self::BetterRoute => node.namespace().ip(&foreign_routes(bed, "add", false)),
            Self::LongerRoute => node.namespace().ip(&foreign_routes(bed, "add", true)),
            Self::DeviceDeleted => delete_device(node),
            Self::RoutesFlushed => flush(node, "route", &["table", "all"]),
            Self::RulesFlushed => flush(node, "rule", &[]),
            Self::TableFlushed => node.namespace().nft("flush ruleset"),
            Self::PodsDeleted => delete_pods(scene),
            Self::AgentKilled => node.kill_agent().map(drop),
        }
    }

    fn undo(self, scene: &Scene) -> Result<()> {
        let (bed, node) = (&scene.bed, scene.node());
        match self {
            Self::RecordRemoved => {
                let path = bed.directory().record_path(bed.node(2).name());
                fs::remove_dir(&path).with_context(|| format!("removing {}", path.display()))
            }
            Self::NodeDeleted => bed.node(2).edit_manifest(|_| ()),
            Self::BetterRoute => node.namespace().ip(&foreign_routes(bed, "delete", false)),
            Self::LongerRoute => node.namespace().ip(&foreign_routes(bed, "delete", true)),
            Self::HandshakeImpossible => unblock_handshakes(scene),
            // The agents mend these, once they run.
            Self::KeyRemoved
            | Self::Reboot
            | Self::DeviceDeleted
            | Self::RoutesFlushed
            | Self::RulesFlushed
            | Self::TableFlushed
            | Self::PodsDeleted
            | Self::AgentKilled => Ok(()),
        }
    }
}

/// Makes all these faults, which then are in force together.
pub(crate) fn inflict(scene: &Scene, faults: &[Fault]) -> Result<()> {
    let mut faults = faults.to_vec();
    faults.sort_unstable();
    let boots = faults.contains(&Fault::Reboot);
    let (before, after): (Vec<Fault>, Vec<Fault>) = faults
        .iter()
        .partition(|fault| **fault <= Fault::LongerRoute);
    let make = |faults: &[Fault]| {
        faults.iter().try_for_each(|fault| {
            fault
                .inflict(scene)
                .with_context(|| format!("making the fault: {}", fault.name()))
        })
    };
    make(&before)?;
    if boots {
        // What is done to the node comes as soon as there is something to do it to.
        scene.node().start_agent()?;
        guarded(scene.node())?;
        scene.send_from(Site::NodeHere)?;
    }
    make(&after)?;
    if boots && !faults.contains(&Fault::AgentKilled) {
        scene.node().wait_ready()?;
        if !faults.contains(&Fault::PodsDeleted) {
            scene.node().create_pods()?;
            scene.send_from(Site::PodHere)?;
        }
    }
    Ok(())
}

/// Undoes all these faults and waits until everything reaches everything again.
pub(crate) fn heal(scene: &Scene, faults: &[Fault]) -> Result<()> {
    for fault in faults {
        fault
            .undo(scene)
            .with_context(|| format!("undoing the fault: {}", fault.name()))?;
    }
    for node in scene.bed.nodes() {
        if node.agent_pid().is_err() {
            node.start_agent()?;
        }
    }
    scene.bed.nodes().iter().try_for_each(Node::wait_ready)?;
    if !scene.has_pods()? {
        scene.node().create_pods()?;
    }
    scene.send_from_all()?;
    // A mesh of quick agents is whole before the owner of a record misses it.
    let record = scene.bed.directory().record_path(scene.bed.node(2).name());
    until(CONVERGENCE, "the record to be there again", || {
        ensure!(record.is_file(), "no file {}", record.display());
        Ok(())
    })?;
    scene.whole()
}

/// Waits until a table of Podwire's is in force on the node.
pub(crate) fn guarded(node: &Node) -> Result<()> {
    until(CONVERGENCE, "the guard table", || {
        guard_table(node).map(drop)
    })
}

/// A folder, over which no file can be renamed: the agent that owns the record cannot replace it.
fn obstruct_record(bed: &Testbed, node: &Node) -> Result<()> {
    let path = bed.directory().record_path(node.name());
    fs::remove_file(&path)
        .and_then(|()| fs::create_dir(&path))
        .with_context(|| format!("replacing {}", path.display()))
}

fn remove_key(bed: &Testbed, node: &Node) -> Result<()> {
    node.kill_agent()?;
    let path = bed.directory().record_path(node.name());
    let record = fs::read_to_string(&path)?;
    let without: String = record
        .lines()
        .filter(|line| !line.contains("public-key") && !line.contains("/lanes"))
        .map(|line| format!("{line}\n"))
        .collect();
    ensure!(record != without, "no key in {record}");
    bed.directory().replace(&path, &without)
}

/// From before any session: the agent starts anew behind the block.
fn block_handshakes(scene: &Scene) -> Result<()> {
    let mut blocked = scene.blocked.lock().unwrap_or_else(PoisonError::into_inner);
    for port in LANE_PORTS {
        let block = Impairment::blackhole().udp_port(port);
        blocked.push(scene.bed.impair(&block)?);
    }
    restart(scene.node())
}

fn unblock_handshakes(scene: &Scene) -> Result<()> {
    let mut blocked = scene.blocked.lock().unwrap_or_else(PoisonError::into_inner);
    for block in blocked.drain(..) {
        scene.bed.heal(block)?;
    }
    // Else it is up to five seconds until the next try.
    restart(scene.node())
}

fn restart(node: &Node) -> Result<()> {
    if node.agent_pid().is_ok() {
        node.kill_agent()?;
    }
    node.start_agent()
}

/// Boots node 1, whose agent does not start yet.
pub(crate) fn inflict_boot(scene: &Scene) -> Result<()> {
    scene.stop_sending_from(&[Site::PodHere, Site::NodeHere]);
    scene.bed.reboot(1)?;
    more_errors(scene.node())
}

fn delete_device(node: &Node) -> Result<()> {
    // In the middle of a boot it may not be there yet: then that fault has nothing to take.
    let script = "link delete podwire0\n";
    let ip = node
        .namespace()
        .output("ip", &["-force", "-batch", "-"], script);
    let links = node.namespace().output("ip", &["-br", "link"], "")?;
    ensure!(
        ip.is_ok() || !links.contains("podwire0"),
        "the device stays: {ip:?}"
    );
    Ok(())
}

/// Flushes what is of protocol 119 of a kind of object.
fn flush(node: &Node, object: &str, which: &[&str]) -> Result<()> {
    for version in ["-4", "-6"] {
        let arguments = [&[version, object, "flush"], which, &["proto", "119"]].concat();
        node.namespace().output("ip", &arguments, "")?;
    }
    Ok(())
}

fn delete_pods(scene: &Scene) -> Result<()> {
    if scene.has_pods()? {
        scene.stop_sending_from(&[Site::PodHere]);
        scene.node().delete_pods()?;
    }
    Ok(())
}

/// Routes on node 1 to the pods of node 2 by its address on the underlay.
fn foreign_routes(bed: &Testbed, action: &str, longer: bool) -> Vec<String> {
    let manifest = bed.node(2).manifest();
    let mut lines = Vec::new();
    for (cidr, gateway) in manifest.pod_cidrs.iter().zip(&manifest.addresses) {
        if !longer {
            lines.push(format!(
                "route {action} {cidr} via {gateway} metric {BETTER_METRIC} proto static"
            ));
            continue;
        }
        let halves = cidr
            .subnets(cidr.prefix_len() + 1)
            .expect("a pod CIDR has more than one address");
        lines
            .extend(halves.map(|half| format!("route {action} {half} via {gateway} proto static")));
    }
    lines
}
