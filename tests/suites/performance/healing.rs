//! How soon what somebody else took away or changed is back.

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
        samples: |context| heal(context, |node| ip(node, "link delete podwire0")),
    },
    Measure {
        name: "a_device_set_down_is_up_within_a_second",
        promise: "a device that was set down is up, with addresses and routes",
        bound: WITHIN,
        unit: "s",
        samples: |context| heal(context, |node| ip(node, "link set podwire0 down")),
    },
    Measure {
        name: "a_removed_address_is_back_within_a_second",
        promise: "the device's addresses that were flushed are back, with their routes",
        bound: WITHIN,
        unit: "s",
        samples: |context| heal(context, |node| ip(node, "address flush dev podwire0")),
    },
    Measure {
        name: "flushed_routes_are_back_within_a_second",
        promise: "all routes of protocol 119 that were flushed are back",
        bound: WITHIN,
        unit: "s",
        samples: |context| heal(context, flush_routes),
    },
    Measure {
        name: "a_flushed_table_is_back_within_a_second",
        promise: "the table is back after `nft flush ruleset`",
        bound: WITHIN,
        unit: "s",
        samples: |context| heal(context, |node| node.namespace().nft("flush ruleset\n")),
    },
    Measure {
        name: "a_changed_setting_of_the_device_is_back_within_a_second",
        promise: "a per-device setting that was changed is back",
        bound: WITHIN,
        unit: "s",
        samples: |context| heal(context, change_setting),
    },
];

fn ip(node: &Node, line: &str) -> Result<()> {
    node.namespace().ip(&[line.to_owned()])
}

fn flush_routes(node: &Node) -> Result<()> {
    ["-4", "-6"].iter().try_for_each(|version| {
        let arguments = [*version, "route", "flush", "proto", "119"];
        node.namespace().output("ip", &arguments, "").map(drop)
    })
}

fn change_setting(node: &Node) -> Result<()> {
    node.namespace().sysctl(&[
        ("ipv4/conf/podwire0/forwarding", "0"),
        ("ipv4/conf/podwire0/rp_filter", "1"),
    ])
}

/// From the moment before it is spoiled until it is seen to be as before.
fn heal(context: &Context, spoil: fn(&Node) -> Result<()>) -> Result<Vec<f64>> {
    let bed = context.mesh(&Topology::new().nodes(3).pods_per_node(1))?;
    wait_peers(&bed)?;
    until(CONVERGENCE, "the mesh to be whole", || {
        matrix::all_reached(&bed.matrix().run())
    })?;
    let node = bed.node(1);
    let whole = KernelState::of(node)?;
    let mut samples = Vec::new();
    for _ in 0..TIMES {
        let rested = Instant::now();
        until(CONVERGENCE, "the agent to rest", || {
            ensure!(rested.elapsed() >= REST, "not yet");
            Ok(())
        })?;
        let changes = status(node)?.reconcile.kernel_changes;
        let start = Instant::now();
        spoil(node)?;
        until(CONVERGENCE, "what was spoiled to be back", || {
            whole.is_that_of(node)
        })?;
        samples.push(seconds(start.elapsed()));
        ensure!(
            status(node)?.reconcile.kernel_changes > changes,
            "nothing was spoiled"
        );
    }
    matrix::all_reached(&bed.matrix().run()).context("at the end")?;
    Ok(samples)
}
