//! An agent that is killed at the moments of a rotation at which its disk and its record differ, or
//! its key file is half-written: it goes on, nobody else loses a packet, and its own pair no more
//! than by any kill.
//!
//! Keys that were given up are there for three minutes: several nodes go through it side by side.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, status};
use podwire_testbed::binaries::build_folder;
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Node, Testbed, matrix, until};
use tempfile::TempDir;

use crate::beside::mesh;
use crate::moment::{at_once, on_a_busy_disk};
use crate::report::{self, Try};
use crate::scene::{
    PHASE_DEADLINE, RETIRED_DEADLINE, Streams, TRIES, Verb, annotation, ask, generation, lost,
    phase_on_disk, sent, wait_phase, withdraw_request,
};

pub(crate) const TESTS: &[Test] = &[(
    "an_agent_killed_while_it_writes_withdraws_retires_or_revokes_goes_on_and_costs_others_nothing",
    killed,
)];

/// Has nothing to do with any rotation.
const OTHERS: (u8, u8) = (1, 2);

/// The other end of each killed node's own pair.
const PARTNER: u8 = 3;

/// Datagrams a second of those pairs, each way: how long nothing passed is told to the millisecond.
const OWN_RATE: u32 = 1_000;

/// The nodes that are killed, by the moments.
const WRITES_NEXT: u8 = 4;
const WRITES_PROMOTED: u8 = 5;
const WITHDRAWS: u8 = 6;
const TELLS_WITHDRAWN: u8 = 7;
const REVOKES: u8 = 8;

/// Kills that shall hit a moment of a millisecond.
const HITS_TRIED: usize = 10;

/// So much longer than by a kill without a rotation its own pair may stand still: a revocation is
/// promised to cost less than a second, and peers read records within as much.
const BEYOND_RESTART: Duration = Duration::from_secs(2);

/// What one kill cost.
#[derive(Debug)]
struct Cost {
    sent: u64,
    lost: u64,
    /// The longest time for which nothing arrived of the killed node's own pair, either way.
    gap: Duration,
    /// What the record said of the rotation when the agent was dead.
    record: String,
}

/// Has an agent killed by `happens`, starts the next one, and counts.
fn cost(bed: &Testbed, number: u8, happens: impl FnOnce() -> Result<()>) -> Result<Cost> {
    let node = bed.node(number);
    let others = Streams::start(bed, &[OTHERS])?;
    let own = Streams::start_at(bed, &[(number, PARTNER)], OWN_RATE)?;
    happens()?;
    let record = annotation(bed, number, "rotation-phase")?;
    node.start_agent()?;
    node.wait_ready()?;
    own.flow()?;
    others.flow()?;
    let others = others.stop()?;
    let gaps = own.stop()?;
    let gap = gaps.iter().map(|(_, count)| count.longest_gap).max();
    Ok(Cost {
        sent: sent(&others),
        lost: lost(&others),
        gap: gap.unwrap_or_default(),
        record,
    })
}

/// Kills the agent once the phase is on its disk, at once.
fn kill_on_disk(bed: &Testbed, number: u8, phase: &str, deadline: Duration) -> Result<()> {
    let folder = bed.node(number).state_dir();
    let is_there = || phase_on_disk(bed, number).is_ok_and(|now| now.starts_with(phase));
    at_once(folder, deadline, phase, is_there)?;
    bed.node(number).kill_agent().map(drop)
}

/// The key file that is written and not in place yet.
fn half_written(node: &Node) -> bool {
    let entries = fs::read_dir(node.state_dir()).into_iter().flatten();
    let names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
    let mut names = names.map(|name| name.to_string_lossy().into_owned());
    names.any(|name| name.starts_with(".keys."))
}

/// Has an agent killed at a moment of a millisecond, which `kills` says whether it has hit. A kill
/// that came too late is done again, of an agent that begins with other keys.
fn hit(bed: &Testbed, number: u8, kills: impl Fn() -> Result<bool>) -> Result<(Cost, usize)> {
    for tries in 1..=HITS_TRIED {
        let mut is_hit = false;
        let cost = cost(bed, number, || {
            is_hit = kills()?;
            Ok(())
        })?;
        if is_hit {
            return Ok((cost, tries));
        }
        begin_anew(bed, number)?;
    }
    bail!("none of {HITS_TRIED} kills of node {number} came in time")
}

/// With keys of the first generation, of which no request is left.
fn begin_anew(bed: &Testbed, number: u8) -> Result<()> {
    let node = bed.node(number);
    node.kill_agent()?;
    node.forget_state()?;
    withdraw_request(bed, number)?;
    node.start_agent()?;
    node.wait_ready()?;
    goes_on(bed, number, "")
}

