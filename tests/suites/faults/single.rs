//! Each fault alone: what it lets out, which is nothing, and what the sender sees.

use anyhow::{Context as _, Result};
use podwire_testbed::agent_view::wait_status;
use podwire_testbed::suite::Context;

use crate::fault::{self, Fault};
use crate::scene::{Scene, Site};
use crate::sight::{self, Seen, Sight};

/// One fault, and what its senders saw.
pub(crate) struct Row {
    pub(crate) faults: Vec<Fault>,
    pub(crate) seen: Vec<Seen>,
}

pub(crate) fn test(context: &Context) -> Result<()> {
    all(&Scene::new(context)?).map(drop)
}

/// Every fault by itself, then those that an agent mends with none that could.
pub(crate) fn all(scene: &Scene) -> Result<Vec<Row>> {
    let alone = Fault::ALL.iter().map(|fault| vec![*fault]);
    let unmended = Fault::ALL
        .iter()
        .filter(|fault| fault.is_mended())
        .map(|fault| vec![Fault::AgentKilled, *fault]);
    alone
        .chain(unmended)
        .map(|faults| {
            let names: Vec<_> = faults.iter().map(|fault| fault.name()).collect();
            one(scene, faults).with_context(|| names.join(" and "))
        })
        .collect()
}

fn one(scene: &Scene, faults: Vec<Fault>) -> Result<Row> {
    scene.nothing_leaked().context("before it")?;
    fault::inflict(scene, &faults)?;
    scene.hold()?;
    followed(scene, &faults)?;
    let seen = sight::see(scene, &expected(&faults))?;
    fault::heal(scene, &faults).context("healing it")?;
    scene.nothing_leaked()?;
    Ok(Row { faults, seen })
}

/// Waits until node 1 has followed the registry, where that is what the fault is about: it may
/// answer until then, and not once after.
fn followed(scene: &Scene, faults: &[Fault]) -> Result<()> {
    let is_of_registry = |fault| {
        matches!(
            fault,
            &Fault::RecordRemoved | &Fault::KeyRemoved | &Fault::NodeDeleted
        )
    };
    if faults.iter().any(is_of_registry) {
        wait_status(scene.node(), "no peer", |status| status.peers.total == 0)?;
    }
    Ok(())
}

/// What each site sees while these are in force; nothing for a site whose pod is gone, or where an
/// agent mends while it is asked.
fn expected(faults: &[Fault]) -> Vec<(Site, Sight)> {
    use Sight::{Answer, Silence, Unreachable};
    use Site::{NodeHere, PodHere, PodThere};
    let sites = |here, there| vec![(PodHere, here), (NodeHere, here), (PodThere, there)];
    match faults {
        // The device has no reader, at this end or at the other, or waits for a session.
        [Fault::AgentKilled | Fault::HandshakeImpossible]
        | [
            Fault::AgentKilled,
            Fault::TableFlushed | Fault::RulesFlushed,
        ] => sites(Silence, Silence),
        // A guard answers. What comes from there is not answered either: it is no peer's any more,
        // or the answer has no way back, or nobody reads it.
        [Fault::RecordRemoved | Fault::KeyRemoved | Fault::NodeDeleted]
        | [
            Fault::AgentKilled,
            Fault::DeviceDeleted | Fault::RoutesFlushed,
        ] => sites(Unreachable, Silence),
        [Fault::PodsDeleted] => vec![(NodeHere, Answer), (PodThere, Unreachable)],
        // Up again; or nothing that a packet meets: ours are looked up first.
        [Fault::Reboot | Fault::BetterRoute | Fault::LongerRoute] => sites(Answer, Answer),
        _ => Vec::new(),
    }
}
