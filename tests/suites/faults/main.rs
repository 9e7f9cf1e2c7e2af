//! No fault, and no pair of faults, opens a plaintext path; a change of mode goes through closed.

mod boot;
mod control;
mod fault;
mod guards;
mod mode;
mod pairs;
mod records;
mod report;
mod scene;
mod sight;
mod single;

use std::process::ExitCode;

use podwire_testbed::suite::{self, Test};

fn main() -> ExitCode {
    let faults: &[Test] = if suite::is_soak() {
        &[(
            "no_fault_and_no_pair_of_faults_opens_a_plaintext_path",
            report::test,
        )]
    } else {
        &[
            ("no_fault_opens_a_plaintext_path", single::test),
            ("no_pair_of_faults_opens_a_plaintext_path", pairs::test),
        ]
    };
    let suites: [&[Test]; 6] = [
        faults,
        guards::TESTS,
        records::TESTS,
        boot::TESTS,
        mode::TESTS,
        &[(
            "every_sender_of_these_tests_is_seen_where_nothing_guards",
            control::test,
        )],
    ];
    suite::run(suites.concat())
}
