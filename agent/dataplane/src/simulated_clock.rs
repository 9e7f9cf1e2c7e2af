//! Simulated time (feature `sim`): boringtun's clock as tests move it.
//!
//! boringtun stamps its initiations with the wall clock of a `Tunn`'s creation plus the mock time
//! since. The wall clock is the real one and stands still in a simulation, so a `Tunn` that is made
//! later would seem to live in the past. Each is therefore made at the origin of simulated time.

use std::cell::Cell;
use std::time::Duration;

use mock_instant::MockClock;

/// Where simulations start: later than boringtun's longest timer, so that a `Tunn` made at the
/// origin has expired and its timers begin anew with its first handshake, as those of a fresh one.
const START: Duration = Duration::from_secs(1_000_000);

thread_local! {
    static BEHIND: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Starts a simulation on this thread.
pub fn start() {
    MockClock::set_time(START);
    set_wall_clock_behind(Duration::ZERO);
}

/// Moves simulated time.
pub fn advance(by: Duration) {
    MockClock::advance(by);
}

/// Sets the wall clock that tunnels made from now on see back by `by`, at most [`START`] less an
/// hour.
pub fn set_wall_clock_behind(by: Duration) {
    BEHIND.set(by);
}

/// How far the present is ahead of where tunnels are made.
pub(crate) fn since_the_origin() -> Duration {
    MockClock::time() - BEHIND.get()
}

/// Makes a value at the origin of simulated time and lets it `catch_up` at the present, silently.
pub(crate) fn at_the_origin<T>(make: impl FnOnce() -> T, catch_up: impl FnOnce(&mut T)) -> T {
    let now = MockClock::time();
    MockClock::set_time(BEHIND.get());
    let mut value = make();
    MockClock::set_time(now);
    let silence = tracing::subscriber::NoSubscriber::default();
    tracing::subscriber::with_default(silence, || catch_up(&mut value));
    value
}
