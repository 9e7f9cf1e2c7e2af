//! Two faults at a time: every pair, made, held, healed, and what the underlay saw meanwhile.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::CaptureReport;
use podwire_testbed::suite::Context;

use crate::fault::{self, Fault};
use crate::scene::Scene;

/// The pairs that are looked at in every run: one of each kind of guard alone, and a boot.
const SELECTION: [[Fault; 2]; 6] = [
    [Fault::BetterRoute, Fault::RoutesFlushed],
    [Fault::NodeDeleted, Fault::TableFlushed],
    [Fault::AgentKilled, Fault::LongerRoute],
    [Fault::RoutesFlushed, Fault::PodsDeleted],
    [Fault::Reboot, Fault::LongerRoute],
    [Fault::Reboot, Fault::AgentKilled],
];

/// What a pair let out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leak {
    /// Frames until the table was back: 0 but for [`is_exception`].
    pub(crate) frames: u64,
    /// From the first to the last of them.
    pub(crate) window: Duration,
}

impl Leak {
    fn of(report: &CaptureReport) -> Self {
        let window = report.offences_between.map(|(first, last)| last - first);
        Self {
            frames: report.leaked_frames(),
            window: window.unwrap_or_default(),
        }
    }
}

pub(crate) fn test(context: &Context) -> Result<()> {
    let scene = Scene::new(context)?;
    for pair in SELECTION {
        let leak = one(&scene, pair)?;
        ensure!(leak.frames == 0, "{}: {leak:?}", names(pair));
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

/// Whether both guards are gone together, and a route leads out: then only the table that is put
/// back closes it again, and what leaves until then leaves in plaintext.
pub(crate) fn is_exception(pair: [Fault; 2]) -> bool {
    let leads_out = [
        Fault::BetterRoute,
        Fault::LongerRoute,
        // The covers are among them, so that the default route leads out.
        Fault::RoutesFlushed,
    ];
    pair.contains(&Fault::TableFlushed) && leads_out.iter().any(|fault| pair.contains(fault))
}

pub(crate) fn names(pair: [Fault; 2]) -> String {
    pair.map(Fault::name).join(" and ")
}

/// Makes both faults, lets everybody send, heals them, and tells what leaked.
///
/// # Errors
/// Also when something leaked that had no exception, or after the table was back.
pub(crate) fn one(scene: &Scene, pair: [Fault; 2]) -> Result<Leak> {
    cycle(scene, pair).with_context(|| names(pair))
}

fn cycle(scene: &Scene, pair: [Fault; 2]) -> Result<Leak> {
    scene.nothing_leaked().context("before it")?;
    fault::inflict(scene, &pair)?;
    let leak = if is_exception(pair) {
        fault::guarded(scene.node())?;
        Leak::of(&scene.take_report()?)
    } else {
        Leak {
            frames: 0,
            window: Duration::ZERO,
        }
    };
    scene.hold()?;
    fault::heal(scene, &pair).context("healing it")?;
    scene.nothing_leaked()?;
    Ok(leak)
}
