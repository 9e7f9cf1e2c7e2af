//! Random faults against a mesh under traffic, reproducible by their seed.

use std::process::ExitCode;

use podwire_testbed::suite::{self, Test};

fn main() -> ExitCode {
    let suites: [&[Test]; 0] = [];
    suite::run(suites.concat())
}
