//! How soon what somebody else took away or changed is back.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, status, wait_peers};
use podwire_testbed::kernel_state::KernelState;
use podwire_testbed::suite::Context;
use podwire_testbed::{Node, Topology, matrix, until};

use crate::measure::{AtMost, Measure, seconds};

/// DESIGN.md section 7: the agent watches and puts it back within a second.
const WITHIN: AtMost = AtMost(1.0);

/// How often each is done.
const TIMES: usize = 20;

/// Between two of them the agent's own notifications settle, so that each is met at rest.
const REST: Duration = Duration::from_millis(500);

pub(crate) const MEASURES: &[Measure] = &[
    Measure {
        name: "a_deleted_device_is_back_within_a_second",
        promise: "a device that was deleted is back, with addresses and routes",
        bound: WITHIN,
        unit: "s",
        samples: |context| heal(context, |node| ip(node, "link delete podwire0"), routes),
    },
    Measure {
        name: "a_device_set_down_is_up_within_a_second",
        promise: "a device that was set down is up, with addresses and routes",
        bound: WITHIN,
        unit: "s",
        samples: |context| heal(context, |node| ip(node, "link set podwire0 down"), routes),
    },
    Measure {
        name: "a_removed_address_is_back_within_a_second",
        promise: "the device's addresses that were flushed are back, with their routes",
        bound: WITHIN,
        unit: "s",
        samples: |context| {
            heal(
                context,
                |node| ip(node, "address flush dev podwire0"),
                routes,
            )
        },
    },
    Measure {
        name: "flushed_routes_are_back_within_a_second",
        promise: "all routes of protocol 119 that were flushed are back",
        bound: WITHIN,
        unit: "s",
        samples: |context| heal(context, flush_routes, routes),
    },
    Measure {
        name: "a_flushed_table_is_back_within_a_second",
        promise: "the table is back after `nft flush ruleset`",
        bound: WITHIN,
        unit: "s",
        samples: |context| {
            heal(
                context,
                |node| node.namespace().nft("flush ruleset\n"),
                table,
            )
        },
    },
    Measure {
        name: "a_changed_setting_of_the_device_is_back_within_a_second",
        promise: "a per-device setting that was changed is back",
        bound: WITHIN,
        unit: "s",
        samples: |context| heal(context, change_setting, settings),
    },
];

fn ip(node: &Node, line: &str) -> Result<()> {
    node.namespace().ip(&[line.to_owned()])
}

fn flush_routes(node: &Node) -> Result<()> {
    ["-4", "-6"].iter().try_for_each(|version| {
        let arguments = [*version, "route", "flush", "table", "all", "proto", "119"];
        node.namespace().output("ip", &arguments, "").map(drop)
    })
}

fn change_setting(node: &Node) -> Result<()> {
    node.namespace().sysctl(&[
        ("ipv4/conf/podwire0/forwarding", "0"),
        ("ipv4/conf/podwire0/rp_filter", "1"),
    ])
}

/// What of a node's kernel a fault has spoiled, at the price of a few reads: a look that starts
/// programs would measure those on a machine that is busy.
type Look = fn(&Node) -> Result<Vec<String>>;

/// Routes and addresses of both versions.
fn routes(node: &Node) -> Result<Vec<String>> {
    let read = |name: &str| {
        let path = format!("/proc/thread-self/net/{name}");
        node.namespace().run(|| fs::read_to_string(&path))
    };
    // Those of IPv6 have counters of their use among their columns.
    let columns = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        [0, 1, 4, 5, 9]
            .map(|column| words.get(column).copied().unwrap_or_default())
            .join(" ")
    };
    let mut lines: Vec<String> = read("ipv6_route")?.lines().map(columns).collect();
    lines.extend(read("route")?.lines().map(str::to_owned));
    lines.extend(read("fib_trie")?.lines().map(str::to_owned));
    // The first column but one is the device's index.
    lines.extend(read("if_inet6")?.lines().map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        format!("{:?} {:?}", words.first(), words.last())
    }));
    lines.sort();
    Ok(lines)
}

fn settings(node: &Node) -> Result<Vec<String>> {
    let read = |name: &&str| {
        let path = format!("/proc/sys/net/ipv4/conf/podwire0/{name}");
        Ok(node.namespace().run(|| fs::read_to_string(&path))?)
    };
    ["forwarding", "rp_filter"].iter().map(read).collect()
}

/// Only nft(8) shows it.
fn table(node: &Node) -> Result<Vec<String>> {
    let arguments = ["list", "table", "inet", "podwire"];
    let text = node.namespace().output("nft", &arguments, "")?;
    // Counters count.
    let lines = text.lines().filter(|line| !line.contains("packets "));
    Ok(lines.map(str::to_owned).collect())
}

/// From the moment before it is spoiled until it is seen to be as before.
fn heal(context: &Context, spoil: fn(&Node) -> Result<()>, look: Look) -> Result<Vec<f64>> {
    let bed = context.mesh(&Topology::new().nodes(3).pods_per_node(1))?;
    wait_peers(&bed)?;
    until(CONVERGENCE, "the mesh to be whole", || {
        matrix::all_reached(&bed.matrix().run())
    })?;
    let node = bed.node(1);
    let (whole, seen) = (KernelState::of(node)?, look(node)?);
    let mut samples = Vec::new();
    for _ in 0..TIMES {
        let rested = Instant::now();
        until(CONVERGENCE, "the agent to rest", || {
            ensure!(rested.elapsed() >= REST, "not yet");
            Ok(())
        })?;
        let changes = status(node)?.reconcile.kernel_changes;
        // Before it: of a device that is deleted, `ip` tells only when the agent has seen it too.
        let start = Instant::now();
        spoil(node)?;
        until(CONVERGENCE, "what was spoiled to be back", || {
            ensure!(look(node)? == seen, "not yet");
            Ok(())
        })?;
        samples.push(seconds(start.elapsed()));
        // What a look of that kind does not see is back too.
        until(CONVERGENCE, "everything to be as before", || {
            whole.is_that_of(node)
        })?;
        ensure!(
            status(node)?.reconcile.kernel_changes > changes,
            "nothing was spoiled"
        );
    }
    matrix::all_reached(&bed.matrix().run()).context("at the end")?;
    Ok(samples)
}
