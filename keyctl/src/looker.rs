//! Looks at all nodes, again and again.

use std::time::{Duration, Instant};

use crate::show::{is_final, sentence, tell_once};
use crate::source::{ReadError, Source};
use crate::stage::{Look, Seen};

/// Shortest time between two looks.
const PAUSE_MIN: Duration = Duration::from_millis(500);

/// So much longer than a look itself is the time to the next one: a mesh of thousands of nodes is
/// not listed all the time,
const PAUSE_FACTOR: u32 = 20;

/// though never longer than this: a server that was slow once must not leave room for rotations
/// unused for minutes.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct Looker<'a> {
    program: &'a str,
    source: &'a Source,
    deadline: Option<Instant>,
    pause: Duration,
    trouble: Option<String>,
}

impl<'a> Looker<'a> {
    /// One that gives up after a time, if there is one.
    pub(crate) fn new(program: &'a str, source: &'a Source, timeout: Option<Duration>) -> Self {
        Self {
            program,
            source,
            deadline: timeout.and_then(|timeout| Instant::now().checked_add(timeout)),
            pause: PAUSE_MIN,
            trouble: None,
        }
    }

    /// The first look, which has to succeed.
    pub(crate) async fn first(&mut self) -> Result<Look, ReadError> {
        let begun = Instant::now();
        let nodes = self.source.look().await?;
        self.pause = pause(begun.elapsed());
        let look = nodes.into_iter();
        Ok(look.map(|(name, node)| (name, Seen::new(&node))).collect())
    }

    /// A later look, after a while; `None` when the time is over. What hinders it is told once, and
    /// tried again.
    ///
    /// # Errors
    /// When trying again is of no use.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<Look>> {
        loop {
            let left = self
                .deadline
                .map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            tokio::time::sleep(left.map_or(self.pause, |left| left.min(self.pause))).await;
            match self.first().await.map_err(anyhow::Error::from) {
                Ok(look) => {
                    self.trouble = None;
                    return Ok(Some(look));
                }
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => tell_once(self.program, &mut self.trouble, sentence(&error)),
            }
        }
    }

    /// Tells what hinders a write, once, before it is tried again.
    pub(crate) fn tell_trouble(&mut self, error: anyhow::Error) {
        tell_once(self.program, &mut self.trouble, sentence(&error));
    }
}

/// The time to the next look after one that took so long.
fn pause(look: Duration) -> Duration {
    look.saturating_mul(PAUSE_FACTOR)
        .clamp(PAUSE_MIN, PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_takes_longer_is_taken_less_often_but_every_ten_seconds_at_least() {
        for (look, expected) in [(0, 500), (10, 500), (100, 2_000), (3_500, 10_000)] {
            let pause = pause(Duration::from_millis(look));
            assert_eq!(pause, Duration::from_millis(expected), "{look} ms");
        }
        assert_eq!(pause(Duration::MAX), PAUSE_MAX);
    }
}
