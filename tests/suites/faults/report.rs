//! Every fault and every pair of them, as people read it later: `tests/results/faults.md`.

use std::fmt::Write as _;

use anyhow::Result;
use podwire_testbed::results;
use podwire_testbed::suite::Context;
use podwire_testbed::{IpVersion, Protocol};

use crate::fault::Fault;
use crate::pairs;
use crate::scene::{Scene, Site};
use crate::sight::Seen;
use crate::single::{self, Row};

const COLUMNS: [(Protocol, IpVersion); 4] = [
    (Protocol::Tcp, IpVersion::V4),
    (Protocol::Tcp, IpVersion::V6),
    (Protocol::Udp, IpVersion::V4),
    (Protocol::Udp, IpVersion::V6),
];

pub(crate) fn test(context: &Context) -> Result<()> {
    let scene = Scene::new(context)?;
    let rows = single::all(&scene)?;
    let held = pairs::all()
        .map(|pair| pairs::one(&scene, pair).map(|()| pair))
        .collect::<Result<Vec<_>>>()?;
    results::write("faults", &markdown(&rows, &held)).map(drop)
}

fn markdown(rows: &[Row], held: &[[Fault; 2]]) -> String {
    let mut text = INTRODUCTION.to_owned();
    text.push_str("\n## What a sender sees\n\n");
    text.push_str(SENDERS);
    text.push_str("| faults | who sends | TCP IPv4 | TCP IPv6 | UDP IPv4 | UDP IPv6 |\n");
    text.push_str("|---|---|---|---|---|---|\n");
    for row in rows {
        let names: Vec<_> = row.faults.iter().map(|fault| fault.name()).collect();
        let names = names.join(" and ");
        if row.seen.is_empty() {
            let _ = writeln!(text, "| {names} | all | mended at once | | | |");
        }
        for (site, words) in [
            (Site::PodHere, "a pod of the node"),
            (Site::NodeHere, "the node"),
            (Site::PodThere, "a pod of the other node"),
        ] {
            let seen: Vec<String> = COLUMNS
                .iter()
                .filter_map(|column| {
                    let of_column = |seen: &&Seen| {
                        seen.site == site && (seen.protocol, seen.version) == *column
                    };
                    row.seen.iter().find(of_column)
                })
                .map(|seen| seen.sight.to_string())
                .collect();
            if !seen.is_empty() {
                let _ = writeln!(text, "| {names} | {words} | {} |", seen.join(" | "));
            }
        }
    }
    text.push_str("\n## Every pair\n\n");
    text.push_str(PAIRS);
    matrix(&mut text, held);
    text
}

/// Half a square: each pair has one place.
fn matrix(text: &mut String, held: &[[Fault; 2]]) {
    text.push_str("| |");
    for fault in Fault::ALL.iter().skip(1) {
        let _ = write!(text, " {} |", fault.name());
    }
    let _ = writeln!(text, "\n|---|{}", "---|".repeat(Fault::ALL.len() - 1));
    for one in Fault::ALL.iter().take(Fault::ALL.len() - 1) {
        let _ = write!(text, "| {} |", one.name());
        for other in Fault::ALL.iter().skip(1) {
            let frames = if held.contains(&[*one, *other]) {
                "0"
            } else {
                ""
            };
            let _ = write!(text, " {frames} |");
        }
        text.push('\n');
    }
    text.push('\n');
}

const INTRODUCTION: &str = "\
# Faults

Written by `make soak`: two nodes of two pods each, both families. Faults are made on one node (a
record, a key and a Node are the other's). Pods and nodes at both ends send datagrams and try
connections all the time, whatever becomes of them; a test of its own shows that the capture counts
each of these senders where nothing guards. After each fault everything reaches everything again
before the next one is made.
";

const SENDERS: &str = "\
*Unreachable*: an ICMP error answers the very first packet, and more of them as the kernel's limits
let them (one a second to a sender that does not heed the first five). UDP over IPv4 is told only
where the program asks for errors (`IP_RECVERR`), unless the table answered. A connection from a pod
heeds the error about its first repetition, after a second. *Silence*: the packet is dropped in a
device without a reader, or waits for a session.

";

const PAIRS: &str = "\
Frames of pods or to pods in plaintext while both faults were in force and until all was healed;
another number than 0 would have failed the run.

";
