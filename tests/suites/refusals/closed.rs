//! A node that waits for something: closed, and it says what for.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::agent_view::{CONVERGENCE, Status, get, status};
use podwire_testbed::{Node, Protocol, Testbed, until};

/// Waits until the node names a problem in all these words, in status and the log of this run, and
/// counts it.
pub(crate) fn tells(node: &Node, words: &[&str]) -> Result<Status> {
    tells_after(node, 0, words)
}

/// The same where the log may have said so before it had so many lines.
pub(crate) fn tells_after(node: &Node, logged: usize, words: &[&str]) -> Result<Status> {
    let says = |text: &str| words.iter().all(|word| text.contains(word));
    let what = format!("{} to say {words:?}", node.name());
    let status = until(CONVERGENCE, &what, || {
        let status = status(node)?;
        ensure!(status.problems.iter().any(|it| says(it)), "{status:?}");
        Ok(status)
    })?;
    let log = node.log();
    ensure!(
        log.lines().skip(logged).any(says),
        "{words:?} are not in one line after the first {logged} of {log}"
    );
    until(CONVERGENCE, "the problem to be counted", || {
        let (_, metrics) = get(node, "/metrics")?;
        ensure!(!metrics.contains("podwire_problems 0"), "{metrics}");
        Ok(())
    })?;
    Ok(status)
}

/// No pod of either node reaches one of the other. What reaches the underlay all the same fails the
/// test at its end.
pub(crate) fn nothing_passes(bed: &Testbed) -> Result<()> {
    let (one, two) = (bed.pod(1, 1), bed.pod(2, 1));
    for (from, to) in [(one, two), (two, one)] {
        for target in to.addresses() {
            for protocol in Protocol::ALL {
                let probe = bed.probe(from.host(), protocol, target);
                let answer = probe.timeout(Duration::from_millis(300)).ask();
                ensure!(answer.is_err(), "{protocol} to {target} passed");
            }
        }
    }
    bed.capture().report().context("the capture")?;
    Ok(())
}
