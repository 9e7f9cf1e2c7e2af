//! What is being measured, and what came out so far, on standard error while it runs.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report;
use crate::sample::Results;

/// Fast enough to be seen to move; slow enough to cost nothing that is measured.
const TICK: Duration = Duration::from_millis(500);

/// A moving line and a live table where standard error is a terminal, plain lines elsewhere.
#[derive(Debug)]
pub(crate) struct Progress {
    line: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let line = is_terminal.then(|| {
            let style = ProgressStyle::with_template("{spinner:.cyan} {elapsed_precise} {msg}")
                .expect("the template is a constant of this file");
            let line = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let line = line.with_style(style);
            line.enable_steady_tick(TICK);
            line
        });
        Self { line }
    }

    /// What is done now.
    pub(crate) fn step(&self, text: &str) {
        match &self.line {
            Some(line) => line.set_message(text.to_owned()),
            None => say(text),
        }
    }

    /// Something that stays on the screen.
    pub(crate) fn tell(&self, text: &str) {
        match &self.line {
            Some(line) => line.println(text),
            None => say(text),
        }
    }

    /// The medians so far.
    pub(crate) fn show(&self, results: &Results) {
        if let Some(line) = &self.line {
            line.println(report::so_far(results));
            line.println("");
        }
    }

    /// The moving line goes.
    pub(crate) fn finish(&self) {
        if let Some(line) = &self.line {
            line.finish_and_clear();
        }
    }
}

/// Nothing is left to do if standard error is gone.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
