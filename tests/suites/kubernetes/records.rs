//! What somebody else does to a record is undone.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, wait_whole};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{ControlPlane, until};

use crate::scene::{Flows, mesh, wait_records};

pub(crate) const TESTS: &[Test] = &[
    ("a_record_that_somebody_else_changed_heals", tampered),
    ("a_record_of_which_a_part_was_removed_heals", removed),
    ("garbage_beside_a_record_is_removed", garbage),
];

/// The agent's annotations of node 3.
fn record(cluster: &ControlPlane) -> Result<BTreeMap<String, String>> {
    let annotations = cluster
        .node("node-3")?
        .metadata
        .annotations
        .unwrap_or_default();
    let is_record = |(key, _): &(String, String)| key.starts_with("podwire.dev/");
    Ok(annotations.into_iter().filter(is_record).collect())
}

/// Changes node 3's annotations as an administrator whom no policy stops.
fn heals(context: &Context, changes: &[&str]) -> Result<()> {
    let (bed, cluster) = mesh(context)?;
    let binding = "validatingadmissionpolicybinding";
    cluster.kubectl(&["delete", binding, "podwire-annotations"], "")?;
    let before = record(&cluster)?;
    let flows = Flows::start(&bed, &[(1, 2)])?;
    for (records, change) in (4..).zip(changes) {
        let arguments = ["annotate", "--overwrite", "node", "node-3", *change];
        until(CONVERGENCE, "the policy to be gone", || {
            cluster.kubectl(&arguments, "").map(drop)
        })?;
        until(CONVERGENCE, &format!("{change} to be undone"), || {
            let after = record(&cluster)?;
            ensure!(after == before, "{after:?} in place of {before:?}");
            Ok(())
        })?;
        // Three at the beginning, and one for each change.
        wait_records(&cluster, records)?;
    }
    wait_whole(&bed)?;
    flows.lost_nothing()
}

fn tampered(context: &Context) -> Result<()> {
    heals(
        context,
        &[
            "podwire.dev/public-key=AAAA",
            "podwire.dev/mode=plaintext",
            "podwire.dev/pod-cidrs=0.0.0.0/0",
            "podwire.dev/endpoints=203.0.113.7:51880",
        ],
    )
}

fn removed(context: &Context) -> Result<()> {
    heals(context, &["podwire.dev/public-key-", "podwire.dev/mode-"])
}

fn garbage(context: &Context) -> Result<()> {
    heals(
        context,
        &[
            "podwire.dev/next-public-key=garbage",
            "podwire.dev/of-a-later-version=1",
        ],
    )
}
