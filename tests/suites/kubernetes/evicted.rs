//! Node 3 is in somebody else's hands as a whole, in the midst of a rotation of its keys, and is
//! evicted as SECURITY.md says.

use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, peers, routes_to};
use podwire_testbed::control_plane::{ADMIN_TOKEN, AGENT_NAMESPACE, kubelet_token};
use podwire_testbed::foreign_wireguard::WIREGUARD_GO;
use podwire_testbed::kubernetes_mesh::wait_followed_by;
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::thief::{Stolen, Thief};
use podwire_testbed::wireguard_daemon::public_key;
use podwire_testbed::{ControlPlane, Testbed, keyctl, until};

use crate::scene::{Flows, annotation, mesh};

pub(crate) const TESTS: &[Test] = &[(
    "an_evicted_node_is_nobody_to_its_peers_and_to_the_api_with_all_that_was_on_it",
    evicted,
)];

/// What the intruder speaks WireGuard with.
static WIREGUARD: OnceLock<PathBuf> = OnceLock::new();

/// To be called before the sandbox is entered.
pub(crate) fn build() -> Result<()> {
    let program = WIREGUARD_GO.program(|| ())?;
    WIREGUARD.get_or_init(|| program);
    Ok(())
}

const CURRENT: Stolen = Stolen {
    of: 3,
    set: "current",
};
const NEXT: Stolen = Stolen { of: 3, set: "next" };

fn intruder(bed: &Testbed, stolen: Stolen) -> Result<Thief<'_>> {
    let program = WIREGUARD.get().context("it was not built")?;
    Thief::start(bed, program, stolen, (3, 1)).with_context(|| stolen.set)
}

fn evicted(context: &Context) -> Result<()> {
    let (bed, cluster) = mesh(context)?;
    let keys = [public_key(&bed, 1)?, public_key(&bed, 2)?];
    bed.node(3).agent_output(&["rotate"])?;
    wait_phase(&cluster, "node-3", "announced")?;
    // What follows is done with what was there; the agent would write the next phase.
    bed.node(3).stop_agent()?;
    let agent = cluster.agent_credentials("node-3", CONVERGENCE * 60)?;
    let tokens = [agent.token()?, kubelet_token("node-3")];
    // As long as nobody has noticed, all that was there is good.
    writes_its_record(&cluster, &tokens[0])?;
    cluster.heartbeat("node-3")?;
    intruder(&bed, CURRENT)?.is_heard()?;
    let thief = intruder(&bed, NEXT)?;
    thief.is_heard()?;
    let flows = Flows::start(&bed, &[(1, 2)])?;
    evict(&bed, &cluster, &tokens[0])?;
    thief.is_cut_off()?;
    thief.is_refused().context("with the next key")?;
    drop(thief);
    let thief = intruder(&bed, CURRENT)?;
    thief.is_refused().context("with the current key")?;
    for token in &tokens {
        comes_not_back(&cluster, token)?;
    }
    for (number, key) in (1..).zip(keys) {
        ensure!(
            public_key(&bed, number)? == key,
            "node {number} has another"
        );
    }
    // Nobody waits for it.
    bed.node(2).agent_output(&["rotate"])?;
    wait_phase(&cluster, "node-2", "promoted confirmed=1/1")?;
    flows.lost_nothing()
}

fn wait_phase(cluster: &ControlPlane, node: &str, phase: &str) -> Result<()> {
    until(CONVERGENCE, &format!("{phase} of {node}"), || {
        let now = annotation(cluster, node, "rotation-phase")?;
        ensure!(now == phase, "{now}");
        Ok(())
    })
}

fn writes_its_record(cluster: &ControlPlane, token: &str) -> Result<()> {
    let change = "podwire.dev/key-created=2026-01-01T00:00:00Z";
    let arguments = ["annotate", "--overwrite", "node", "node-3", change];
    cluster.kubectl_as(token, &arguments, "").map(drop)
}

/// The steps of SECURITY.md in their order, but for the machine, which stays on the underlay.
fn evict(bed: &Testbed, cluster: &ControlPlane, agents_token: &str) -> Result<()> {
    cluster.kubectl(&["taint", "node", "node-3", "compromised=:NoSchedule"], "")?;
    cluster.revoke_kubelet("node-3")?;
    // That has restarted the API server; how soon a deletion is heard of is another matter.
    for node in [bed.node(1), bed.node(2)] {
        wait_followed_by(node)?;
    }
    cluster.kubectl(&["delete", "node", "node-3"], "")?;
    for node in [bed.node(1), bed.node(2)] {
        until(CONVERGENCE, "node-3 to be no peer", || {
            let rows = peers(node)?;
            ensure!(rows.iter().all(|row| row.node != "node-3"), "{rows:?}");
            let routes = routes_to(node, bed.node(3))?;
            ensure!(routes.is_empty(), "{routes:?}");
            Ok(())
        })?;
    }
    // Until its pod is deleted the token counts, and is no good for a Node.
    let created = cluster.kubectl_as(agents_token, CREATE, NODE).err();
    let created = format!("{:#}", created.context("it is created again")?);
    ensure!(created.contains("orbidden"), "{created}");
    let namespace = ["-n", AGENT_NAMESPACE, "delete", "pod"];
    let pod = ["podwire-agent-node-3", "--force"];
    cluster.kubectl(&[&namespace[..], &pod].concat(), "")?;
    for question in [&["status"][..], &["peers", "node-1"]] {
        let told = keyctl::run(bed, cluster, ADMIN_TOKEN, question)?;
        let names = |node| told.out.contains(node);
        ensure!(names("node-2") && !names("node-3"), "{told:?}");
    }
    Ok(())
}

/// The evicted Node, as whoever would bring it back creates it.
const CREATE: &[&str] = &["create", "--validate=false", "-f", "-"];
const NODE: &str = r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-3"}}"#;

/// Neither token is anybody's: it writes no record, and makes no Node.
fn comes_not_back(cluster: &ControlPlane, token: &str) -> Result<()> {
    let attempts = [
        (CREATE, NODE),
        (&["annotate", "node", "node-2", "podwire.dev/mode-"][..], ""),
        (&["get", "nodes"][..], ""),
    ];
    // The server remembers for some seconds whom it has accepted.
    until(CONVERGENCE, "the end of a token", || {
        for (arguments, input) in attempts {
            let refused = cluster.kubectl_as(token, arguments, input).err();
            let refused = format!("{:#}", refused.context(format!("{arguments:?} is done"))?);
            // HTTP's 401, in kubectl's words.
            let is_nobody = ["nauthorized", "provide credentials"];
            let is_nobody = is_nobody.iter().any(|words| refused.contains(words));
            ensure!(is_nobody, "{refused}");
        }
        Ok(())
    })?;
    ensure!(cluster.node("node-3").is_err(), "it is back");
    Ok(())
}
