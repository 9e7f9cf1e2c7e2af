//! What is being done right now: a moving line on a terminal, plain lines elsewhere.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output;

/// Fast enough to be seen to move.
const TICK: Duration = Duration::from_millis(100);

/// Progress on standard error. The terminal library honours NO_COLOR.
#[derive(Debug)]
pub(crate) struct Progress {
    /// `None` where standard error is no terminal.
    bar: Option<ProgressBar>,
    step: Mutex<Option<(String, Instant)>>,
}

impl Progress {
    /// Nothing is shown yet.
    pub(crate) fn new() -> Self {
        Self {
            bar: moving_line(),
            step: Mutex::new(None),
        }
    }

    /// The step before is done, this one begins.
    pub(crate) fn step(&self, text: &str) {
        let mut step = self.lock();
        self.close(step.take());
        match &self.bar {
            Some(bar) => {
                bar.set_prefix(text.to_owned());
                bar.set_message("");
            }
            None => output::complain(&format!("{text} ...")),
        }
        *step = Some((text.to_owned(), Instant::now()));
    }

    /// How far the step is.
    pub(crate) fn advance(&self, done: usize, of: usize) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!("{done}/{of}"));
        }
    }

    /// Everything is done: the moving line goes.
    pub(crate) fn finish(&self) {
        let step = self.lock().take();
        self.close(step);
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn close(&self, step: Option<(String, Instant)>) {
        if let (Some(bar), Some((text, start))) = (&self.bar, step) {
            bar.println(format!("  {text}: {:.1} s", start.elapsed().as_secs_f64()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(String, Instant)>> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A line on standard error that can be rewritten, where there is a terminal.
pub(crate) fn moving_line() -> Option<ProgressBar> {
    let target = ProgressDrawTarget::stderr();
    if target.is_hidden() {
        return None;
    }
    let style = ProgressStyle::with_template("{spinner:.cyan} {prefix} {msg:.dim}")
        .expect("the template is a constant of this file");
    let bar = ProgressBar::with_draw_target(None, target).with_style(style);
    bar.enable_steady_tick(TICK);
    Some(bar)
}
