//! Routes and rules of others that stand in the way are named everywhere and touched nowhere.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, drops, status, wait_whole};
use podwire_testbed::kernel_state::{KernelState, guard_table};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{IpVersion, Node, Protocol, Testbed, Topology, matrix, until};

pub(crate) const TESTS: &[Test] = &[(
    "a_foreign_route_or_rule_in_the_way_is_named_in_status_metric_and_log_and_never_touched",
    named_and_untouched,
)];

/// What others set up on node 1, and how it is named; nothing leads to a host that exists.
const IN_THE_WAY: [(&str, &str); 6] = [
    (
        "route add 10.244.2.0/24 via 192.0.2.99 table 119 metric 7 proto static",
        "route 10.244.2.0/24 metric 7 by eth0 of protocol 4, in table 119",
    ),
    (
        "route add blackhole 10.244.2.128/25 table 119 proto bird",
        "route 10.244.2.128/25 metric 0 to nowhere of protocol 12, in table 119",
    ),
    (
        "route add fd00:10:244:2::/65 dev cni0 table 119 metric 9 proto static",
        "route fd00:10:244:2::/65 metric 9 by cni0 of protocol 4, in table 119",
    ),
    (
        "rule add priority 100 to 10.244.2.0/24 lookup 77",
        "rule 100 to table 77 with route 0.0.0.0/0 metric 0 by eth0 of protocol 3",
    ),
    (
        "-6 rule add priority 101 to fd00:10:244:2::/64 prohibit",
        "IPv6 rule 101 that refuses",
    ),
    (
        "route add 10.244.1.128/25 via 198.51.100.1 dev eth1 proto static",
        "route 10.244.1.128/25 metric 0 by eth1 of protocol 4",
    ),
];

/// Another way out of node 1, to which no peer, no default route and no record lead.
const OTHER_WAY_OUT: [&str; 5] = [
    "link add eth1 type veth peer name eth1-far",
    "link set eth1-far up",
    "link set eth1 up",
    "address add 198.51.100.11/24 dev eth1",
    "neighbor add 198.51.100.1 lladdr 02:00:00:00:00:01 dev eth1",
];

/// What others may well have, and what is in nobody's way: the main table is not asked.
const HARMLESS: [&str; 8] = [
    "route add default via 192.0.2.99 table 77",
    "route add 10.244.2.0/24 via 192.0.2.99 metric 7 proto static",
    "route add blackhole 10.244.2.128/25 proto bird",
    "route add fd00:10:244:2::/65 dev cni0 metric 9 proto static",
    "route add 10.0.0.0/8 via 192.0.2.99 metric 5 proto static",
    "route add 10.244.1.77/32 dev cni0 proto static",
    "rule add priority 102 fwmark 0x7 lookup 77",
    "rule add priority 103 from 192.0.2.11 lookup 77",
];

/// Runs lines of ip(8) one by one: a batch knows no other family's rules.
fn ip(node: &Node, lines: &[String]) -> Result<()> {
    lines.iter().try_for_each(|line| {
        let arguments: Vec<_> = line.split(' ').collect();
        node.namespace().output("ip", &arguments, "").map(drop)
    })
}

/// The line that removes again what a line of ip(8) has added.
fn removal(line: &str) -> String {
    line.replacen(" add ", " del ", 1)
}

/// Routes and rules of a node that are not Podwire's.
fn foreign(node: &Node) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for arguments in [
        ["-4", "route", "show", "table", "all"].as_slice(),
        &["-6", "route", "show", "table", "all"],
        &["-4", "rule", "show"],
        &["-6", "rule", "show"],
    ] {
        let text = node.namespace().output("ip", arguments, "")?;
        let others = text
            .lines()
            .filter(|line| !line.contains("proto 119") && !line.contains("dev podwire0"));
        lines.extend(others.map(|line| line.trim().to_owned()));
    }
    Ok(lines)
}

