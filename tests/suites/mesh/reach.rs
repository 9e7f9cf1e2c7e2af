//! Every pod reaches every pod, and nothing translates between them.

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Family, Topology, UnderlayKind, matrix};

use podwire_testbed::agent_view::status;

pub(crate) const TESTS: &[Test] = &[
    ("every_pod_reaches_every_pod_on_eight_nodes", |context| {
        reach(context, &Topology::new().nodes(8).pods_per_node(1))
    }),
    ("every_pod_reaches_every_pod_on_three_nodes", |context| {
        reach(context, &Topology::new())
    }),
    ("every_pod_reaches_every_pod_over_ipv4_alone", |context| {
        reach(context, &Topology::new().family(Family::V4))
    }),
    ("every_pod_reaches_every_pod_over_ipv6_alone", |context| {
        reach(context, &Topology::new().family(Family::V6))
    }),
    (
        "dual_stack_pods_reach_each_other_over_an_ipv6_underlay",
        |context| reach(context, &Topology::new().underlay_family_only(Family::V6)),
    ),
    ("every_pod_reaches_every_pod_across_a_router", |context| {
        reach(context, &Topology::new().underlay(UnderlayKind::TwoLans))
    }),
];

fn reach(context: &Context, topology: &Topology) -> Result<()> {
    let bed = context.mesh(topology)?;
    matrix::all_reached(&bed.matrix().run()).context("while sessions are made")?;
    matrix::all_reached(&bed.matrix().attempts(1).run()).context("with sessions, each once")?;
    for node in bed.nodes() {
        let status = status(node)?;
        ensure!(
            status.peers.encrypted == bed.nodes().len() - 1,
            "{status:?}"
        );
        ensure!(
            status.refusals.is_empty() && status.plaintext.is_empty(),
            "{status:?}"
        );
        ensure!(
            status.problems.is_empty() && status.reconcile.errors == 0,
            "{status:?}"
        );
    }
    // The capture would also count nothing if nothing had crossed the underlay.
    let report = bed.capture().report()?;
    ensure!(report.wireguard.transport.frames > 0, "{report:?}");
    ensure!(report.wireguard.malformed.frames == 0, "{report:?}");
    Ok(())
}
