//! Pods that move to another node, nodes that others take the place of, and services of nodes that
//! are started again, while pods talk.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1 as core;
use kube::Api;
use kube::api::ListParams;
use podwire_testbed::cluster::Service;
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Cluster, ClusterNode, until};
use serde_json::json;

use crate::podwire;
use crate::rollout::{NODES, all_reach_all, annotations, pods};
use crate::scene::{self, DEADLINE, EVERYWHERE, NAMESPACE, PORT, name_on};
use crate::services::{self, SERVICE_PORT};
use crate::streams::Streams;
use crate::talks::{self, How, Place, Talk};

pub(crate) const TESTS: &[Test] = &[(
    "services_of_nodes_restart_pods_move_and_nodes_are_replaced_and_nothing_leads_to_the_old_place",
    moved,
)];

/// Few enough that a busy machine loses none by itself.
const RATE: u32 = 100;

/// Where streams are counted, and where talks tell how they are.
const STREAM_PORT: u16 = 9200;
const CONNECTIONS_TELL: u16 = 9100;
const DATAGRAMS_TELL: u16 = 9101;
const NEW_CONNECTIONS_TELL: u16 = 9102;

/// The label `app`, and the Service, of the pod that moves.
const MOVER: &str = "mover";

fn moved(context: &Context) -> Result<()> {
    let (_bed, cluster) = scene::cluster(context, NODES, &podwire::plan()?)?;
    podwire::roll_out(&cluster, "")?;
    cluster.wait_ready()?;
    scene::pods_everywhere(&cluster)?;
    all_reach_all(&cluster)?;
    forget_idle_connections(&cluster)?;
    services_restart(&cluster).context("services that restart")?;
    a_pod_moves(&cluster).context("a pod that moves")?;
    a_node_is_replaced(&cluster).context("a node that is replaced")
}

/// kubelet, container runtime and proxy start again while pods talk: nothing is lost.
fn services_restart(cluster: &Cluster) -> Result<()> {
    let pods = pods(cluster)?;
    let connections = talks::between_all(cluster, &pods, CONNECTIONS_TELL, PORT.parse()?)?;
    let streams = Streams::start(cluster, &pods, STREAM_PORT, RATE)?;
    let before = restarts_of_agents(cluster)?;
    for node in cluster.nodes() {
        for service in [Service::Kubelet, Service::Containerd, Service::KubeProxy] {
            node.restart(service)?;
        }
        // Both have a part in it.
        let pod = name_on(cluster, EVERYWHERE, node.number())?;
        until(DEADLINE, "kubelet and container runtime to be back", || {
            cluster.exec(NAMESPACE, &pod, &["true"])
        })?;
    }
    let streams = streams.end()?;
    let lost: u64 = streams.iter().map(|stream| stream.lost).sum();
    ensure!(lost == 0, "{streams:?}");
    for connection in &connections {
        connection.wait_for_more(1)?;
        connection.unbroken()?;
    }
    let after = restarts_of_agents(cluster)?;
    ensure!(before == after, "agents were restarted: {after:?}");
    // Who goes on asking a pod that is no more is remembered as a connection to it.
    connections.into_iter().try_for_each(Talk::end)
}

/// The agents' pods, and how often each has started again.
fn restarts_of_agents(cluster: &Cluster) -> Result<String> {
    let fields = "{range .items[*]}{.metadata.uid} \
                  {.status.containerStatuses[*].restartCount}{\"\\n\"}{end}";
    let output = format!("--output=jsonpath={fields}");
    let get = ["--namespace", podwire::NAMESPACE, "get", "pods", &output];
    cluster.plane().kubectl(&get, "")
}

/// A pod behind a Service.
struct Mover {
    name: String,
    node: u8,
    addresses: Vec<IpAddr>,
}

impl Mover {
    fn of(cluster: &Cluster) -> Result<Self> {
        let pods: Api<core::Pod> = Api::namespaced(cluster.plane().client(), NAMESPACE);
        let which = ListParams::default().labels(&format!("app={MOVER}"));
        let pods = cluster.plane().run(pods.list(&which))?.items;
        let mut pods = pods
            .into_iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_none());
        let (Some(pod), None) = (pods.next(), pods.next()) else {
            bail!("there is not one pod of {MOVER}");
        };
        let name = pod.metadata.name.context("a pod of the API has a name")?;
        let node = pod.spec.and_then(|spec| spec.node_name);
        let mut nodes = cluster.nodes().iter();
        let node = nodes.find(|other| Some(other.name()) == node.as_deref());
        Ok(Self {
            addresses: cluster.pod_addresses(NAMESPACE, &name)?,
            node: node.context("it is on no node yet")?.number(),
            name,
        })
    }
}

