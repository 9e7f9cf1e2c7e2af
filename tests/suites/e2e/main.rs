//! Whole clusters: real nodes with kubelet, container runtime and proxy, and real pods.
//!
//! `make e2e` runs it, as root; plain `cargo test` does not (`test = false` in the manifest).

mod asking;
mod conformance;
mod hosts;
mod leftovers;
mod modes;
mod moves;
mod network_policy;
mod node_ports;
mod nodes;
mod plain_network;
mod pods;
mod podwire;
mod rollout;
mod rotation;
mod scene;
mod services;
mod streams;
mod talks;
mod uninstall;
mod updates;

use std::process::ExitCode;

use podwire_testbed::keyctl;
use podwire_testbed::suite::{self, Test};

fn main() -> ExitCode {
    #[expect(clippy::print_stderr, reason = "the reason of the exit code")]
    if let Err(error) = keyctl::build() {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    if suite::is_soak() {
        return suite::run_conformance(conformance::TESTS.to_vec());
    }
    let suites: [&[Test]; 11] = [
        rollout::TESTS,
        moves::TESTS,
        updates::TESTS,
        rotation::TESTS,
        uninstall::TESTS,
        nodes::TESTS,
        pods::TESTS,
        services::TESTS,
        modes::TESTS,
        network_policy::TESTS,
        leftovers::TESTS,
    ];
    suite::run_on_real_nodes(suites.concat())
}
