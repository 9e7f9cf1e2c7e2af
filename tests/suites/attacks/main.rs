//! Forged, mangled and replayed packets, floods, and an underlay that loses, delays and repeats.

use std::process::ExitCode;

use podwire_testbed::suite::{self, Test};

fn main() -> ExitCode {
    let suites: [&[Test]; 0] = [];
    suite::run(suites.concat())
}