/// A pod is evicted while clients on every node, and a node itself, keep asking the Service that it
/// is behind.
fn a_pod_moves(cluster: &Cluster) -> Result<()> {
    let old_node = cluster.node(2).name();
    for node in [1, 3] {
        kubectl(cluster, &["cordon", cluster.node(node).name()])?;
    }
    scene::deploy(cluster, MOVER, 1, scene::server())?;
    let service = services::create(cluster, MOVER, MOVER, &json!({}))?;
    for node in [1, 3] {
        kubectl(cluster, &["uncordon", cluster.node(node).name()])?;
    }
    let old = Mover::of(cluster)?;
    ensure!(old.node == 2, "{} is on node {}", old.name, old.node);
    let asking = ask(cluster, &service, &[1, 2, 3])?;
    all_answered_by(&asking, &old)?;
    let seen = until(DEADLINE, "connections to the pod to be seen", || {
        let seen = connections_of(cluster, &old.addresses)?;
        ensure!(seen.len() > usize::from(NODES), "only {seen:?}");
        Ok(seen)
    })?;
    ensure!(!seen.is_empty(), "the check sees no connections");

    let drain = [
        "drain",
        old_node,
        "--ignore-daemonsets",
        &format!("--pod-selector=app={MOVER}"),
    ];
    kubectl(cluster, &drain)?;
    cluster.wait_rolled_out(NAMESPACE, &format!("deployment/{MOVER}"))?;
    let new = until(DEADLINE, "the new pod", || Mover::of(cluster))?;
    ensure!(new.node != old.node, "it is where it was");
    all_answered_by(&asking, &new)?;
    nothing_leads_to(cluster, &old.addresses)?;
    leads_to_its_node(cluster, &new)?;
    asking.into_iter().try_for_each(Talk::end)?;
    kubectl(cluster, &["uncordon", old_node])
}

fn kubectl(cluster: &Cluster, arguments: &[&str]) -> Result<()> {
    cluster.plane().kubectl(arguments, "").map(drop)
}

/// What is left of connections that have ended goes within five seconds, in place of minutes: what
/// is there after that is kept by somebody's packets.
fn forget_idle_connections(cluster: &Cluster) -> Result<()> {
    const SHORTEN: &str = "for protocol in udp tcp; do \
        for setting in /proc/sys/net/netfilter/nf_conntrack_${protocol}_timeout*; do \
        case $setting in *established) ;; *) echo 5 >$setting ;; esac; done; done";
    for node in cluster.nodes() {
        node.run("sh", &["-ec", SHORTEN], "")?;
    }
    Ok(())
}

/// A pod on each of these nodes, and node 1 itself, ask at all addresses of a Service.
fn ask<'a>(cluster: &'a Cluster, service: &[IpAddr], nodes: &[u8]) -> Result<Vec<Talk<'a>>> {
    let port = SERVICE_PORT.parse()?;
    let target = |address: &IpAddr| SocketAddr::new(*address, port);
    let targets: Vec<_> = service.iter().map(target).collect();
    let mut places = vec![Place::Host(cluster.node(1))];
    for number in nodes {
        let pod = name_on(cluster, EVERYWHERE, *number)?;
        places.push(Place::Pod(cluster, pod));
    }
    let mut asking = Vec::new();
    for place in places {
        for (tell, how) in [
            (DATAGRAMS_TELL, How::Datagrams),
            (NEW_CONNECTIONS_TELL, How::Connections),
        ] {
            asking.push(Talk::start(place.clone(), tell, how, &targets)?);
        }
    }
    Ok(asking)
}

fn all_answered_by(asking: &[Talk<'_>], pod: &Mover) -> Result<()> {
    for talk in asking {
        until(DEADLINE, "answers of the pod behind the Service", || {
            for told in talk.told()? {
                ensure!(told.last == pod.name, "not of {}: {told:?}", pod.name);
            }
            Ok(())
        })?;
        talk.wait_for_more(10)?;
    }
    Ok(())
}

/// What each node remembers of connections of these addresses, all of which it would lead to them.
fn connections_of(cluster: &Cluster, addresses: &[IpAddr]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for node in cluster.nodes() {
        let all = node.run("cat", &["/proc/net/nf_conntrack"], "")?;
        let of_them = all.lines().filter(|line| {
            let names = |address: &IpAddr| {
                let address = in_full(*address);
                ["src", "dst"]
                    .iter()
                    .any(|side| line.contains(&format!("{side}={address} ")))
            };
            addresses.iter().any(names)
        });
        found.extend(of_them.map(|line| format!("{}: {line}", node.name())));
    }
    Ok(found)
}

/// An address as /proc/net/nf_conntrack has it.
fn in_full(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let segments = address.segments().map(|segment| format!("{segment:04x}"));
            segments.join(":")
        }
    }
}

