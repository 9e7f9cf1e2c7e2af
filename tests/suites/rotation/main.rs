//! Key rotations of running meshes, under packets that are counted.

mod absent;
mod beside;
mod clocks;
mod crashes;
mod disorder;
mod kills;
mod lossless;
mod moment;
mod registry;
mod report;
mod requests;
mod scene;

use std::process::ExitCode;

use podwire_testbed::keyctl;
use podwire_testbed::suite::{self, Case, Test};

fn main() -> ExitCode {
    #[expect(clippy::print_stderr, reason = "the reason of the exit code")]
    if suite::is_soak()
        && let Err(error) = keyctl::build()
    {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    let suites: &[&[Test]] = if suite::is_soak() {
        &[
            registry::TESTS,
            absent::TESTS,
            kills::TESTS,
            disorder::TESTS,
            clocks::TESTS,
        ]
    } else {
        &[lossless::TESTS, crashes::TESTS, requests::TESTS]
    };
    let cases = suites.concat().into_iter().map(|(name, test)| Case {
        name: name.to_owned(),
        test: Box::new(test),
    });
    // Each counts every packet, beside which nothing else may keep the processors busy.
    suite::run_cases(cases.collect(), 1)
}
