//! All keys of a cluster are rotated by its operator, under datagrams that are counted.

use anyhow::{Result, bail, ensure};
use podwire_testbed::control_plane::user_token;
use podwire_testbed::keyctl;
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Cluster, Testbed};

use crate::podwire;
use crate::rollout::{MeshPod, NODES, all_reach_all, annotations, pods};
use crate::scene;
use crate::streams::Streams;

pub(crate) const TESTS: &[Test] = &[(
    "an_operator_rotates_all_keys_of_a_cluster_and_no_datagram_between_pods_is_lost",
    rotated,
)];

/// Of each stream, of which there are two between any two pods.
const RATE: u32 = 1_000;

/// Where streams are counted, of the rotation;
const PORT: u16 = 9200;
/// and of each control, of which two at most may lose something.
const CONTROL_PORTS: [u16; 3] = [9201, 9202, 9203];

const OPERATOR: &str = "alice";
const NOBODY: &str = "mallory";

fn rotated(context: &Context) -> Result<()> {
    let (bed, cluster) = scene::cluster(context, NODES, &podwire::plan()?)?;
    podwire::roll_out(&cluster, "")?;
    cluster.wait_ready()?;
    scene::pods_everywhere(&cluster)?;
    all_reach_all(&cluster)?;
    let role = [
        "--clusterrole=podwire-operator",
        &format!("--user={OPERATOR}"),
    ];
    let bind = [&["create", "clusterrolebinding", "operators"][..], &role].concat();
    cluster.plane().kubectl(&bind, "")?;

    let refused = rotate(&bed, &cluster, NOBODY)?;
    ensure!(refused.code == Some(5), "{refused:?}");
    let before = keys(&cluster)?;
    let pods = pods(&cluster)?;
    // At this rate the search would cost the capture frames; every header is still read.
    bed.capture().search_payloads(false)?;
    loses_nothing_at_rest(&cluster, &pods)?;
    let lost = lost(&cluster, &pods, PORT, || {
        let done = rotate(&bed, &cluster, OPERATOR)?;
        ensure!(done.code == Some(0), "{done:?}");
        Ok(())
    })?;
    ensure!(lost == 0, "{lost} are lost by a rotation of all keys");
    bed.capture().search_payloads(true)?;
    for ((_, before), (generation, after)) in before.iter().zip(keys(&cluster)?) {
        ensure!(
            generation == "2" && after != *before,
            "{generation}: {after}"
        );
    }
    all_reach_all(&cluster)
}

/// `kubectl podwire rotate --all`, of all nodes at once, as somebody.
fn rotate(bed: &Testbed, cluster: &Cluster, who: &str) -> Result<keyctl::Run> {
    let arguments = ["rotate", "--all", "--max-unavailable=100%", "--timeout=10m"];
    keyctl::run(bed, cluster.plane(), &user_token(who), &arguments)
}

/// The key generation and lane 0's key of each node.
fn keys(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let of = |number| {
        let annotations = annotations(cluster, cluster.node(number).name())?;
        let value = |name| annotations.get(name).cloned().unwrap_or_default();
        Ok((
            value("podwire.dev/key-generation"),
            value("podwire.dev/public-key"),
        ))
    };
    (1..=NODES).map(of).collect()
}

/// Checks that this machine loses nothing by itself.
#[expect(clippy::print_stdout, reason = "every try is told")]
fn loses_nothing_at_rest(cluster: &Cluster, pods: &[MeshPod]) -> Result<()> {
    let mut all = Vec::new();
    for port in CONTROL_PORTS {
        let lost = lost(cluster, pods, port, || Ok(()))?;
        println!("lost without a rotation: {lost}");
        if lost == 0 {
            return Ok(());
        }
        all.push(lost);
    }
    bail!("inconclusive: without a rotation are lost {all:?}")
}

/// What of all streams is lost while something happens.
fn lost(
    cluster: &Cluster,
    pods: &[MeshPod],
    port: u16,
    happens: impl FnOnce() -> Result<()>,
) -> Result<u64> {
    let streams = Streams::start(cluster, pods, port, RATE)?;
    streams.wait_for_more(u64::from(RATE))?;
    happens()?;
    let streams = streams.end()?;
    Ok(streams.iter().map(|stream| stream.lost).sum())
}
