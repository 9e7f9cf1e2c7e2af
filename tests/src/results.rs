//! Results that people read later: one Markdown file a suite, under `tests/results`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::binaries::build_folder;

/// Names the folder for results, in place of `target/results`.
const RESULTS_VARIABLE: &str = "PODWIRE_RESULTS";

/// Whether promised numbers count: `make soak` and `make check-performance` hold them, on
/// optimised programs and a machine with nothing else to do.
#[must_use]
pub fn are_kept() -> bool {
    std::env::var_os(RESULTS_VARIABLE).is_some()
}

/// Writes `NAME.md` and returns its path. `make soak` and `make check-performance` write into the
/// repository, any other run beside the build.
///
/// # Errors
/// The file system's.
pub fn write(name: &str, markdown: &str) -> Result<PathBuf> {
    let path = path(name);
    path.parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(&path, markdown))
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// What `NAME.md` holds from before; nothing where it is not there.
#[must_use]
pub fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_default()
}

fn path(name: &str) -> PathBuf {
    let folder = std::env::var_os(RESULTS_VARIABLE)
        .map_or_else(|| build_folder().join("results"), PathBuf::from);
    folder.join(format!("{name}.md"))
}
