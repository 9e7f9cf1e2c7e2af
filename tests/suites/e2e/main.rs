//! Whole clusters: real nodes with kubelet, container runtime and proxy, and real pods.
//!
//! `make e2e` runs it, as root; plain `cargo test` does not (`test = false` in the manifest).

mod leftovers;
mod network_policy;
mod nodes;
mod plain_network;
mod pods;
mod podwire;
mod rollout;
mod scene;
mod services;

use std::process::ExitCode;

use podwire_testbed::suite::{self, Test};

fn main() -> ExitCode {
    let suites: [&[Test]; 6] = [
        rollout::TESTS,
        nodes::TESTS,
        pods::TESTS,
        services::TESTS,
        network_policy::TESTS,
        leftovers::TESTS,
    ];
    suite::run_on_real_nodes(suites.concat())
}
