//! What somebody else removes, what a crash leaves behind and what a clock does: it comes back by
//! itself.

mod clock;
mod crash;
mod host;
mod leftovers;
mod local_state;
mod lockout;
mod obstacles;
mod processor;
mod reboot;
mod registry;
mod state_folder;

use std::process::ExitCode;

use podwire_testbed::suite::{self, Test};

fn main() -> ExitCode {
    // The longest first, so that nothing waits for it at the end.
    let suites: [&[Test]; 9] = [
        clock::TESTS,
        crash::TESTS,
        local_state::TESTS,
        state_folder::TESTS,
        leftovers::TESTS,
        lockout::TESTS,
        obstacles::TESTS,
        host::TESTS,
        registry::TESTS,
    ];
    suite::run(suites.concat())
}
