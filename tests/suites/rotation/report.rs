//! Every try of the long cases, as people read it later: `tests/results/rotation.md`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::Result;
use podwire_testbed::results;

const NAME: &str = "rotation";

const COLUMNS: &str = "| case | try | sent | lost | lost in the control | remarks |";

const INTRODUCTION: &str = "\
# Key rotation

Written by `make soak`. Datagrams between pods, 10,000 a second each way, IPv4 one way and IPv6 the
other. The control is the same without the rotation (or, for a kill, without a rotation under way):
beside it or before and after it, as the case says. Where the control loses any, the try says nothing
and is repeated, twice at most; every try is here.

";

/// What one try counted.
#[derive(Debug)]
pub(crate) struct Try {
    pub(crate) sent: u64,
    pub(crate) lost: i64,
    pub(crate) control_lost: i64,
    pub(crate) remarks: String,
}

/// Puts the tries of a case in the place of those of before.
#[expect(clippy::print_stdout, reason = "every try is told")]
pub(crate) fn tell(case: &str, tries: &[Try]) -> Result<()> {
    let of_case = format!("| {case} | ");
    let before = results::read(NAME);
    let mut rows: BTreeSet<String> = before
        .lines()
        .filter(|line| line.starts_with("| ") && *line != COLUMNS && !line.starts_with(&of_case))
        .map(str::to_owned)
        .collect();
    for (number, it) in (1..).zip(tries) {
        let (sent, lost, control_lost, remarks) = (it.sent, it.lost, it.control_lost, &it.remarks);
        let row = format!("{of_case}{number} | {sent} | {lost} | {control_lost} | {remarks} |");
        println!("{row}");
        rows.insert(row);
    }
    let mut text = format!("{INTRODUCTION}{COLUMNS}\n|---|---|---|---|---|---|\n");
    for row in rows {
        let _ = writeln!(text, "{row}");
    }
    results::write(NAME, &text).map(drop)
}
