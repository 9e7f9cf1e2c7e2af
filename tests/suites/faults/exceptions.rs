//! The pairs that are not closed by what is left: the table is gone, and a route leads out. They
//! are closed once the table is back, and that is exactly what is promised.

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::suite::{Context, Test};

use crate::fault::{self, Fault};
use crate::pairs;
use crate::scene::Scene;

pub(crate) const TESTS: &[Test] = &[
    (
        "a_flushed_table_and_a_route_that_leads_out_are_closed_once_the_table_is_back",
        with_an_agent,
    ),
    (
        "with_a_dead_agent_a_flushed_table_and_a_longer_foreign_route_stay_open",
        without_an_agent,
    ),
];

#[expect(clippy::print_stdout, reason = "windows are for people to read")]
fn with_an_agent(context: &Context) -> Result<()> {
    let scene = Scene::new(context)?;
    for pair in pairs::all().filter(|pair| pairs::is_exception(*pair)) {
        // Nothing after the table is back, or this is an error.
        let leak = pairs::one(&scene, pair)?;
        println!(
            "{}: {} frames in plaintext within {} ms, then none",
            pairs::names(pair),
            leak.frames,
            leak.window.as_millis()
        );
    }
    Ok(())
}

fn without_an_agent(context: &Context) -> Result<()> {
    let scene = Scene::new(context)?;
    let faults = [Fault::AgentKilled, Fault::LongerRoute, Fault::TableFlushed];
    fault::inflict(&scene, &faults)?;
    scene.hold()?;
    let frames = scene.take_report()?.leaked_frames();
    ensure!(
        frames > 0,
        "closed by now: say so in SECURITY.md, and make it no exception here"
    );
    scene.node().start_agent()?;
    fault::guarded(scene.node())?;
    scene.take_report()?;
    scene.hold()?;
    scene.nothing_leaked().context("once the table is back")?;
    fault::heal(&scene, &faults)?;
    scene.nothing_leaked()
}
