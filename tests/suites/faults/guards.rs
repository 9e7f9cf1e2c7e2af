//! The three guards of what leaves: any one of them alone keeps pod traffic in, also where nobody
//! is left to put the others back. With all three gone nothing does, until an agent does.

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::suite::{Context, Test};

use crate::fault::{self, Fault};
use crate::pairs;
use crate::scene::{Scene, Site};

pub(crate) const TESTS: &[Test] = &[
    (
        "with_a_dead_agent_any_one_guard_alone_lets_nothing_out",
        one_is_left,
    ),
    (
        "with_all_guards_gone_and_a_dead_agent_pods_leak_until_an_agent_starts",
        none_is_left,
    ),
];

/// What takes two of the three guards away: the table, the rules, and the routes that cover or are
/// not won over.
const TWO_GONE: [[Fault; 2]; 5] = [
    [Fault::BetterRoute, Fault::TableFlushed],
    [Fault::LongerRoute, Fault::TableFlushed],
    [Fault::RoutesFlushed, Fault::TableFlushed],
    [Fault::RulesFlushed, Fault::TableFlushed],
    [Fault::RoutesFlushed, Fault::RulesFlushed],
];

fn one_is_left(context: &Context) -> Result<()> {
    let scene = Scene::new(context)?;
    for [one, other] in TWO_GONE {
        pairs::cycle(&scene, &[Fault::AgentKilled, one, other])
            .with_context(|| pairs::names([one, other]))?;
    }
    Ok(())
}

/// Also shows that the tests above would see a guard that holds nothing.
fn none_is_left(context: &Context) -> Result<()> {
    let scene = Scene::new(context)?;
    let faults = [
        Fault::AgentKilled,
        Fault::LongerRoute,
        Fault::RulesFlushed,
        Fault::TableFlushed,
    ];
    // A connection that the node itself opens in plaintext meanwhile would be ended in plaintext by
    // the pod at its other end, whatever guards the node by then.
    scene.stop_sending_from(&[Site::NodeHere]);
    fault::inflict(&scene, &faults)?;
    scene.hold()?;
    let frames = scene.take_report()?.leaked_frames();
    ensure!(frames > 0, "closed by what? say so in SECURITY.md");
    scene.node().start_agent()?;
    fault::guarded(scene.node())?;
    scene.send_from(Site::NodeHere)?;
    scene.take_report()?;
    scene.hold()?;
    scene.nothing_leaked().context("once the table is back")?;
    fault::heal(&scene, &faults)?;
    scene.nothing_leaked()
}
