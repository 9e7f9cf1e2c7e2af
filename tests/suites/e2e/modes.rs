//! Nodes that cannot encrypt, or are not to: in plaintext and seen by everybody who looks, or, by
//! the overlay `strict`, without any traffic.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use podwire_testbed::agent_view::{Peer, Status, get_at};
use podwire_testbed::control_plane::ADMIN_TOKEN;
use podwire_testbed::keyctl;
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Cluster, Testbed, until};
use serde_json::Value;

use crate::scene::{self, DEADLINE, EVERYWHERE, name_on};
use crate::{asking, podwire};

pub(crate) const TESTS: &[Test] = &[
    (
        "nodes_that_do_not_encrypt_are_reached_in_plaintext_which_is_seen_everywhere",
        plaintext_is_seen,
    ),
    (
        "by_the_overlay_strict_nodes_that_do_not_encrypt_have_no_traffic_with_others",
        strict_refuses,
    ),
    (
        "agents_whose_containers_have_no_device_take_part_in_plaintext_and_say_so",
        no_device_is_mounted,
    ),
];

/// Nodes 1 and 2 are as most are.
const NODES: u8 = 4;

/// Has the label of the overlay for single nodes.
const DECLARED: u8 = 3;

/// Its containers may not open the TUN device.
const DENIED: u8 = 4;

/// Where metrics are.
const METRICS_PORT: u16 = 9587;

/// A container runtime that lets no container open the TUN device, as runc 1.2.0 to 1.2.3 do not:
/// the container is made, its group loses the device, and only then it starts.
const RUNTIME_WITHOUT_TUN: &str = r#"
cd /usr/local/bin
program=$PWD/$(readlink runc)
cat >runc.next <<END
#!/bin/sh
case " \$* " in
*" create "*)
  $program "\$@" || exit
  for container; do :; done
  group=\$(find /sys/fs/cgroup/devices -type d -name "\$container")
  echo 'c 10:200 rwm' >"\$group/devices.deny"
  ;;
*) exec $program "\$@" ;;
esac
END
chmod 755 runc.next
mv runc.next runc
"#;

/// Nodes of each kind, without an agent yet.
fn prepare(cluster: &Cluster) -> Result<()> {
    cluster
        .node(DENIED)
        .run("sh", &["-ec", RUNTIME_WITHOUT_TUN], "")?;
    podwire::label_host_network(cluster, DECLARED)
}

fn name(number: u8) -> String {
    format!("node-{number}")
}

fn encrypts(number: u8) -> bool {
    number < DECLARED
}

fn others(number: u8) -> impl Iterator<Item = u8> {
    (1..=NODES).filter(move |other| *other != number)
}

/// With whom a node is in plaintext.
fn plaintext_peers(number: u8) -> Vec<String> {
    let is_plaintext = |other: &u8| !encrypts(number) || !encrypts(*other);
    others(number).filter(is_plaintext).map(name).collect()
}

fn plaintext_is_seen(context: &Context) -> Result<()> {
    let (bed, cluster) = scene::cluster(context, NODES, &podwire::plan()?)?;
    prepare(&cluster)?;
    podwire::roll_out(&cluster, podwire::SINGLE_NODES)?;
    cluster.wait_rolled_out(podwire::NAMESPACE, podwire::SINGLE_NODES_DAEMON_SET)?;
    cluster.wait_ready()?;
    scene::pods_everywhere(&cluster)?;
    for (from, to) in [(1, 2), (2, 1)] {
        until(DEADLINE, "the tunnel", || reached(&cluster, from, to))?;
    }
    // Nothing was in the clear up to here.
    bed.check().context("two nodes that encrypt")?;
    bed.expect_plaintext();
    for from in 1..=NODES {
        for to in others(from) {
            until(DEADLINE, "a pod of another node", || {
                reached(&cluster, from, to)
            })?;
        }
    }
    for number in 1..=NODES {
        agent_tells(&cluster, number)?;
        metric_tells(&bed, &cluster, number)?;
        event_tells(&cluster, number, "PlaintextPairs", "node-")?;
    }
    event_tells(
        &cluster,
        DENIED,
        "DeviceUnusable",
        "denied to this container",
    )?;
    keyctl_tells(&bed, &cluster)
}

/// `deploy/` for containers without the device.
const WITHOUT_DEVICE: &str = "resources: [DEPLOY]
patches:
- target: {kind: DaemonSet}
  patch: |-
    apiVersion: apps/v1
    kind: DaemonSet
    metadata: {name: podwire-agent}
    spec:
      template:
        spec:
          containers:
          - {name: agent, volumeMounts: [{mountPath: /dev/net/tun, $patch: delete}]}
          volumes: [{name: tun, $patch: delete}]
