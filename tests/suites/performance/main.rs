//! Promised percentages and durations, measured, one after the other. `make check-performance` runs
//! it.

mod clock;
mod floods;
mod full_speed;
mod healing;
mod measure;
mod mode;
mod outage;
mod restart;

use std::process::ExitCode;

use measure::Measure;

fn main() -> ExitCode {
    let measures: [&[Measure]; 6] = [
        healing::MEASURES,
        restart::MEASURES,
        mode::MEASURES,
        clock::MEASURES,
        outage::MEASURES,
        full_speed::MEASURES,
    ];
    measure::run(&measures.concat(), floods::TESTS)
}
