//! `lab up`: a mesh that stays until Ctrl-C.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use podwire_testbed::{Node, Protocol, Testbed};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::args::{Mode, UpArgs};
use crate::bring_up::bring_up;
use crate::live::Live;
use crate::output;
use crate::progress::{self, Progress};

/// How often a terminal shows the state anew.
const TERMINAL_INTERVAL: Duration = Duration::from_secs(1);

/// How often a line is written where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Brings a mesh up, shows how it is, and takes it down at SIGINT or SIGTERM.
pub(crate) fn up(args: &UpArgs, agent: &Path) -> Result<ExitCode> {
    let start = Instant::now();
    let progress = Progress::new();
    let bed = bring_up("lab up", &args.mesh, args.mode, agent, &progress)?;
    // Hands-on traffic has no cookie: headers are enough.
    bed.capture().search_payloads(false)?;
    progress.step("asking every node from every node");
    let (answered, asked) = greet(&bed, &progress);
    progress.finish();
    let mut text = format!(
        "{}, {}: up after {:.1} s, {answered} of {asked} pairs of nodes answer\n\n",
        args.mesh,
        args.mode,
        start.elapsed().as_secs_f64()
    );
    text.push_str(&instructions(&bed, args.mode, agent));
    watch(&bed, &text)?;
    output::complain(&format!("taking down {}", args.mesh));
    drop(bed);
    Ok(ExitCode::SUCCESS)
}

/// One question between the first pods of every two nodes, so that every tunnel is there.
fn greet(bed: &Testbed, progress: &Progress) -> (usize, usize) {
    let pairs: Vec<(&Node, &Node)> = bed
        .nodes()
        .iter()
        .flat_map(|from| bed.nodes().iter().map(move |to| (from, to)))
        .filter(|(from, to)| from.number() < to.number())
        .collect();
    let mut answered = 0;
    for (done, (from, to)) in (1..).zip(&pairs) {
        let target = to.pod(1).addresses()[0];
        if bed
            .probe(from.pod(1).host(), Protocol::Icmp, target)
            .ask()
            .is_ok()
        {
            answered += 1;
        }
        progress.advance(done, pairs.len());
    }
    (answered, pairs.len())
}

fn instructions(bed: &Testbed, mode: Mode, agent: &Path) -> String {
    let mut text = format!(
        "Enter any of it (a shell, or a command at the end of the line):\n{}\n\n",
        bed.enter_commands()
    );
    text.push_str("Addresses of pods:\n");
    for pod in bed.pods() {
        let addresses: Vec<_> = pod.addresses().iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "{:<12} {}", pod.id().to_string(), addresses.join(" "));
    }
    text.push_str("\nAsk an agent (status, peers, drops, healthz):\n");
    for node in bed.nodes() {
        let _ = writeln!(
            text,
            "{:<12} {} status --run-dir {}",
            node.name(),
            agent.display(),
            node.run_dir().display()
        );
    }
    let _ = writeln!(text, "\nThe registry: {}", bed.directory().path().display());
    if mode == Mode::HostNetwork {
        text.push_str("Nothing between the nodes is encrypted in this mode.\n");
    }
    text.push_str("Ctrl-C takes it all down.\n");
    text
}

/// Shows the state until a signal.
fn watch(bed: &Testbed, instructions: &str) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("waiting for Ctrl-C")?;
        let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM")?;
        // Only now: whoever reads them may send a signal at once.
        output::show(&format!("{instructions}\n"))?;
        let line = progress::moving_line();
        let mut ticks = interval(if line.is_some() {
            TERMINAL_INTERVAL
        } else {
            LINE_INTERVAL
        });
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                _ = ticks.tick() => {
                    let live = Live::look(bed).to_string();
                    match &line {
                        Some(line) => line.set_prefix(live),
                        None => output::show(&format!("{live}\n"))?,
                    }
                }
            }
        }
        if let Some(line) = line {
            line.finish_and_clear();
        }
        Ok(())
    })
}