";

/// Agents that nobody has told a mode, in containers without the device, find that out.
fn no_device_is_mounted(context: &Context) -> Result<()> {
    let (bed, cluster) = scene::cluster(context, 2, &podwire::plan()?)?;
    bed.expect_plaintext();
    let folder = tempfile::tempdir()?;
    podwire::write_kustomization(folder.path(), WITHOUT_DEVICE)?;
    podwire::apply(
        &cluster,
        folder.path().to_str().context("a path that is text")?,
    )?;
    cluster.wait_rolled_out(podwire::NAMESPACE, podwire::DAEMON_SET)?;
    cluster.wait_ready()?;
    scene::pods_everywhere(&cluster)?;
    for (number, other) in [(1, 2), (2, 1)] {
        until(DEADLINE, "a pod of another node", || {
            reached(&cluster, number, other)
        })?;
        let said = status(&cluster, number)?;
        let is_plain = said.mode == "host-network" && said.plaintext == [name(other)];
        ensure!(said.ready && is_plain, "{said:?}");
        event_tells(
            &cluster,
            number,
            "DeviceUnusable",
            "/dev/net/tun is missing",
        )?;
    }
    Ok(())
}

/// The pods of two nodes.
fn pair(cluster: &Cluster, from: u8, to: u8) -> Result<(String, String)> {
    let pod = |node| name_on(cluster, EVERYWHERE, node);
    Ok((pod(from)?, pod(to)?))
}

/// The pod of one node is answered by that of another, or by itself.
fn reached(cluster: &Cluster, from: u8, to: u8) -> Result<()> {
    let (from, to) = pair(cluster, from, to)?;
    asking::reached(cluster, &from, &to)
}

fn status(cluster: &Cluster, number: u8) -> Result<Status> {
    let text = podwire::ask_agent(cluster, number, &["status", "-o", "json"])?;
    serde_json::from_str(&text).with_context(|| text.clone())
}

fn peer(cluster: &Cluster, number: u8, other: u8) -> Result<Peer> {
    let text = podwire::ask_agent(cluster, number, &["peers", "-o", "json"])?;
    let peers: Vec<Peer> = serde_json::from_str(&text).with_context(|| text.clone())?;
    let mut peers = peers.into_iter();
    let found = peers.find(|peer| peer.node == name(other));
    found.with_context(|| format!("no {} in {text}", name(other)))
}

/// Status and peers of an agent name each pair as it is.
fn agent_tells(cluster: &Cluster, number: u8) -> Result<()> {
    let plaintext = plaintext_peers(number);
    let own = if encrypts(number) {
        "encrypted"
    } else {
        "host-network"
    };
    let said = status(cluster, number)?;
    ensure!(
        said.ready && said.mode == own && said.plaintext == plaintext,
        "{said:?}"
    );
    let text = podwire::ask_agent(cluster, number, &["status"])?;
    let line = format!("PLAINTEXT   with {} (declared)", plaintext.join(", "));
    ensure!(text.lines().any(|it| it == line), "{text}");
    for other in others(number) {
        let peer = peer(cluster, number, other)?;
        if plaintext.contains(&name(other)) {
            let is_plain = peer.mode == "host-network" && peer.state == "plaintext";
            ensure!(is_plain, "{} of {number}: {peer:?}", name(other));
        } else {
            let is_tunnel = peer.mode == "encrypted" && peer.state == "up";
            let has_carried = peer.received_packets > 0 && peer.sent_packets > 0;
            ensure!(
                is_tunnel && has_carried,
                "{} of {number}: {peer:?}",
                name(other)
            );
        }
    }
    Ok(())
}

/// As Prometheus asks: at the node's own address, from another node.
fn metric_tells(bed: &Testbed, cluster: &Cluster, number: u8) -> Result<()> {
    let address = *cluster.node(number).addresses().first().context("one")?;
    let address = SocketAddr::new(address, METRICS_PORT);
    let asker = others(number).next().context("another node")?;
    let (_, text) = get_at(bed.node(asker), address, "/metrics")?;
    let line = format!("podwire_plaintext_peers {}", plaintext_peers(number).len());
    ensure!(text.lines().any(|it| it == line), "no {line} in {text}");
    Ok(())
}

