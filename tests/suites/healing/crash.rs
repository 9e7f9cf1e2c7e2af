//! An agent that is killed at any moment of its start leaves nothing that the next start minds.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, peer, status, wait_whole};
use podwire_testbed::kernel_state::KernelState;
use podwire_testbed::suite::{self, Context, Test};
use podwire_testbed::{Node, Testbed, Topology, matrix, until};

use crate::reboot::{reboot, start_pods};

pub(crate) const TESTS: &[Test] = &[(
    "an_agent_killed_at_any_moment_of_its_start_starts_again_as_if_nothing_had_been",
    killed_at_any_moment,
)];

/// A moment that is not reached by then is never reached: the start took another course.
const MOMENT_DEADLINE: Duration = Duration::from_secs(5);

/// One start in so many may have had fewer lines than it was to be killed at.
const MISSED_MAX: usize = 4;

/// A start that was over so often in a row before its moment has no later lines.
const OVER: usize = 2;

/// Lines that a start has at least, whatever it finds.
const LINES_MIN: usize = 10;

/// In `make test` every so-manieth line of the log is a moment.
const STRIDE: usize = 12;

/// A moment of a start, seen from outside.
#[derive(Debug, Clone)]
enum Moment {
    /// The log has so many lines.
    Lines(usize),
    /// The file or folder is there.
    Exists(PathBuf),
}

/// What the killed start found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    /// A machine that never ran an agent.
    Nothing,
    /// The disk of one that did, after a reboot.
    Disk,
    /// Everything, as after a crash.
    Everything,
}

const FOUND: [Found; 3] = [Found::Nothing, Found::Disk, Found::Everything];

fn killed_at_any_moment(context: &Context) -> Result<()> {
    let topology = Topology::new()
        .nodes(2)
        .pods_per_node(1)
        .agent_arguments(&["--log", "debug"]);
    let bed = context.mesh(&topology)?;
    wait_whole(&bed)?;
    let node = bed.node(1);
    let whole = KernelState::of(node)?;
    // Its lines so far are those of a start, and a few more.
    let moments = moments(&bed, node.log().lines().count());
    let (mut tried, mut missed) = (0, Vec::new());
    let mut missed_in_a_row = BTreeMap::<Found, usize>::new();
    let mut reached = BTreeMap::<Found, usize>::new();
    for (number, moment) in moments.iter().enumerate() {
        let found = match moment {
            // A file whose making is the moment may not be there before.
            Moment::Exists(_) => &FOUND[..1],
            Moment::Lines(_) if suite::is_soak() => &FOUND,
            Moment::Lines(_) => &FOUND[number % FOUND.len()..][..1],
        };
        for found in found {
            let in_a_row = missed_in_a_row.entry(*found).or_default();
            if matches!(moment, Moment::Lines(_)) && *in_a_row >= OVER {
                continue;
            }
            let what = || format!("killed at {moment:?}, having found {found:?}");
            let is_reached = killed(&bed, &whole, moment, *found).with_context(what)?;
            tried += 1;
            if is_reached {
                *in_a_row = 0;
                *reached.entry(*found).or_default() += 1;
            } else {
                ensure!(matches!(moment, Moment::Lines(_)), "not {}", what());
                *in_a_row += 1;
                missed.push(what());
            }
        }
    }
    // Not every start has as much to tell as the first one.
    ensure!(
        missed.len() * MISSED_MAX <= tried,
        "{} of {tried} starts were not {missed:#?}",
        missed.len()
    );
    ensure!(
        !suite::is_soak()
            || FOUND
                .iter()
                .all(|found| reached.get(found) >= Some(&LINES_MIN)),
        "fewer moments than a start has: {reached:?}"
    );
    matrix::all_reached(&bed.matrix().run())
}

/// The moments of a start that has so many lines, in their order as far as it is known.
fn moments(bed: &Testbed, lines: usize) -> Vec<Moment> {
    let node = bed.node(1);
    let stride = if suite::is_soak() { 1 } else { STRIDE };
    let state = ["lock", "history.json", "keys", "snapshot.json"].map(|file| {
        let path = node.state_dir().join(file);
        Moment::Exists(path)
    });
    let others = [
        node.run_dir().join("admin.sock"),
        bed.directory().record_path(node.name()),
    ];
    let lines = (0..lines).step_by(stride).map(Moment::Lines);
    lines
        .chain(state)
        .chain(others.map(Moment::Exists))
        .collect()
}

/// Undoes what is not to be found, and kills the start at that moment; then another start. Returns
/// whether the moment came.
fn killed(bed: &Testbed, whole: &KernelState, moment: &Moment, found: Found) -> Result<bool> {
    let node = bed.node(1);
    node.kill_agent()?;
    match found {
        Found::Nothing => {
            reboot(node)?;
            node.forget_state()?;
            fs::remove_file(bed.directory().record_path(node.name()))?;
        }
        Found::Disk => reboot(node)?,
        Found::Everything => {}
    }
    node.start_agent()?;
    let is_reached = wait_for(node, moment);
    node.kill_agent()?;

    node.start_agent()?;
    node.wait_ready()?;
    start_pods(node)?;
    until(CONVERGENCE, "the node to be whole", || {
        whole.is_that_of(node)
    })?;
    agrees(bed)?;
    nothing_half_written(bed)?;
    Ok(is_reached)
}

/// Watches without a pause, as a start takes milliseconds between two moments. Returns whether this
/// one came.
fn wait_for(node: &Node, moment: &Moment) -> bool {
    let start = Instant::now();
    let reached = || match moment {
        Moment::Lines(lines) => node.log().lines().count() >= *lines,
        Moment::Exists(path) => path.exists(),
    };
    while start.elapsed() < MOMENT_DEADLINE {
        if reached() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

/// The node has one key, the same on disk, in its record and with its peer, and pods reach pods.
fn agrees(bed: &Testbed) -> Result<()> {
    let (node, other) = (bed.node(1), bed.node(2));
    until(CONVERGENCE, "both ends to agree", || {
        let key = status(node)?.public_key.context("a key")?;
        let keys = fs::read_to_string(node.state_dir().join("keys"))?;
        let record = fs::read_to_string(bed.directory().record_path(node.name()))?;
        ensure!(
            keys.contains(&key) && record.contains(&key),
            "{key} is not in the record:\n{record}"
        );
        let row = peer(other, node.name())?;
        ensure!(row.public_key.as_ref() == Some(&key), "{row:?}");
        // A node that knows nobody waits for a packet before it asks for a session.
        matrix::all_reached(&bed.matrix().run())
    })
}

fn nothing_half_written(bed: &Testbed) -> Result<()> {
    for folder in [bed.node(1).state_dir(), bed.directory().path()] {
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name();
            ensure!(
                !name.to_string_lossy().starts_with('.'),
                "{} is left in {}",
                name.display(),
                folder.display()
            );
        }
    }
    Ok(())
}
