//! A record, however bad, harms the one node that it is about, and tells why.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, get, peer, wait_peers, wait_status};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Bystanders, Node, Protocol, Testbed, Topology, matrix, until};

use crate::attack::{Attack, Record};
use crate::claims::{Case, FILES, KEYS, PLACES, POD_CIDRS};

pub(crate) const TESTS: &[Test] = &[
    (
        "a_node_that_claims_others_pods_or_keys_is_refused_and_nobody_else_notices",
        |context| table(context, &[POD_CIDRS, KEYS]),
    ),
    (
        "a_record_that_cannot_be_read_or_believed_is_refused_and_nobody_else_notices",
        |context| table(context, &[PLACES, FILES]),
    ),
    (
        "an_old_copy_of_a_record_does_not_count_and_the_newer_one_stays",
        an_old_copy,
    ),
];

/// The node that says what it likes.
const ATTACKER: &str = "node-3";

/// Three nodes of two lanes, each of which every other one has confirmed. The attacker's Node is
/// the oldest, and nobody runs its agent any more.
fn mesh(context: &Context) -> Result<std::sync::Arc<Testbed>> {
    let topology = Topology::new()
        .pods_per_node(1)
        .agent_arguments(&["--lanes", "2"]);
    let bed = context.testbed(&topology)?;
    bed.node(3)
        .edit_manifest(|manifest| manifest.created = "2025-01-01T00:00:00Z".to_owned())?;
    bed.start_agents()?;
    wait_peers(&bed)?;
    matrix::all_reached(&bed.matrix().run())?;
    for (node, others) in [(1, ["node-2", ATTACKER]), (2, ["node-1", ATTACKER])] {
        confirmed(bed.node(node), others)?;
    }
    bed.node(3).kill_agent()?;
    Ok(bed)
}

/// Waits until the handshakes with these nodes are on disk: from here on they are incumbents.
fn confirmed(node: &Node, others: [&str; 2]) -> Result<()> {
    let path = node.state_dir().join("snapshot.json");
    let what = format!("{} to keep who is confirmed", node.name());
    until(CONVERGENCE, &what, || {
        let kept: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
        for other in others {
            let incumbent = &kept["incumbents"][other];
            ensure!(incumbent.is_object(), "{other} is not confirmed yet");
        }
        Ok(())
    })
}

fn table(context: &Context, tables: &[&[Case]]) -> Result<()> {
    let bed = mesh(context)?;
    let honest = Attack::of(&bed)?;
    let bystanders = Bystanders::watch(&bed)?;
    let mut before: Option<&Case> = None;
    let mut count = 0;
    for case in tables.iter().copied().flatten() {
        let distinct = before
            .is_none_or(|before| before.reason != case.reason || !before.says.contains(case.says));
        ensure!(
            distinct,
            "{}: told apart from its predecessor by nothing",
            case.name
        );
        let mut attack = honest.clone();
        (case.edit)(&mut attack);
        let logged = [1, 2].map(|number| bed.node(number).log().lines().count());
        attack.publish(&bed)?;
        refused(&bed, case, logged).with_context(|| case.name)?;
        bystanders.lost_nothing().with_context(|| case.name)?;
        before = Some(case);
        count += 1;
    }
    // Removed and added again, at each case at most.
    bystanders.untouched(2 * count)?;
    survives_a_restart(&bed, &honest)?;
    unread_it_keeps_its_keys(&bed, &honest)?;
    becomes_honest(&bed, &honest)
}

/// Both others say so in every way that they have, also in what they have logged since there were
/// so many lines, and go on with each other.
fn refused(bed: &Testbed, case: &Case, logged: [usize; 2]) -> Result<()> {
    for (node, logged) in [bed.node(1), bed.node(2)].into_iter().zip(logged) {
        let status = wait_status(node, case.name, |status| {
            status.refusals.get(ATTACKER).is_some_and(|refused| {
                refused.reason == case.reason && refused.message.contains(case.says)
            })
        })?;
        let refused = &status.refusals[ATTACKER];
        ensure!(
            refused.message.bytes().all(|b| (b' '..=b'~').contains(&b)),
            "{refused:?} is not for a terminal"
        );
        ensure!(
            status.refusals.len() == 1 && status.plaintext.is_empty(),
            "{status:?}"
        );
        let is_peer = status.peers.total == 2;
        ensure!(
            is_peer == (case.reason == "unreadable-requests"),
            "{}: {status:?}",
            node.name()
        );
        let log = node.log();
        let reason = format!("reason={}", case.reason);
        let words = [reason.as_str(), ATTACKER, case.says];
        let mut lines = log.lines().skip(logged);
        ensure!(
            lines.any(|line| words.iter().all(|word| line.contains(word))),
            "{words:?} are not in one line after the first {logged} of {log}"
        );
        let (_, metrics) = get(node, "/metrics")?;
        let sample = format!("podwire_refused_nodes{{reason=\"{}\"}} 1", case.reason);
        ensure!(metrics.contains(&sample), "no {sample} in {metrics}");
    }
    for (node, other) in [(bed.node(1), "node-2"), (bed.node(2), "node-1")] {
        let row = peer(node, other)?;
        ensure!(row.state == "up", "{row:?}");
    }
    Ok(())
}

