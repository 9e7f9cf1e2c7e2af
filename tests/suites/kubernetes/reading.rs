//! `keyctl` on a real API server.

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, status};
use podwire_testbed::control_plane::{Server, user_token};
use podwire_testbed::keyctl::{self, Run};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{ControlPlane, Testbed, until};
use serde_json::Value;

use crate::scene::mesh;

pub(crate) const TESTS: &[Test] = &[(
    "keyctl_tells_of_a_real_mesh_of_what_is_wrong_and_of_what_it_may_not_see",
    keyctl_reads,
)];

/// Runs it as this user.
fn run_as(bed: &Testbed, cluster: &ControlPlane, user: &str, arguments: &[&str]) -> Result<Run> {
    keyctl::run(bed, cluster, &user_token(user), arguments)
}

fn keyctl_reads(context: &Context) -> Result<()> {
    let (bed, cluster) = mesh(context)?;
    let role = ["--clusterrole=podwire-operator", "--user=alice"];
    let binding = ["create", "clusterrolebinding", "podwire-operators"];
    cluster.kubectl(&[&binding[..], &role].concat(), "")?;
    let alice = |arguments: &[&str]| run_as(&bed, &cluster, "alice", arguments);
    until(CONVERGENCE, "all to be well", || {
        let run = alice(&["status"])?;
        ensure!(run.code == Some(0), "{run:?}");
        for node in bed.nodes() {
            let key = status(node)?.public_key.context("no key")?;
            let mut lines = run.out.lines();
            let line = lines
                .find(|line| line.starts_with(node.name()))
                .context("no line")?;
            ensure!(line.contains(" ok ") && line.contains(&key[..8]), "{line}");
        }
        Ok(())
    })?;
    let run = alice(&["status", "-o", "json"])?;
    let json: Value = serde_json::from_str(&run.out).with_context(|| format!("{run:?}"))?;
    let key = &json["items"][0]["current"]["publicKey"];
    ensure!(
        key.as_str() == status(bed.node(1))?.public_key.as_deref(),
        "{json}"
    );
    let run = alice(&["peers", "node-1", "-o", "name"])?;
    ensure!(
        run.code == Some(0) && run.out == "node/node-2\nnode/node-3\n",
        "{run:?}"
    );
    let run = alice(&["verify"])?;
    ensure!(run.code == Some(0), "{run:?}");

    let policy = "podwire-annotations";
    cluster.kubectl(&["delete", "validatingadmissionpolicybinding", policy], "")?;
    let run = alice(&["verify"])?;
    ensure!(run.code == Some(3) && run.out.contains(policy), "{run:?}");
    // Who has no right is told so in one sentence, as is who gets no answer.
    let run = run_as(&bed, &cluster, "mallory", &["status"])?;
    let is_sentence = |run: &Run| run.out.is_empty() && run.err.lines().count() == 1;
    ensure!(run.code == Some(5) && is_sentence(&run), "{run:?}");
    cluster.stop_server(Server::ApiServer)?;
    let run = alice(&["status"])?;
    ensure!(run.code == Some(1) && is_sentence(&run), "{run:?}");
    Ok(())
}
