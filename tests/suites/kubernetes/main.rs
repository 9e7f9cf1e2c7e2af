//! The agents on a real Kubernetes API server, with its store and its controllers.
//!
//! `make test-kubernetes` runs it; plain `cargo test` does not (`test = false` in the manifest): it
//! builds the servers, with Go.

mod cluster;
mod compromised;
mod daemon_set;
mod evicted;
mod fleet;
mod identity;
mod leaving;
mod lost;
mod meshes;
mod outage;
mod policies;
mod reading;
mod records;
mod rest;
mod rotation_watch;
mod scale;
mod scene;

use std::process::ExitCode;

use podwire_testbed::control_plane;
use podwire_testbed::suite::{self, Test};

fn main() -> ExitCode {
    #[expect(clippy::print_stderr, reason = "the reason of the exit code")]
    if let Err(error) = control_plane::build_servers()
        .and_then(|()| podwire_testbed::keyctl::build())
        .and_then(|()| evicted::build())
    {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    let suites: [&[Test]; 14] = [
        // The longest first.
        rest::TESTS,
        lost::TESTS,
        scale::TESTS,
        meshes::TESTS,
        records::TESTS,
        reading::TESTS,
        compromised::TESTS,
        evicted::TESTS,
        cluster::TESTS,
        identity::TESTS,
        outage::TESTS,
        policies::TESTS,
        leaving::TESTS,
        daemon_set::TESTS,
    ];
    let mut tests = suites.concat();
    if suite::is_soak() {
        tests.extend(fleet::TESTS);
    }
    suite::run(tests)
}
