//! How soon agents hear of a change, and find an API server that was away.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, peer};
use podwire_testbed::control_plane::Server;
use podwire_testbed::kubernetes_mesh::{black_hole, mesh, wait_followed, wait_lost};
use podwire_testbed::suite::Context;
use podwire_testbed::{PaperNode, until};
use serde_json::json;

use crate::measure::{AtMost, Measure, seconds};

pub(crate) const MEASURES: &[Measure] = &[
    Measure {
        name: "another_key_of_a_record_is_known_to_a_peer_within_a_second",
        promise: "a record with another key: a peer has it",
        bound: AtMost(1.0),
        unit: "s",
        samples: keys,
    },
    Measure {
        name: "another_endpoint_of_a_record_is_known_to_a_peer_within_a_second",
        promise: "a record whose endpoint is of another family, which its Node has to prove: a peer has it",
        bound: AtMost(1.0),
        unit: "s",
        samples: families,
    },
    Measure {
        name: "an_api_server_that_comes_back_is_followed_within_ten_seconds",
        promise: "the API server is back after 20 s: all agents follow it",
        bound: AtMost(10.0),
        unit: "s",
        samples: restarts,
    },
    Measure {
        name: "an_api_server_behind_a_black_hole_is_followed_thirty_seconds_after_it",
        promise: "the API server is reached again after a black hole of a minute: all agents follow it",
        bound: AtMost(30.0),
        unit: "s",
        samples: black_holes,
    },
];

/// Of one record, whose keys alone change.
const CHANGES: u32 = 20;

/// A Node whose claim changed less than this ago is not read again at once.
const PACE: Duration = Duration::from_secs(2);

const OUTAGES: usize = 3;

/// Longer than the longest pause between two attempts.
const AWAY: Duration = Duration::from_secs(20);

/// Longer than keepalives and timeouts of TCP need to give a connection up.
const HOLE: Duration = Duration::from_secs(60);

/// Since when a change was made until `known`.
fn time_until(since: Instant, what: &str, known: impl Fn() -> Result<bool>) -> Result<f64> {
    until(CONVERGENCE, what, || {
        ensure!(known()?, "not yet");
        Ok(seconds(since.elapsed()))
    })
}

fn passed(length: Duration) -> Result<()> {
    let start = Instant::now();
    until(length + CONVERGENCE, "the time to pass", || {
        ensure!(start.elapsed() >= length, "not yet");
        Ok(())
    })
}

/// The record of a Node without an agent, which this test writes.
const RECORD: &str = "record-0";

fn keys(context: &Context) -> Result<Vec<f64>> {
    let (bed, cluster) = mesh(context)?;
    let policy = [
        "delete",
        "validatingadmissionpolicybinding",
        "podwire-annotations",
    ];
    cluster.kubectl(&policy, "")?;
    let address = PaperNode::new(0).address();
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": RECORD } });
    cluster.kubectl(&["create", "-f", "-"], &node.to_string())?;
    let status = json!({ "status": { "addresses": [
        { "type": "InternalIP", "address": address },
    ] } });
    let status = [
        "--subresource=status",
        "--type=merge",
        "-p",
        &status.to_string(),
    ];
    cluster.kubectl(&[&["patch", "node", RECORD], &status[..]].concat(), "")?;
    let cidrs = until(CONVERGENCE, "its pod CIDRs", || {
        let cidrs = cluster.node(RECORD)?.spec.and_then(|spec| spec.pod_cidrs);
        cidrs.context("none yet")
    })?;
    let mut samples = Vec::new();
    for change in 0..=CHANGES {
        let key = PaperNode::new(change).public_key();
        let annotations = [
            format!("podwire.dev/pod-cidrs={}", cidrs.join(",")),
            format!("podwire.dev/endpoints={address}:51880"),
            "podwire.dev/mode=encrypted".to_owned(),
            format!("podwire.dev/key-generation={}", change + 1),
            format!("podwire.dev/public-key={key}"),
        ];
        let mut arguments = vec!["annotate", "--overwrite", "node", RECORD];
        arguments.extend(annotations.iter().map(String::as_str));
        until(CONVERGENCE, "the policy to be gone", || {
            cluster.kubectl(&arguments, "")
        })?;
        let told = time_until(Instant::now(), "the key to be known", || {
            let known = peer(bed.node(1), RECORD).ok();
            Ok(known.and_then(|peer| peer.public_key).as_ref() == Some(&key))
        })?;
        samples.push(told);
    }
    // The first one's claim was new, too.
    Ok(samples.split_off(1))
}

fn families(context: &Context) -> Result<Vec<f64>> {
    let (bed, cluster) = mesh(context)?;
    passed(PACE)?;
    let mut samples = Vec::new();
    for (changed, other) in [(1, 2), (2, 3), (3, 1)] {
        let node = bed.node(changed);
        let addresses = node.manifest().addresses;
        let v6: Vec<IpAddr> = addresses.into_iter().filter(IpAddr::is_ipv6).collect();
        cluster.set_addresses(node.name(), &v6)?;
        samples.push(time_until(Instant::now(), "the endpoint", || {
            let endpoint = peer(bed.node(other), node.name())?.endpoint;
            Ok(endpoint.is_some_and(|endpoint| endpoint.starts_with('[')))
        })?);
    }
    Ok(samples)
}

fn restarts(context: &Context) -> Result<Vec<f64>> {
    let (bed, cluster) = mesh(context)?;
    let mut samples = Vec::new();
    for _ in 0..OUTAGES {
        cluster.stop_server(Server::ApiServer)?;
        wait_lost(&bed)?;
        passed(AWAY)?;
        cluster.start_server(Server::ApiServer)?;
        let since = Instant::now();
        wait_followed(&bed)?;
        samples.push(seconds(since.elapsed()));
    }
    Ok(samples)
}

fn black_holes(context: &Context) -> Result<Vec<f64>> {
    let (bed, _cluster) = mesh(context)?;
    let router = bed.underlay().namespace();
    let mut samples = Vec::new();
    for _ in 0..OUTAGES {
        router.nft(&black_hole())?;
        passed(HOLE)?;
        router.nft("delete table inet hole")?;
        let since = Instant::now();
        wait_followed(&bed)?;
        samples.push(seconds(since.elapsed()));
    }
    Ok(samples)
}
