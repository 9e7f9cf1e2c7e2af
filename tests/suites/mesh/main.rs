//! The mesh from outside: real agents, real packets, one file for each kind of promise.
//!
//! Every test captures its underlay from the first packet to the last and fails on plaintext that
//! it did not declare (`podwire_testbed::suite`).

mod bulk;
mod change;
mod ciphers;
mod cleanup;
mod cni;
mod ecn;
mod host_network;
mod hosts;
mod lanes;
mod offloads;
mod paths;
mod reach;
mod rest;
mod restart;
mod scale;
mod start;
mod status;

use std::process::ExitCode;

use podwire_testbed::suite::{self, Test};

fn main() -> ExitCode {
    // The longest first, so that nothing waits for it at the end.
    let suites: [&[Test]; 16] = [
        rest::TESTS,
        scale::TESTS,
        change::TESTS,
        restart::TESTS,
        start::TESTS,
        host_network::TESTS,
        paths::TESTS,
        cni::TESTS,
        ciphers::TESTS,
        offloads::TESTS,
        lanes::TESTS,
        ecn::TESTS,
        reach::TESTS,
        hosts::TESTS,
        status::TESTS,
        cleanup::TESTS,
    ];
    suite::run(suites.concat())
}
