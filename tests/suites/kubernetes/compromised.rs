//! Node 3 is in somebody else's hands, with its agent's token and its kubelet's credentials.

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, peer, status, wait_status, wait_whole};
use podwire_testbed::control_plane::kubelet_token;
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{ControlPlane, IpVersion, Testbed, until};

use crate::scene::{Flows, annotation, mesh};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_compromised_node_writes_no_other_record_and_no_foreign_claim",
        foreign_claims,
    ),
    ("a_compromised_node_takes_no_key_of_another", copied_key),
    (
        "a_compromised_node_takes_no_address_of_another",
        copied_address,
    ),
    (
        "a_compromised_node_opens_plaintext_with_nobody_but_itself",
        declared_plaintext,
    ),
];

/// Changes a Node's annotations as whoever has the token.
fn annotate(cluster: &ControlPlane, token: &str, node: &str, change: &str) -> Result<()> {
    let arguments = ["annotate", "--overwrite", "node", node, change];
    cluster.kubectl_as(token, &arguments, "").map(drop)
}

/// Its agent does not run any more: what it wrote stays, and the intruder writes in its place.
fn intruder(bed: &Testbed, cluster: &ControlPlane) -> Result<String> {
    bed.node(3).stop_agent()?;
    let credentials = cluster.agent_credentials("node-3", CONVERGENCE * 60)?;
    credentials.token()
}

/// Nodes 1 and 2 are to each other what they were.
fn unharmed(bed: &Testbed, keys: &[String; 2]) -> Result<()> {
    for (node, other) in [(1, 2), (2, 1)] {
        let row = peer(bed.node(node), &format!("node-{other}"))?;
        ensure!(row.public_key.as_ref() == Some(&keys[other - 1]), "{row:?}");
        ensure!(row.mode == "encrypted" && row.state == "up", "{row:?}");
        let address = bed
            .node(u8::try_from(other)?)
            .host()
            .address(IpVersion::V4)?;
        let endpoint = row.endpoint.clone().unwrap_or_default();
        ensure!(endpoint == format!("{address}:51880"), "{row:?}");
    }
    Ok(())
}

fn keys(bed: &Testbed) -> Result<[String; 2]> {
    let key = |node| status(bed.node(node))?.public_key.context("no key");
    Ok([key(1)?, key(2)?])
}

fn foreign_claims(context: &Context) -> Result<()> {
    let (bed, cluster) = mesh(context)?;
    let keys = keys(&bed)?;
    let flows = Flows::start(&bed, &[(1, 2)])?;
    let agent = intruder(&bed, &cluster)?;
    let kubelet = kubelet_token("node-3");
    let of_2 = |key| annotation(&cluster, "node-2", key);
    let own = annotation(&cluster, "node-3", "public-key")?;
    let foreign_cidrs = format!("podwire.dev/pod-cidrs={}", of_2("pod-cidrs")?);
    let foreign_endpoints = format!("podwire.dev/endpoints={}", of_2("endpoints")?);
    let foreign_key = format!("podwire.dev/public-key={own}");
    for token in [&agent, &kubelet] {
        for (node, change) in [
            ("node-2", foreign_key.as_str()),
            ("node-2", "podwire.dev/mode=host-network"),
            ("node-2", "podwire.dev/mode-"),
            ("node-3", &foreign_cidrs),
            ("node-3", &foreign_endpoints),
            ("node-3", "podwire.dev/pod-cidrs=0.0.0.0/0"),
            (
                "node-3",
                "request.podwire.dev/mode=to=host-network,by=node-3",
            ),
            (
                "node-2",
                "request.podwire.dev/mode=to=host-network,by=node-3",
            ),
        ] {
            let allowed = annotate(&cluster, token, node, change);
            ensure!(allowed.is_err(), "{node} was given {change}");
        }
    }
    unharmed(&bed, &keys)?;
    flows.lost_nothing()
}

fn copied_key(context: &Context) -> Result<()> {
    let (bed, cluster) = mesh(context)?;
    let keys = keys(&bed)?;
    let flows = Flows::start(&bed, &[(1, 2)])?;
    let agent = intruder(&bed, &cluster)?;
    // Its own record, and a key that is well-formed: admission cannot know whose it is.
    for slot in ["public-key", "next-public-key", "previous-public-key"] {
        annotate(
            &cluster,
            &agent,
            "node-3",
            &format!("podwire.dev/{slot}={}", keys[1]),
        )?;
    }
    wait_status(bed.node(1), "node-3 to be refused", |status| {
        status
            .refusals
            .get("node-3")
            .is_some_and(|refused| refused.reason == "key-taken")
    })?;
    unharmed(&bed, &keys)?;
    until(CONVERGENCE, "an Event that names it", || {
        let events = cluster.kubectl(&["get", "events", "-o=json"], "")?;
        ensure!(
            events.contains("ClaimRefused") && events.contains("node-3"),
            "{events}"
        );
        Ok(())
    })?;
    flows.lost_nothing()
}

/// A kubelet says what its node's addresses are.
fn copied_address(context: &Context) -> Result<()> {
    let (bed, cluster) = mesh(context)?;
    let keys = keys(&bed)?;
    let flows = Flows::start(&bed, &[(1, 2)])?;
    let agent = intruder(&bed, &cluster)?;
    let of_2 = bed.node(2).manifest().addresses;
    let pod_of_2 = bed.pod(2, 1).host().address(IpVersion::V4)?;
    cluster.set_addresses("node-3", &of_2)?;
    let endpoints = annotation(&cluster, "node-2", "endpoints")?;
    annotate(
        &cluster,
        &agent,
        "node-3",
        &format!("podwire.dev/endpoints={endpoints}"),
    )?;
    let endpoint = || peer(bed.node(1), "node-3").map(|row| row.endpoint);
    until(CONVERGENCE, "node-3's claim to be read", || {
        let endpoint = endpoint()?;
        let is_its = endpoint.as_deref() == endpoints.split(',').next();
        ensure!(is_its || endpoint.is_none(), "{endpoint:?}");
        Ok(())
    })?;
    unharmed(&bed, &keys)?;
    // An address among node 2's pods must not cost node 2 its pods.
    cluster.set_addresses("node-3", &[pod_of_2])?;
    cluster.heartbeat("node-3")?;
    flows.go_on(5)?;
    unharmed(&bed, &keys)?;
    flows.lost_nothing()
}

fn declared_plaintext(context: &Context) -> Result<()> {
    let (bed, cluster) = mesh(context)?;
    let keys = keys(&bed)?;
    let flows = Flows::start(&bed, &[(1, 2)])?;
    let agent = intruder(&bed, &cluster)?;
    annotate(&cluster, &agent, "node-3", "podwire.dev/mode=host-network")?;
    for node in [bed.node(1), bed.node(2)] {
        wait_status(node, "node-3 to be a plaintext peer", |status| {
            status.plaintext == ["node-3"]
        })?;
    }
    unharmed(&bed, &keys)?;
    flows.lost_nothing()?;
    // Its own agent is back, and what was written in its name is undone.
    bed.node(3).start_agent()?;
    for node in [bed.node(1), bed.node(2)] {
        wait_status(node, "no plaintext peer", |status| {
            status.plaintext.is_empty()
        })?;
    }
    wait_whole(&bed)?;
    ensure!(
        annotation(&cluster, "node-3", "mode")? == "encrypted",
        "it stayed plaintext"
    );
    Ok(())
}