/// What Prometheus reads of a node.
fn metrics(node: &Node) -> Result<String> {
    let mut stream = node
        .namespace()
        .run(|| TcpStream::connect("127.0.0.1:9587"))
        .context("connecting to the metrics port")?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Waits until exactly these are named, in status and metric alike.
fn wait_named(node: &Node, expected: &[&str]) -> Result<()> {
    let mut expected: Vec<_> = expected.to_vec();
    expected.sort_unstable();
    until(CONVERGENCE, "what is in the way to be named", || {
        let mut named = status(node)?.obstacles;
        named.sort_unstable();
        ensure!(named == expected, "named: {named:?}");
        let text = metrics(node)?;
        let count = format!("podwire_obstacles {}", expected.len());
        ensure!(text.contains(&count), "no {count} in:\n{text}");
        for what in &expected {
            let series = format!("podwire_obstacle{{what=\"{what}\"}} 1");
            ensure!(text.contains(&series), "no {series} in:\n{text}");
        }
        Ok(())
    })
}

/// How often the log warns of something.
fn warned(node: &Node, what: &str) -> usize {
    let log = node.log();
    let lines = log.lines().filter(|line| {
        line.contains(" WARN ") && line.contains("stands in the way") && line.contains(what)
    });
    lines.count()
}

fn named_and_untouched(context: &Context) -> Result<()> {
    let bed = context.mesh(&Topology::new().nodes(2).pods_per_node(1))?;
    wait_whole(&bed)?;
    let node = bed.node(1);
    ip(node, &OTHER_WAY_OUT.map(str::to_owned))?;
    until(CONVERGENCE, "the other way out to be guarded", || {
        let table = guard_table(node)?;
        ensure!(table.contains("\"eth1\""), "{table}");
        Ok(())
    })?;
    let whole = KernelState::of(node)?;
    ip(node, &HARMLESS.map(str::to_owned))?;
    wait_named(node, &[])?;
    matrix::all_reached(&bed.matrix().run()).context("with harmless routes")?;

    let lines = IN_THE_WAY.map(|(line, _)| line.to_owned());
    ip(node, &lines)?;
    let names = IN_THE_WAY.map(|(_, name)| name);
    wait_named(node, &names)?;
    let before = foreign(node)?;
    nothing_passes(&bed)?;
    // A repair goes round them.
    node.namespace()
        .nft("flush ruleset\n")
        .context("flushing")?;
    until(CONVERGENCE, "the node to be whole", || {
        whole.is_that_of(node)
    })?;
    for name in names {
        let times = warned(node, name);
        ensure!(times == 1, "{name} is logged {times} times");
    }
    let text = node.agent_output(&["status"])?;
    ensure!(text.contains(names[0]), "not in `status`:\n{text}");
    // And so does the next agent.
    node.kill_agent()?;
    node.start_agent()?;
    node.wait_ready()?;
    wait_named(node, &names)?;
    let after = foreign(node)?;
    ensure!(before == after, "{before:?}, then {after:?}");

    ip(node, &lines.map(|line| removal(&line)))?;
    wait_named(node, &[])?;
    until(CONVERGENCE, "the mesh to be whole again", || {
        matrix::all_reached(&bed.matrix().run())
    })?;
    replaced(&bed, &whole)
}

/// Traffic is led astray and refused, in both families; the capture sees whether it is.
fn nothing_passes(bed: &Testbed) -> Result<()> {
    for version in [IpVersion::V4, IpVersion::V6] {
        let target = bed.pod(2, 1).host().address(version)?;
        let probe = bed.probe(bed.pod(1, 1).host(), Protocol::Udp, target);
        let answer = probe.timeout(Duration::from_secs(1)).ask();
        ensure!(answer.is_err(), "{target} answered past foreign routes");
    }
    // Nobody has this address of node 1's pods, and another machine would be asked for it.
    let refused = egress_refused(bed.node(1))?;
    let absent = "10.244.1.200".parse()?;
    let probe = bed.probe(bed.node(1).host(), Protocol::Udp, absent);
    let answer = probe.timeout(Duration::from_secs(1)).ask();
    ensure!(answer.is_err(), "{absent} answered");
    until(CONVERGENCE, "the refusal to be counted", || {
        let now = egress_refused(bed.node(1))?;
        ensure!(now > refused, "{now} refused");
        Ok(())
    })
}

/// What the egress guard has refused.
fn egress_refused(node: &Node) -> Result<u64> {
    let drops = drops(node)?;
    Ok(drops.get("guard-egress").copied().unwrap_or_default())
}

/// Somebody puts a route of its own in the very place of one of ours.
fn replaced(bed: &Testbed, whole: &KernelState) -> Result<()> {
    let node = bed.node(1);
    let key = "10.244.2.0/24 via 192.0.2.99 metric 1024 proto static";
    ip(node, &[format!("route replace {key}")])?;
    wait_named(
        node,
        &["route 10.244.2.0/24 metric 1024 by eth0 of protocol 4"],
    )?;
    until(CONVERGENCE, "the problem to be told", || {
        let problems = status(node)?.problems.join("; ");
        ensure!(problems.contains("stands in the way"), "{problems}");
        Ok(())
    })?;
    let changes = status(node)?.reconcile.kernel_changes;
    ip(node, &[format!("route del {key}")])?;
    until(CONVERGENCE, "the node to be whole", || {
        whole.is_that_of(node)
    })?;
    wait_named(node, &[])?;
    let now = status(node)?.reconcile.kernel_changes;
    ensure!(
        now == changes + 1,
        "{} changes for one route",
        now - changes
    );
    until(CONVERGENCE, "the mesh to be whole again", || {
        matrix::all_reached(&bed.matrix().run())
    })
}
