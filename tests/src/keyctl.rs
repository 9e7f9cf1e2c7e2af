//! `keyctl` against a control plane, as a user runs it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result};

use crate::binaries;
use crate::control_plane::ControlPlane;
use crate::node::Node;
use crate::testbed::Testbed;

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// What a run of it came to.
#[derive(Debug)]
pub struct Run {
    /// The exit code.
    pub code: Option<i32>,
    /// What it printed.
    pub out: String,
    /// What it complained of.
    pub err: String,
}

/// Builds it; to be called before the sandbox is entered.
///
/// # Errors
/// As [`binaries::keyctl`].
pub fn build() -> Result<()> {
    let built = binaries::keyctl()?;
    PROGRAM.get_or_init(|| built);
    Ok(())
}

/// Runs it as whoever has this token, on node 1, or beside the API server where there is no node.
///
/// # Errors
/// When it was not built, cannot be started, or prints no text.
pub fn run(bed: &Testbed, plane: &ControlPlane, token: &str, arguments: &[&str]) -> Result<Run> {
    let kubeconfig = bed.folder().join("kubeconfig-of-keyctl");
    plane.write_kubeconfig(&kubeconfig, token)?;
    run_on(bed, arguments, "--kubeconfig", &kubeconfig)
}

/// Runs it on the folder that is the registry of a testbed without a control plane.
///
/// # Errors
/// As [`run`].
pub fn run_on_folder(bed: &Testbed, arguments: &[&str]) -> Result<Run> {
    run_on(bed, arguments, "--directory", bed.directory().path())
}

fn run_on(bed: &Testbed, arguments: &[&str], source: &str, path: &Path) -> Result<Run> {
    let mut command = Command::new(PROGRAM.get().context("keyctl was not built")?);
    command
        .args(arguments)
        .arg(source)
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let underlay = bed.underlay().namespace();
    let namespace = bed.nodes().first().map_or(underlay, Node::namespace);
    let output = namespace.spawn(command)?.wait_with_output()?;
    Ok(Run {
        code: output.status.code(),
        out: String::from_utf8(output.stdout)?,
        err: String::from_utf8(output.stderr)?,
    })
}
