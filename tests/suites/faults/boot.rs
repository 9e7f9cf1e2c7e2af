//! A boot, from its first moment: what guards the node while the agent starts, cannot start, or
//! knows only what its disk tells.

use std::fs;
use std::net::UdpSocket;

use anyhow::{Context as _, Result, bail, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, routes, routes_to, wait_status};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Node, until};

use crate::fault::{self, Fault};
use crate::scene::{Scene, Site};
use crate::sight::{self, Sight};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_boot_whose_agent_cannot_start_leaves_the_node_closed",
        failing_starts,
    ),
    (
        "a_foreign_device_of_its_name_keeps_no_guard_from_coming_back",
        foreign_device,
    ),
    (
        "a_boot_without_its_registry_goes_on_with_what_the_disk_knows",
        without_registry,
    ),
];

/// Covers of the cluster's CIDRs, which need no knowledge but the flags'.
const COVERS: [&str; 2] = ["unreachable 10.244.0.0/16", "unreachable fd00:10:244::/48"];

/// What keeps an agent from starting, after its guards.
enum Obstacle {
    /// The keys are garbage: nothing of the disk has been read before.
    Keys,
    /// The history is missing beside keys: half a disk was restored.
    History,
    /// Somebody has the UDP port of lane 0.
    Port(Option<UdpSocket>),
    /// Somebody has a device of that name.
    Device,
}

impl Obstacle {
    /// What the agent says of it.
    fn words(&self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::History => "history",
            Self::Port(_) => "51880",
            Self::Device => "podwire0",
        }
    }

    /// Whether the agent ends; else it waits, closed, for what is lacking.
    fn ends_the_start(&self) -> bool {
        match self {
            Self::Keys | Self::History => true,
            Self::Port(_) | Self::Device => false,
        }
    }

    /// What pods see. Before the disk has told which are its own, what they send is dropped as it
    /// comes in: nobody vouches for its source.
    fn sight_of_pods(&self) -> Sight {
        match self {
            Self::Port(_) | Self::Device => Sight::Unreachable,
            Self::Keys | Self::History => Sight::Silence,
        }
    }

    fn put(&mut self, node: &Node) -> Result<()> {
        let (keys, history) = (
            node.state_dir().join("keys"),
            node.state_dir().join("history.json"),
        );
        match self {
            Self::Keys => {
                fs::copy(&keys, keys.with_extension("away"))?;
                fs::write(&keys, "garbage").context("damaging the keys")
            }
            Self::History => {
                fs::rename(&history, history.with_extension("away")).context("moving the history")
            }
            Self::Port(holder) => {
                let bound = node.namespace().run(|| UdpSocket::bind("0.0.0.0:51880"));
                *holder = Some(bound.context("taking the port")?);
                Ok(())
            }
            Self::Device => node
                .namespace()
                .ip(&["link add podwire0 type bridge".to_owned()]),
        }
    }

    fn take_away(self, node: &Node) -> Result<()> {
        let (keys, history) = (
            node.state_dir().join("keys"),
            node.state_dir().join("history.json"),
        );
        match self {
            Self::Keys => fs::rename(keys.with_extension("away"), &keys).map_err(Into::into),
            Self::History => {
                fs::rename(history.with_extension("away"), &history).map_err(Into::into)
            }
            Self::Port(_) => Ok(()),
            Self::Device => node.namespace().ip(&["link delete podwire0".to_owned()]),
        }
    }
}

/// Waits until the last known mesh and its handshakes are kept for the next boot.
fn on_disk(node: &Node) -> Result<()> {
    until(CONVERGENCE, "the mesh to be on disk", || {
        let kept = fs::read_to_string(node.state_dir().join("snapshot.json"))?;
        ensure!(kept.contains("\"public_key\""), "no handshake in {kept}");
        Ok(())
    })
}

fn failing_starts(context: &Context) -> Result<()> {
    let scene = Scene::new(context)?;
    on_disk(scene.node())?;
    for obstacle in [
        Obstacle::Keys,
        Obstacle::History,
        Obstacle::Port(None),
        Obstacle::Device,
    ] {
        let what = obstacle.words();
        failing_boot(&scene, obstacle).with_context(|| format!("obstacle: {what}"))?;
    }
    fault::heal(&scene, &[])?;
    failing_restart(&scene).context("a restart without covers")?;
    fault::heal(&scene, &[])?;
    scene.nothing_leaked()
}

/// Pods are there all the same: something made them that did not wait.
fn failing_boot(scene: &Scene, mut obstacle: Obstacle) -> Result<()> {
    let node = scene.node();
    fault::inflict_boot(scene)?;
    obstacle.put(node)?;
    fails_to_start(scene, &obstacle)?;
    node.create_pods()?;
    is_closed(scene, obstacle.sight_of_pods())?;
    obstacle.take_away(node)
}

