//! What the lab writes: results to standard output, everything else to standard error.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};

/// Writes results.
pub(crate) fn show(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .context("writing to standard output")
}

/// Writes a line to standard error; there is nobody left to tell when that fails.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
