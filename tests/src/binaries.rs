//! The real binaries under test, built once.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

/// Names a ready-built agent, which is then used as it is.
pub const AGENT_VARIABLE: &str = "PODWIRE_AGENT_BIN";

/// The path of `podwire-agent`, built in the profile of the running program unless
/// [`AGENT_VARIABLE`] names one. Call it before [`crate::sandbox::enter`]: a build may download.
///
/// # Errors
/// When it cannot be built; the compiler's output went to standard error.
pub fn agent() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(AGENT_VARIABLE) {
        let path = PathBuf::from(path);
        ensure!(
            path.is_file(),
            "{AGENT_VARIABLE} names {}, which is no file",
            path.display()
        );
        return Ok(path);
    }
    build("podwire-agent")
}

/// The path of `keyctl`, built in the profile of the running program. To be called before
/// [`crate::sandbox::enter`], too.
///
/// # Errors
/// When it cannot be built; the compiler's output went to standard error.
pub fn keyctl() -> Result<PathBuf> {
    build("keyctl")
}

/// The build's folder, if the running program is in one; else the one for temporary files.
#[must_use]
pub fn build_folder() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let target = program
        .ancestors()
        .find(|folder| folder.ends_with("target"));
    target.map_or_else(std::env::temp_dir, Path::to_path_buf)
}

/// Builds one binary of the workspace and returns its path, as cargo reports it. As part of the
/// workspace: by itself its crates would have other features, and all be built once more.
fn build(binary: &str) -> Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(&workspace)
        .args(["build", "--quiet", "--workspace", "--bin", binary])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(std::process::Stdio::inherit());
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command.output().context("running cargo")?;
    ensure!(
        output.status.success(),
        "building {binary} failed: its errors are above"
    );
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        if message["target"]["name"] == binary
            && let Some(executable) = message["executable"].as_str()
        {
            return Ok(PathBuf::from(executable));
        }
    }
    bail!("cargo built {binary} and did not say where")
}
