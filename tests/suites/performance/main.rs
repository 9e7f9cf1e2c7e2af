//! Promised percentages and durations, measured. `make check-performance` runs it.

use std::process::ExitCode;

use podwire_testbed::suite::{self, Test};

fn main() -> ExitCode {
    let suites: [&[Test]; 0] = [];
    suite::run(suites.concat())
}