/// No node has a connection or a route of its own to an address.
fn nothing_leads_to(cluster: &Cluster, addresses: &[IpAddr]) -> Result<()> {
    until(DEADLINE, "connections to the old place to be gone", || {
        let left = connections_of(cluster, addresses)?;
        ensure!(left.is_empty(), "{left:#?}");
        Ok(())
    })?;
    for node in cluster.nodes() {
        for address in addresses {
            let routes = routes(node)?;
            let mut of_it = routes.iter().filter(|route| {
                let words = route.split_whitespace();
                words
                    .map(|word| word.split('/').next().unwrap_or_default())
                    .any(|word| word == address.to_string())
            });
            let left = of_it.next();
            ensure!(left.is_none(), "{} has {left:?}", node.name());
        }
    }
    Ok(())
}

/// Every route of a node, of all tables and both families.
fn routes(node: &ClusterNode) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for version in ["-4", "-6"] {
        let show = [version, "route", "show", "table", "all"];
        lines.extend(node.run("ip", &show, "")?.lines().map(str::to_owned));
    }
    Ok(lines)
}

/// Its own node sends to it by the bridge, all others by the tunnel.
fn leads_to_its_node(cluster: &Cluster, pod: &Mover) -> Result<()> {
    for node in cluster.nodes() {
        let device = if node.number() == pod.node {
            "podwire-bridge"
        } else {
            "podwire0"
        };
        for address in &pod.addresses {
            let way = node.run("ip", &["route", "get", &address.to_string()], "")?;
            ensure!(
                way.contains(&format!(" dev {device} ")),
                "{}: {way}",
                node.name()
            );
        }
    }
    Ok(())
}

/// Another machine takes a node's name: with other keys, and other pod CIDRs.
fn a_node_is_replaced(cluster: &Cluster) -> Result<()> {
    let name = cluster.node(2).name();
    let old_key = key_of(cluster, name)?;
    let old_cidrs = cluster.plane().pod_cidrs(name)?;
    let pod = name_on(cluster, EVERYWHERE, 2)?;
    let old_addresses = cluster.pod_addresses(NAMESPACE, &pod)?;
    let service = services::create(cluster, services::WEB, EVERYWHERE, &json!({}))?;
    let asking = ask(cluster, &service, &[1, 3])?;
    until(DEADLINE, "connections to the pod to be seen", || {
        let seen = connections_of(cluster, &old_addresses)?;
        ensure!(!seen.is_empty(), "the check sees no connections");
        Ok(())
    })?;
    cluster.replace(2)?;
    until(DEADLINE, "the pods of the new node to be reached", || {
        all_reach_all(cluster)
    })?;
    let (key, cidrs) = (key_of(cluster, name)?, cluster.plane().pod_cidrs(name)?);
    ensure!(key != old_key, "the new machine has the old one's key");
    ensure!(cidrs != old_cidrs, "nothing is to be seen of old routes");
    for number in [1, 3] {
        let node = cluster.node(number);
        until(DEADLINE, "the old machine to be forgotten", || {
            let peers = podwire::ask_agent(cluster, number, &["peers", "-o", "json"])?;
            ensure!(peers.contains(&key), "the new one is no peer: {peers}");
            ensure!(!peers.contains(&old_key), "it is a peer still: {peers}");
            let routes = routes(node)?;
            let leads_to = |cidr: &ipnet::IpNet| {
                let cidr = cidr.to_string();
                let ways = routes.iter().filter(|route| {
                    route.contains("proto 119") && route.split(' ').any(|word| word == cidr)
                });
                ways.count() > 0
            };
            ensure!(cidrs.iter().all(leads_to), "no new route: {routes:#?}");
            ensure!(!old_cidrs.iter().any(leads_to), "an old one: {routes:#?}");
            Ok(())
        })?;
    }
    nothing_leads_to(cluster, &old_addresses)?;
    asking.iter().try_for_each(|talk| talk.wait_for_more(10))
}

fn key_of(cluster: &Cluster, node: &str) -> Result<String> {
    let annotations = annotations(cluster, node)?;
    let key = annotations.get("podwire.dev/public-key").cloned();
    key.with_context(|| format!("{node} has no key"))
}
