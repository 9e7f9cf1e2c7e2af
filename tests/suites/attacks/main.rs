//! Forged, mangled and replayed packets, floods, and an underlay that loses, delays and repeats.

mod copies;
mod families;
mod floods;
mod impaired;
mod nat;
mod replays;
mod restart;
mod spoofed;

use std::process::ExitCode;

use podwire_testbed::suite::{self, Test};

fn main() -> ExitCode {
    // The longest first, so that nothing waits for it at the end.
    let suites: [&[Test]; 7] = [
        families::TESTS,
        impaired::TESTS,
        floods::TESTS,
        nat::TESTS,
        restart::TESTS,
        replays::TESTS,
        spoofed::TESTS,
    ];
    suite::run(suites.concat())
}