/// Waits until a node is in a phase with one set of keys that are its own, which all others use.
fn goes_on(bed: &Testbed, number: u8, phase: &str) -> Result<()> {
    let node = bed.node(number);
    wait_phase(bed, number, phase, PHASE_DEADLINE)?;
    until(CONVERGENCE, "the mesh to be whole", || {
        matrix::all_reached(&bed.matrix().run())
    })?;
    let shown = status(node)?.public_key.context("a key")?;
    ensure!(shown == annotation(bed, number, "public-key")?, "{shown}");
    let next = annotation(bed, number, "next-public-key")?;
    ensure!(next.is_empty(), "still announced: {next}");
    ensure!(!half_written(node), "half a key file is left");
    no_key_of_two(bed)
}

/// No key of a record is in the record of another node.
fn no_key_of_two(bed: &Testbed) -> Result<()> {
    let mut owners = BTreeMap::<String, &str>::new();
    for node in bed.nodes() {
        let record = fs::read_to_string(bed.directory().record_path(node.name()))?;
        let is_base64 = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/';
        let words = record.split(|c| !is_base64(c));
        // 32 bytes, without the `=` at the end.
        let keys: Vec<&str> = words.filter(|word| word.len() == 43).collect();
        ensure!(!keys.is_empty(), "no key in {record}");
        for key in keys {
            let owner = *owners.entry(key.to_owned()).or_insert_with(|| node.name());
            ensure!(owner == node.name(), "{key} is {owner}'s, too: {record}");
        }
    }
    Ok(())
}

/// On a disk, which can be busy: in memory a file is written at once.
fn keep_state_on(disk: &Path, node: &Node) -> Result<()> {
    fs::remove_dir(node.state_dir())?;
    Ok(symlink(disk, node.state_dir())?)
}

