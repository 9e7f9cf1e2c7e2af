//! What a rolling update of the DaemonSet costs the pods' traffic.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Cluster, results};

use crate::rollout::{MeshPod, NODES, all_reach_all, pods};
use crate::scene;
use crate::streams::{Stream, Streams};
use crate::{podwire, talks};

pub(crate) const TESTS: &[Test] = &[(
    "a_rolling_update_and_its_undoing_reset_no_connection_and_leave_the_mesh_whole",
    updated,
)];

/// Datagrams a second of each stream.
const RATE: u32 = 1000;

/// Of each stream, while nothing is updated: where the numbers count, and where they do not.
const CONTROL: u64 = 20_000;
const SHORT_CONTROL: u64 = 2_000;

/// A busy machine may lose some by itself.
const CONTROLS_AT_MOST: usize = 3;

/// Where connections tell how they are; streams have the ports from here on.
const TALK_PORT: u16 = 9100;
const STREAM_PORTS: u16 = 9200;

/// The same binary under another name.
const IMAGE: &str = "localhost/podwire-agent";
const OTHER_TAG: &str = "another";

fn updated(context: &Context) -> Result<()> {
    let (_bed, cluster) = scene::cluster(context, NODES, &podwire::plan()?)?;
    podwire::roll_out(&cluster, "")?;
    cluster.wait_ready()?;
    scene::pods_everywhere(&cluster)?;
    all_reach_all(&cluster)?;
    let pods = pods(&cluster)?;
    let served = scene::PORT.parse()?;
    let connections = talks::between_all(&cluster, &pods, TALK_PORT, served)?;
    let mut measured = Measured::default();
    measured.controls(&cluster, &pods)?;

    let first = agents(&cluster)?;
    measured.update(&cluster, &pods, "`kubectl rollout restart`", || {
        kubectl(&cluster, &["rollout", "restart", podwire::DAEMON_SET])
    })?;
    let second = agents(&cluster)?;
    ensure!(images(&second) == images(&first), "{second:?}");

    name_the_image_anew(&cluster)?;
    measured.update(&cluster, &pods, "another image", || another_image(&cluster))?;
    let third = agents(&cluster)?;
    let is_other = |image: &&String| image.ends_with(&format!("{IMAGE}:{OTHER_TAG}"));
    ensure!(third.values().all(|image| is_other(&image)), "{third:?}");

    measured.update(&cluster, &pods, "`kubectl rollout undo`", || {
        kubectl(&cluster, &["rollout", "undo", podwire::DAEMON_SET])
    })?;
    let fourth = agents(&cluster)?;
    ensure!(images(&fourth) == images(&first), "{fourth:?}");

    for connection in &connections {
        connection.wait_for_more(1)?;
        connection.unbroken()?;
    }
    all_reach_all(&cluster)?;
    results::write("kubernetes-updates", &measured.to_string())?;
    ensure!(
        !results::are_kept() || measured.is_conclusive(),
        "without any update some were lost: {measured}"
    );
    Ok(())
}

fn kubectl(cluster: &Cluster, arguments: &[&str]) -> Result<()> {
    let arguments = [&["--namespace", podwire::NAMESPACE], arguments].concat();
    cluster.plane().kubectl(&arguments, "").map(drop)
}

/// The agents' pods by their uid, and the image of each.
fn agents(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let fields = "{range .items[*]}{.metadata.uid} {.spec.containers[0].image}{\"\\n\"}{end}";
    let said = cluster.plane().kubectl(
        &[
            "--namespace",
            podwire::NAMESPACE,
            "get",
            "pods",
            "--selector=app.kubernetes.io/name=podwire-agent",
            &format!("--output=jsonpath={fields}"),
        ],
        "",
    )?;
    let pair = |line: &str| {
        let (uid, image) = line.split_once(' ')?;
        Some((uid.to_owned(), image.to_owned()))
    };
    let agents: BTreeMap<_, _> = said.lines().filter_map(pair).collect();
    ensure!(agents.len() == usize::from(NODES), "{said}");
    Ok(agents)
}

fn images(agents: &BTreeMap<String, String>) -> Vec<&String> {
    agents.values().collect()
}

/// Gives each node's copy of the image one more name.
fn name_the_image_anew(cluster: &Cluster) -> Result<()> {
    let used = agents(cluster)?;
    let used = used.values().next().context("there is an agent")?;
    let other = format!("{IMAGE}:{OTHER_TAG}");
    for node in cluster.nodes() {
        let tag = ["--namespace", "k8s.io", "images", "tag", used, &other];
        node.run("ctr", &tag, "")?;
    }
    Ok(())
}