/// Waits for an Event of a Node, as `kubectl describe node` shows it.
fn event_tells(cluster: &Cluster, number: u8, reason: &str, part: &str) -> Result<()> {
    let fields = format!(
        "--field-selector=involvedObject.kind=Node,involvedObject.name={},reason={reason}",
        name(number)
    );
    let get = ["get", "events", "--namespace=default", "-o=json", &fields];
    until(DEADLINE, "an Event of the Node", || {
        let text = cluster.plane().kubectl(&get, "")?;
        let events: Value = serde_json::from_str(&text)?;
        let mut events = events["items"].as_array().into_iter().flatten();
        let is_said =
            events.any(|event| event["message"].as_str().is_some_and(|m| m.contains(part)));
        ensure!(is_said, "{reason} of {}: {text}", name(number));
        Ok(())
    })
}

fn keyctl_tells(bed: &Testbed, cluster: &Cluster) -> Result<()> {
    let run = keyctl::run(bed, cluster.plane(), ADMIN_TOKEN, &["status"])?;
    // Plaintext that no request asks for is a degraded mesh.
    ensure!(run.code == Some(3), "{run:?}");
    for number in 1..=NODES {
        let mut lines = run.out.lines();
        let line = lines.find(|line| line.starts_with(&name(number)));
        let line = line.with_context(|| format!("{run:?}"))?;
        let words: Vec<_> = line.split_whitespace().collect();
        let [_, state, mode, ..] = words[..] else {
            bail!("{line}");
        };
        let is_told = if encrypts(number) {
            state == "ok" && mode == "encrypted"
        } else {
            state.starts_with("plaintext") && mode == "host-network"
        };
        ensure!(is_told, "{}", run.out);
    }
    Ok(())
}

/// The overlay `strict` with the component for single nodes over it.
const STRICT_AND_SINGLE_NODES: &str = "resources: [DEPLOY/overlays/strict]\n\
    components: [DEPLOY/overlays/host-network-nodes/component]\n";

fn strict_refuses(context: &Context) -> Result<()> {
    let (bed, cluster) = scene::cluster(context, NODES, &podwire::plan()?)?;
    prepare(&cluster)?;
    // Not in the testbed's folder, to which there is no way that kustomize would follow.
    let folder = tempfile::tempdir()?;
    podwire::write_kustomization(folder.path(), STRICT_AND_SINGLE_NODES)?;
    let own = folder.path().to_str().context("a path that is text")?;
    podwire::apply(&cluster, own)?;
    cluster.wait_rolled_out(podwire::NAMESPACE, podwire::SINGLE_NODES_DAEMON_SET)?;
    scene::create_pods_everywhere(&cluster)?;
    for from in 1..=DECLARED {
        // Each pod reaches itself: it is there, and asks as it should.
        until(DEADLINE, "a pod", || reached(&cluster, from, from))?;
    }
    for (from, to) in [(1, 2), (2, 1)] {
        until(DEADLINE, "the tunnel", || reached(&cluster, from, to))?;
    }
    denied_agent_says_why(&cluster)?;
    for number in 1..DECLARED {
        let said = status(&cluster, number)?;
        ensure!(said.ready && said.plaintext.is_empty(), "{said:?}");
        let why = said.closed.get(&name(DECLARED)).map_or("", String::as_str);
        ensure!(why.contains("--host-network-peers refuse"), "{said:?}");
        event_tells(&cluster, number, "PairsClosed", why)?;
        for (asked, other) in [(number, DECLARED), (DECLARED, number)] {
            let peer = peer(&cluster, asked, other)?;
            ensure!(peer.mode == "closed" && peer.state == "closed", "{peer:?}");
            let (from, to) = pair(&cluster, asked, other)?;
            asking::unreached(&cluster, &from, &to)?;
        }
    }
    // No plaintext at all, of which nothing is declared.
    bed.check().map(drop)
}

/// A node without a device does not start, and its pod's status has the reason.
fn denied_agent_says_why(cluster: &Cluster) -> Result<()> {
    until(DEADLINE, "the agent to end", || {
        let pod = podwire::agent_on(cluster, DENIED)?;
        let containers = pod.status.unwrap_or_default().container_statuses;
        let containers = containers.unwrap_or_default();
        let states = containers.iter().flat_map(|it| [&it.state, &it.last_state]);
        let mut ended = states.flatten().filter_map(|it| it.terminated.as_ref());
        let says_why = ended.any(|it| {
            let message = it.message.as_deref().unwrap_or_default();
            message.contains("no TUN device") && message.contains("not permitted")
        });
        ensure!(
            says_why && containers.iter().all(|it| !it.ready),
            "{containers:?}"
        );
        Ok(())
    })?;
    let ready = cluster.ready_condition(&name(DENIED))?;
    ensure!(ready.status == "False", "{ready:?}");
    Ok(())
}
