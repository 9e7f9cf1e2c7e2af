//! The Podwire node agent.

use std::process::ExitCode;

fn main() -> ExitCode {
    podwire_agent::main()
}
