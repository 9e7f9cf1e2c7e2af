//! Two faults at a time: every pair, made, held, healed, and what the underlay saw meanwhile.

use anyhow::{Context as _, Result};
use podwire_testbed::suite::Context;

use crate::fault::{self, Fault};
use crate::scene::Scene;

/// The pairs that are looked at in every run: one of each kind of guard alone, and a boot.
const SELECTION: [[Fault; 2]; 8] = [
    [Fault::BetterRoute, Fault::RoutesFlushed],
    [Fault::NodeDeleted, Fault::TableFlushed],
    [Fault::LongerRoute, Fault::TableFlushed],
    [Fault::RoutesFlushed, Fault::TableFlushed],
    [Fault::AgentKilled, Fault::LongerRoute],
    [Fault::RoutesFlushed, Fault::PodsDeleted],
    [Fault::Reboot, Fault::LongerRoute],
    [Fault::Reboot, Fault::AgentKilled],
];

pub(crate) fn test(context: &Context) -> Result<()> {
    let scene = Scene::new(context)?;
    for pair in SELECTION {
        one(&scene, pair)?;
    }
    Ok(())
}

/// Every pair once, the first fault first.
pub(crate) fn all() -> impl Iterator<Item = [Fault; 2]> {
    let faults = Fault::ALL.into_iter().enumerate();
    faults.flat_map(|(at, one)| {
        let others = Fault::ALL.into_iter().skip(at + 1);
        others.map(move |other| [one, other])
    })
}

pub(crate) fn names(pair: [Fault; 2]) -> String {
    pair.map(Fault::name).join(" and ")
}

/// Makes both faults, lets everybody send, and heals them.
///
/// # Errors
/// Also when anything leaked.
pub(crate) fn one(scene: &Scene, pair: [Fault; 2]) -> Result<()> {
    cycle(scene, &pair).with_context(|| names(pair))
}

/// The same for any number of faults.
pub(crate) fn cycle(scene: &Scene, faults: &[Fault]) -> Result<()> {
    scene.nothing_leaked().context("before it")?;
    fault::inflict(scene, faults)?;
    scene.hold()?;
    fault::heal(scene, faults).context("healing it")?;
    scene.nothing_leaked()
}