/// Applies a kustomization of one's own over `deploy/`, as its README has it.
fn another_image(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let images = format!("images: [{{name: {IMAGE}, newTag: {OTHER_TAG}}}]");
    let text = format!("resources: [DEPLOY]\n{images}\n");
    podwire::write_kustomization(folder.path(), &text)?;
    let path = folder.path().to_str();
    podwire::apply(cluster, path.context("a temporary folder's name is text")?)
}

/// What was lost meanwhile.
struct Row {
    what: String,
    took: Duration,
    streams: Vec<Stream>,
}

impl Row {
    fn lost(&self) -> u64 {
        self.streams.iter().map(|stream| stream.lost).sum()
    }

    /// The median and the greatest of what a stream has.
    fn of_a_stream(&self, number: impl Fn(&Stream) -> u64) -> (u64, u64) {
        let mut sorted: Vec<_> = self.streams.iter().map(number).collect();
        sorted.sort_unstable();
        let median = sorted.get(sorted.len() / 2).copied();
        let greatest = sorted.last().copied();
        (median.unwrap_or_default(), greatest.unwrap_or_default())
    }
}

#[derive(Default)]
struct Measured {
    controls: Vec<Row>,
    updates: Vec<Row>,
    /// How often there were streams.
    times: u16,
}

impl Measured {
    /// Measures without any update, again while it is the machine that loses some.
    fn controls(&mut self, cluster: &Cluster, pods: &[MeshPod]) -> Result<()> {
        let (most, datagrams) = if results::are_kept() {
            (CONTROLS_AT_MOST, CONTROL)
        } else {
            (1, SHORT_CONTROL)
        };
        while !self.is_conclusive() && self.controls.len() < most {
            let row = self.row(cluster, pods, "no update", |streams| {
                streams.wait_for_more(datagrams)
            })?;
            self.controls.push(row);
        }
        Ok(())
    }

    fn is_conclusive(&self) -> bool {
        self.controls.last().is_some_and(|row| row.lost() == 0)
    }

    /// Measures an update from its beginning until every node has it, and that its pods are others.
    fn update(
        &mut self,
        cluster: &Cluster,
        pods: &[MeshPod],
        what: &str,
        update: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let before = agents(cluster)?;
        let row = self.row(cluster, pods, what, |_| {
            update()?;
            cluster.wait_rolled_out(podwire::NAMESPACE, podwire::DAEMON_SET)
        })?;
        let after = agents(cluster)?;
        let mut uids = after.keys();
        ensure!(
            uids.all(|uid| !before.contains_key(uid)),
            "{what} left some of {before:?} in {after:?}"
        );
        self.updates.push(row);
        Ok(())
    }

    fn row(
        &mut self,
        cluster: &Cluster,
        pods: &[MeshPod],
        what: &str,
        meanwhile: impl FnOnce(&Streams<'_>) -> Result<()>,
    ) -> Result<Row> {
        let streams = Streams::start(cluster, pods, STREAM_PORTS + self.times, RATE)?;
        self.times += 1;
        let start = Instant::now();
        meanwhile(&streams)?;
        let took = start.elapsed();
        Ok(Row {
            what: what.to_owned(),
            took,
            streams: streams.end()?,
        })
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = format!(
            "# What a rolling update costs\n\n\
             A real cluster of {NODES} nodes, Podwire as shipped: datagrams from each pod to each \
             other one, in both families, {RATE} a second each.\n\n\
             | meanwhile | took | streams | lost of the median stream | at most | \
             longest gap of the median stream | at most |\n|---|---|---|---|---|---|---|\n"
        );
        for row in self.controls.iter().chain(&self.updates) {
            let (lost, lost_at_most) = row.of_a_stream(|stream| stream.lost);
            let (gap, gap_at_most) = row.of_a_stream(|stream| stream.longest_gap_milliseconds);
            let _ = writeln!(
                text,
                "| {} | {:.0} s | {} | {lost} | {lost_at_most} | {gap} ms | {gap_at_most} ms |",
                row.what,
                row.took.as_secs_f64(),
                row.streams.len(),
            );
        }
        if !self.is_conclusive() {
            text.push_str("\nInconclusive: this machine loses datagrams without any update.\n");
        }
        formatter.write_str(&text)
    }
}