/// The next agent fails where its predecessor's table is left and its routes are not.
fn failing_restart(scene: &Scene) -> Result<()> {
    let (node, mut obstacle) = (scene.node(), Obstacle::Keys);
    fault::inflict(scene, &[Fault::AgentKilled, Fault::RoutesFlushed])?;
    obstacle.put(node)?;
    fails_to_start(scene, &obstacle)?;
    // From here on the covers are alone.
    fault::inflict(scene, &[Fault::TableFlushed])?;
    is_closed(scene, Sight::Unreachable)?;
    obstacle.take_away(node)
}

/// While it runs.
fn foreign_device(context: &Context) -> Result<()> {
    let scene = Scene::new(context)?;
    let node = scene.node();
    // Renamed and not deleted: an agent that loses its device makes it anew at once.
    node.namespace().ip(&[
        "link add stranger type bridge".to_owned(),
        "link set podwire0 down".to_owned(),
        "link set podwire0 name lost".to_owned(),
        "link set stranger name podwire0".to_owned(),
    ])?;
    wait_status(node, "to see the foreign device", |status| {
        status.problems.iter().any(|text| text.contains("bridge"))
    })?;
    fault::inflict(&scene, &[Fault::RoutesFlushed])?;
    until(CONVERGENCE, "the covers to be back", || covered(node))?;
    fault::inflict(&scene, &[Fault::TableFlushed])?;
    fault::guarded(node)?;
    is_closed(&scene, Sight::Unreachable)?;
    node.namespace().ip(&[
        "link delete podwire0".to_owned(),
        "link set lost name podwire0".to_owned(),
    ])?;
    fault::heal(&scene, &[])?;
    scene.nothing_leaked()
}

/// The agent ends by itself, or is killed where it would wait.
fn fails_to_start(scene: &Scene, obstacle: &Obstacle) -> Result<()> {
    let (node, reason) = (scene.node(), obstacle.words());
    node.start_agent()?;
    if obstacle.ends_the_start() {
        let ended = node.wait_agent_end(CONVERGENCE)?;
        ensure!(!ended.success(), "it started");
    } else {
        wait_status(node, "to say what is lacking", |status| {
            let is_named = |problem: &String| problem.contains(reason);
            !status.ready && status.problems.iter().any(is_named)
        })?;
        node.kill_agent()?;
    }
    let log = node.log();
    ensure!(log.contains(reason), "it does not name {reason}: {log}");
    covered(node)
}

fn covered(node: &Node) -> Result<()> {
    let routes = routes(node)?;
    for cover in COVERS {
        ensure!(
            routes.iter().any(|route| route.starts_with(cover)),
            "no {cover} in {routes:?}"
        );
    }
    Ok(())
}

/// Everybody sends, and nothing gets out.
fn is_closed(scene: &Scene, sight_of_pods: Sight) -> Result<()> {
    scene.send_from_all()?;
    scene.hold()?;
    sight::see(
        scene,
        &[
            (Site::PodHere, sight_of_pods),
            (Site::NodeHere, Sight::Unreachable),
        ],
    )?;
    scene.nothing_leaked()
}

fn without_registry(context: &Context) -> Result<()> {
    let scene = Scene::new(context)?;
    let (bed, node) = (&scene.bed, scene.node());
    let routes = routes_to(node, bed.node(2))?;
    // In both families a cover, and a way in each of the two tables.
    ensure!(routes.len() == 6, "{routes:?}");
    on_disk(node)?;
    let away = bed.folder().join("registry.away");

    fault::inflict_boot(&scene)?;
    fs::rename(bed.directory().path(), &away)?;
    start_guarded(&scene)?;
    let what = "the routes of before";
    until(CONVERGENCE, what, || {
        let now = routes_to(node, bed.node(2))?;
        ensure!(now == routes, "{routes:?} before, {now:?} now");
        Ok(())
    })?;
    is_not_ready(node)?;
    // Encrypted, as the last known mesh has it.
    sight::see(&scene, &[(Site::NodeHere, Sight::Answer)])?;
    scene.hold()?;
    scene.nothing_leaked()?;

    // Without the snapshot too, it knows nothing but its flags.
    fault::inflict_boot(&scene)?;
    fs::write(node.state_dir().join("snapshot.json"), "garbage")?;
    start_guarded(&scene)?;
    wait_status(node, "to run", |status| !status.ready)?;
    covered(node)?;
    sight::see(&scene, &[(Site::NodeHere, Sight::Unreachable)])?;
    scene.hold()?;
    scene.nothing_leaked()?;

    fs::rename(&away, bed.directory().path())?;
    node.wait_ready()?;
    fault::heal(&scene, &[])?;
    scene.nothing_leaked()
}

/// The node itself sends as soon as the table is there.
fn start_guarded(scene: &Scene) -> Result<()> {
    scene.node().start_agent()?;
    fault::guarded(scene.node())?;
    scene.send_from(Site::NodeHere)
}

/// No pod is started before the registry has told this boot anything.
fn is_not_ready(node: &Node) -> Result<()> {
    match node.agent_output(&["healthz"]) {
        Err(_) => Ok(()),
        Ok(_) => bail!("ready without a registry"),
    }
}
