//! Records, flags, requests and surroundings that cannot be used: each is refused by name, alone.

mod attack;
mod claims;
mod closed;
mod device_name;
mod records;
mod requests;
mod state_files;
mod surroundings;
mod tun_device;
mod usage;

use std::process::ExitCode;

use podwire_testbed::suite::{self, Test};

fn main() -> ExitCode {
    // The longest first, so that nothing waits for it at the end.
    let suites: [&[Test]; 7] = [
        surroundings::TESTS,
        device_name::TESTS,
        records::TESTS,
        tun_device::TESTS,
        requests::TESTS,
        usage::TESTS,
        state_files::TESTS,
    ];
    suite::run(suites.concat())
}