/// Whom a handshake has confirmed is remembered by an observer that starts anew.
fn survives_a_restart(bed: &Testbed, honest: &Attack) -> Result<()> {
    let mut attack = honest.clone();
    attack.set("public-key", honest.victim["public-key"].clone());
    attack.be_given(&["10.244.2.0/24", "fd00:10:244:2::/64"]);
    attack.publish(bed)?;
    let observer = bed.node(1);
    observer.kill_agent()?;
    observer.start_agent()?;
    observer.wait_ready()?;
    wait_status(observer, "the older claimant to be refused", |status| {
        let refused = status.refusals.get(ATTACKER);
        status.peers.total == 1 && refused.is_some_and(|it| it.reason == "pod-cidrs-taken")
    })?;
    for target in bed.pod(2, 1).addresses() {
        let from = bed.pod(1, 1).host();
        bed.probe(from, Protocol::Tcp, target)
            .ask()
            .with_context(|| format!("{target} after a restart"))?;
    }
    Ok(())
}

/// While the file of an incumbent cannot be read, its keys are still nobody else's; nor does a
/// restart of the observer free them.
fn unread_it_keeps_its_keys(bed: &Testbed, honest: &Attack) -> Result<()> {
    let (observer, record) = (bed.node(1), bed.directory().record_path("node-2"));
    fs::remove_file(&record)?;
    fs::create_dir(&record)?;
    wait_status(observer, "the incumbent to be unread", |status| {
        let refused = status.refusals.get("node-2");
        refused.is_some_and(|it| it.reason == "unreadable-record")
    })?;
    let mut attack = honest.clone();
    attack.set("lanes", honest.victim["lanes"].clone());
    attack.publish(bed)?;
    let kept = || {
        wait_status(observer, "the older claimant to be refused", |status| {
            let refused = status.refusals.get(ATTACKER);
            refused.is_some_and(|it| it.reason == "key-taken" && it.message.contains("node-2"))
        })
    };
    kept()?;
    observer.kill_agent()?;
    observer.start_agent()?;
    observer.wait_ready()?;
    kept().context("after a restart of the observer")?;
    fs::remove_dir(&record)?;
    wait_status(observer, "the incumbent to be a peer", |status| {
        status.peers.total == 1 && !status.refusals.contains_key("node-2")
    })?;
    Ok(())
}

/// A node that tells the truth again is a peer again.
fn becomes_honest(bed: &Testbed, honest: &Attack) -> Result<()> {
    honest.publish(bed)?;
    let node = bed.node(3);
    node.start_agent()?;
    node.wait_ready()?;
    for other in [bed.node(1), bed.node(2)] {
        wait_status(other, "nobody to be refused", |status| {
            status.refusals.is_empty()
        })?;
        let (_, metrics) = get(other, "/metrics")?;
        let sample = "podwire_refused_nodes{reason=\"pod-cidrs-taken\"} 0";
        ensure!(metrics.contains(sample), "no {sample} in {metrics}");
    }
    until(CONVERGENCE, "the mesh to be whole again", || {
        matrix::all_reached(&bed.matrix().run())
    })
}

/// A key that nobody has.
const NOBODYS_KEY: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

fn an_old_copy(context: &Context) -> Result<()> {
    let bed = mesh(context)?;
    let observer = bed.node(1);
    let mut newer = Attack::of(&bed)?;
    newer.set("key-generation", "5");
    newer.publish(&bed)?;
    let key = newer.annotations["public-key"].clone();
    until(CONVERGENCE, "the newer record to be known", || {
        let kept = fs::read_to_string(observer.state_dir().join("snapshot.json"))?;
        ensure!(
            kept.contains("\"podwire.dev/key-generation\":\"5\""),
            "{kept}"
        );
        Ok(())
    })?;

    let mut older = newer.clone();
    older.set("key-generation", "3");
    older.set("public-key", NOBODYS_KEY);
    older.publish(&bed)?;
    let stays = || -> Result<()> {
        let status = wait_status(observer, "the old copy to be told", |status| {
            let refused = status.refusals.get(ATTACKER);
            refused.is_some_and(|refused| refused.reason == "generation-went-back")
        })?;
        ensure!(status.peers.total == 2, "{status:?}");
        let row = peer(observer, ATTACKER)?;
        ensure!(row.public_key.as_ref() == Some(&key), "{row:?}");
        Ok(())
    };
    stays()?;
    observer.kill_agent()?;
    observer.start_agent()?;
    observer.wait_ready()?;
    stays().context("after a restart of the observer")?;

    let mut removed = older.clone();
    removed.record = Record::Absent;
    removed.publish(&bed)?;
    wait_status(observer, "the record to be gone", |status| {
        let refused = status.refusals.get(ATTACKER);
        refused.is_some_and(|refused| refused.reason == "no-record")
    })?;
    older.publish(&bed)?;
    wait_status(observer, "the older record to begin anew", |status| {
        status.refusals.is_empty() && status.peers.total == 2
    })?;
    let row = peer(observer, ATTACKER)?;
    ensure!(row.public_key.as_deref() == Some(NOBODYS_KEY), "{row:?}");
    Ok(())
}
