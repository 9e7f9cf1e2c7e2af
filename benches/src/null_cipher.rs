//! The I/O floor: Podwire built with a cipher that does nothing.
//!
//! A folder of its own stands beside the build: links to the sources, a copy of the lock file, and
//! a configuration that puts `benches/null-cipher` in the place of ring. No dependency and no patch
//! of the workspace names it, so that no shipped build can pick it up; and it ends where it is not
//! told that it is meant.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use podwire_testbed::foreign_wireguard;

/// What tells an agent without a cipher that it is meant (`benches/null-cipher`).
pub(crate) const MEANT: &str = "PODWIRE_BENCH_NULL_CIPHER";

/// What the copy shows of the workspace.
const SHOWN: [&str; 6] = [
    "Cargo.toml",
    "agent",
    "benches",
    "clippy.toml",
    "rust-toolchain.toml",
    "tests",
];

/// Builds it and returns the agent's path.
pub(crate) fn build(cache: &Path) -> Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .context("finding the workspace")?;
    let folder = cache.join("null-cipher");
    let configuration = folder.join(".cargo");
    fs::create_dir_all(&configuration)
        .with_context(|| format!("making {}", configuration.display()))?;
    for name in SHOWN {
        let (from, to) = (workspace.join(name), folder.join(name));
        let _ = fs::remove_file(&to);
        if from.exists() {
            symlink(&from, &to).with_context(|| format!("linking {}", to.display()))?;
        }
    }
    fs::copy(workspace.join("Cargo.lock"), folder.join("Cargo.lock"))
        .context("copying the lock file")?;
    let replacement = workspace.join("benches/null-cipher");
    let text = format!(
        "[patch.crates-io]\nring = {{ path = {:?} }}\n",
        replacement.display().to_string()
    );
    fs::write(configuration.join("config.toml"), text).context("writing the configuration")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(&folder)
        .args([
            "build",
            "--quiet",
            "--release",
            "--package",
            "podwire-agent",
        ])
        .args(["--bin", "podwire-agent", "--target-dir"])
        .arg(folder.join("target"));
    foreign_wireguard::run(&mut command).context("the null cipher cannot be built here")?;
    let lock = fs::read_to_string(folder.join("Cargo.lock")).context("reading the lock file")?;
    ensure!(
        is_replaced(&lock),
        "the build took a real cipher: benches/null-cipher must have the version that agent/ring has"
    );
    Ok(folder.join("target/release/podwire-agent"))
}

/// Whether boringtun takes the ring that does nothing: cargo only warns when a patch does not fit.
/// agent/ring is there, too, as a member of the workspace.
fn is_replaced(lock: &str) -> bool {
    let mut packages = lock.split("[[package]]");
    let boringtun = packages.find(|package| package.contains("name = \"boringtun\""));
    boringtun.is_some_and(|package| package.contains("+null\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_real_ring_is_told_from_the_one_that_does_nothing() {
        let rings = "[[package]]\nname = \"ring\"\nversion = \"1+null\"\n\n";
        let boringtun = |ring: &str| {
            format!("{rings}[[package]]\nname = \"boringtun\"\ndependencies = [\n {ring},\n]\n")
        };
        assert!(is_replaced(&boringtun("\"ring 1+null\"")));
        assert!(!is_replaced(&boringtun("\"ring 1\"")));
        assert!(!is_replaced(rings));
    }
}