/// A moment, what its kill cost others, and how much longer than by a kill without a rotation the
/// node's own pair stood still.
type Moment = (&'static str, Try, Duration);

/// All moments, of nodes of one mesh.
fn all_moments(context: &Context) -> Result<Vec<Moment>> {
    let disks = [
        TempDir::new_in(build_folder())?,
        TempDir::new_in(build_folder())?,
    ];
    let bed = mesh(context, REVOKES, |bed| {
        let mut nodes = [WRITES_NEXT, WRITES_PROMOTED].into_iter().zip(&disks);
        nodes.try_for_each(|(number, disk)| keep_state_on(disk.path(), bed.node(number)))
    })?;
    let bed = &*bed;
    let mut controls = BTreeMap::new();
    for number in WRITES_NEXT..=REVOKES {
        let control = cost(bed, number, || bed.node(number).kill_agent().map(drop))?;
        controls.insert(number, control);
        goes_on(bed, number, "")?;
    }
    let mut rows = Vec::new();
    let mut row = |what, number: u8, (cost, tries): (Cost, usize)| -> Result<()> {
        let control = &controls[&number];
        let beyond = cost.gap.saturating_sub(control.gap);
        rows.push((what, as_try(&cost, tries, control)?, beyond));
        Ok(())
    };

    let [next, promoted] = write_moments(bed)?;
    row("while it writes its next keys", WRITES_NEXT, next)?;
    row(
        "while it writes that they are promoted",
        WRITES_PROMOTED,
        promoted,
    )?;
    let [on_disk, told] = withdrawals(bed)?;
    row("when the withdrawal is on its disk", WITHDRAWS, on_disk)?;
    row("when the withdrawal is told", TELLS_WITHDRAWN, told)?;
    row(
        "when the revocation is on its disk",
        REVOKES,
        revocation(bed)?,
    )?;
    let [on_disk, told] = retirements(bed)?;
    row("when the retirement is on its disk", WRITES_NEXT, on_disk)?;
    row("when the retirement is told", WRITES_PROMOTED, told)?;
    for number in [WITHDRAWS, TELLS_WITHDRAWN] {
        wait_phase(bed, number, "", RETIRED_DEADLINE)?;
    }
    no_key_of_two(bed)?;
    // Their disks go with this.
    let mut nodes = bed.nodes().iter();
    nodes.try_for_each(|node| node.stop_agent().map(drop))?;
    Ok(rows)
}

fn as_try(cost: &Cost, tries: usize, control: &Cost) -> Result<Try> {
    let tries = match tries {
        1 => String::new(),
        _ => format!("; hit by kill {tries}"),
    };
    let record = match cost.record.as_str() {
        "" => "of no rotation",
        phase => phase,
    };
    Ok(Try {
        sent: cost.sent,
        lost: i64::try_from(cost.lost)?,
        control_lost: i64::try_from(control.lost)?,
        remarks: format!(
            "nothing passed between its own pods and a peer's for {} ms, by a kill without a rotation \
             {} ms; its record told {record}{tries}",
            cost.gap.as_millis(),
            control.gap.as_millis()
        ),
    })
}

fn rotate(bed: &Testbed, number: u8) -> Result<()> {
    ask(bed, number, Verb::Rotate, generation(bed, number)?)
}

fn announce(bed: &Testbed, number: u8) -> Result<()> {
    rotate(bed, number)?;
    wait_phase(bed, number, "announced", PHASE_DEADLINE)
}

/// Kills before the key file of the next step is in place.
fn kill_while_it_writes(bed: &Testbed, number: u8, before: &str) -> Result<bool> {
    let node = bed.node(number);
    let is_there = || half_written(node);
    on_a_busy_disk(&build_folder(), || {
        at_once(node.state_dir(), PHASE_DEADLINE, "a key file", is_there)?;
        node.kill_agent().map(drop)
    })?;
    Ok(half_written(node) && phase_on_disk(bed, number)? == before)
}

fn write_moments(bed: &Testbed) -> Result<[(Cost, usize); 2]> {
    let next = hit(bed, WRITES_NEXT, || {
        rotate(bed, WRITES_NEXT)?;
        kill_while_it_writes(bed, WRITES_NEXT, "settled")
    })?;
    goes_on(bed, WRITES_NEXT, "promoted")?;
    let promoted = hit(bed, WRITES_PROMOTED, || {
        announce(bed, WRITES_PROMOTED)?;
        kill_while_it_writes(bed, WRITES_PROMOTED, "announced")
    })?;
    goes_on(bed, WRITES_PROMOTED, "promoted")?;
    Ok([next, promoted])
}

fn withdrawals(bed: &Testbed) -> Result<[(Cost, usize); 2]> {
    let abort = |number| -> Result<()> {
        announce(bed, number)?;
        ask(bed, number, Verb::Abort, generation(bed, number)?)
    };
    let on_disk = hit(bed, WITHDRAWS, || {
        abort(WITHDRAWS)?;
        kill_on_disk(bed, WITHDRAWS, "withdrawn", PHASE_DEADLINE)?;
        Ok(annotation(bed, WITHDRAWS, "rotation-phase")? == "announced")
    })?;
    goes_on(bed, WITHDRAWS, "withdrawn")?;
    let told = cost(bed, TELLS_WITHDRAWN, || {
        abort(TELLS_WITHDRAWN)?;
        wait_phase(bed, TELLS_WITHDRAWN, "withdrawn", PHASE_DEADLINE)?;
        bed.node(TELLS_WITHDRAWN).kill_agent().map(drop)
    })?;
    goes_on(bed, TELLS_WITHDRAWN, "withdrawn")?;
    Ok([on_disk, (told, 1)])
}

fn revocation(bed: &Testbed) -> Result<(Cost, usize)> {
    let revoked = hit(bed, REVOKES, || {
        let before = generation(bed, REVOKES)?;
        ask(bed, REVOKES, Verb::Revoke, before)?;
        kill_on_disk(bed, REVOKES, "revoked", PHASE_DEADLINE)?;
        Ok(generation(bed, REVOKES)? == before)
    })?;
    goes_on(bed, REVOKES, "revoked")?;
    Ok(revoked)
}

/// Of those that were killed when they wrote.
fn retirements(bed: &Testbed) -> Result<[(Cost, usize); 2]> {
    let on_disk = cost(bed, WRITES_NEXT, || {
        kill_on_disk(bed, WRITES_NEXT, "settled", RETIRED_DEADLINE)
    })?;
    goes_on(bed, WRITES_NEXT, "")?;
    let told = cost(bed, WRITES_PROMOTED, || {
        wait_phase(bed, WRITES_PROMOTED, "", RETIRED_DEADLINE)?;
        bed.node(WRITES_PROMOTED).kill_agent().map(drop)
    })?;
    goes_on(bed, WRITES_PROMOTED, "")?;
    Ok([(on_disk, 1), (told, 1)])
}

fn killed(context: &Context) -> Result<()> {
    let mut moments = BTreeMap::<&str, Vec<Try>>::new();
    for _ in 0..TRIES {
        let mut stood_still = BTreeMap::new();
        for (what, it, beyond) in all_moments(context)? {
            moments.entry(what).or_default().push(it);
            stood_still.insert(what, beyond);
        }
        for (what, tries) in &moments {
            report::tell(&format!("an agent is killed {what}"), tries)?;
        }
        let is_short = stood_still.values().all(|it| *it <= BEYOND_RESTART);
        ensure!(is_short, "beyond a kill alone: {stood_still:#?}");
        let says_something = |tries: &Vec<Try>| tries.iter().any(|it| it.control_lost == 0);
        if moments.values().all(says_something) {
            let mut tries = moments.values().flatten();
            let costs = tries.find(|it| it.control_lost == 0 && it.lost > 0);
            ensure!(costs.is_none(), "others lost packets: {moments:#?}");
            return Ok(());
        }
    }
    bail!("inconclusive: {moments:#?}")
}
