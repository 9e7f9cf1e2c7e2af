//! Promised percentages and durations, measured, one after the other. `make check-performance` runs
//! it.

mod api_server;
mod clock;
mod floods;
mod full_speed;
mod healing;
mod measure;
mod mode;
mod outage;
mod restart;
mod revocation;

use std::process::ExitCode;

use measure::Measure;
use podwire_testbed::control_plane;

fn main() -> ExitCode {
    #[expect(clippy::print_stderr, reason = "the reason of the exit code")]
    if let Err(error) = control_plane::build_servers() {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    let measures: [&[Measure]; 8] = [
        healing::MEASURES,
        restart::MEASURES,
        mode::MEASURES,
        clock::MEASURES,
        outage::MEASURES,
        revocation::MEASURES,
        full_speed::MEASURES,
        api_server::MEASURES,
    ];
    measure::run(&measures.concat(), floods::TESTS)
}
