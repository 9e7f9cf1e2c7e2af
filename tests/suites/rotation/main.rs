//! Key rotations of running meshes, under packets that are counted.

mod crashes;
mod lossless;
mod requests;
mod scene;

use std::process::ExitCode;

use podwire_testbed::suite::{self, Case};

fn main() -> ExitCode {
    let tests = [lossless::TESTS, crashes::TESTS, requests::TESTS].concat();
    let cases = tests.into_iter().map(|(name, test)| Case {
        name: name.to_owned(),
        test: Box::new(test),
    });
    // Each counts every packet, beside which nothing else may keep the processors busy.
    suite::run_cases(cases.collect(), 1)
}
