//! Clocks that are days apart are no matter of a rotation's.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use podwire_testbed::suite::{Context, Test};
use podwire_testbed::{Testbed, keyctl};

use crate::beside::{loses_nothing_beside, mesh};
use crate::scene::{annotation, rotate, settled};

pub(crate) const TESTS: &[Test] = &[(
    "nodes_whose_clocks_are_days_apart_rotate_in_the_usual_times_and_lose_no_packet",
    days_apart,
)];

const DAY: i64 = 24 * 3600;

/// One pair rotates, and the other is the control.
const AHEAD: [u8; 2] = [1, 3];
const BEHIND: [u8; 2] = [2, 4];

/// The least time for which the keys of before receive; looked at a little late, at both ends.
const RETIRED_AFTER_MIN: Duration = Duration::from_secs(179);

fn days_apart(context: &Context) -> Result<()> {
    let bed = mesh(context, 4, |bed| {
        let set = |numbers: [u8; 2], seconds| {
            let mut numbers = numbers.into_iter();
            numbers.try_for_each(|number| bed.node(number).set_clock(seconds))
        };
        set(AHEAD, DAY)?;
        set(BEHIND, -DAY)
    })?;
    let case = "a node a day ahead and one a day behind rotate at once";
    loses_nothing_beside(&bed, case, |_| {
        let began = Instant::now();
        rotate(&bed, &[1, 2])?;
        let promoted = Instant::now();
        settled(&bed, &[1, 2])?;
        let retired = promoted.elapsed();
        ensure!(retired >= RETIRED_AFTER_MIN, "retired after {retired:?}");
        Ok(format!(
            "promoted after {:.1} s, retired {:.1} s later; keys made at {} and {}",
            (promoted - began).as_secs_f64(),
            retired.as_secs_f64(),
            annotation(&bed, 1, "key-created")?,
            annotation(&bed, 2, "key-created")?
        ))
    })?;
    says(&bed)
}

/// What keyctl makes of keys from the future, and of new ones that look a day old.
#[expect(clippy::print_stdout, reason = "for people to read")]
fn says(bed: &Testbed) -> Result<()> {
    for arguments in [
        &["status"] as &[&str],
        &["rotate", "--all", "--older-than", "1h", "--dry-run"],
    ] {
        let run = keyctl::run_on_folder(bed, arguments)?;
        println!("{arguments:?}: {:?}\n{}{}", run.code, run.out, run.err);
    }
    Ok(())
}
