//! The programs of Kubernetes' servers.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result, bail, ensure};

/// As controller-runtime's envtest has it: a folder with etcd, kube-apiserver and kubectl.
const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";

/// Where [`build_servers`] found or put them.
static FOLDERS: OnceLock<Vec<PathBuf>> = OnceLock::new();

/// Builds what is neither in `KUBEBUILDER_ASSETS` nor in the cache, with progress on standard
/// error: ten minutes the first time, nothing after that. To be called before
/// [`crate::sandbox::enter`]: a build needs the host's network.
///
/// # Errors
/// When a program cannot be built; the reason went to standard error.
pub fn build_servers() -> Result<()> {
    build("api")
}

/// As [`build_servers`], with everything that real nodes and their pods run: another ten minutes.
///
/// # Errors
/// As [`build_servers`].
pub fn build_node_servers() -> Result<()> {
    build("nodes")
}

/// As [`build_node_servers`], with what enforces network policies: another two minutes.
///
/// # Errors
/// As [`build_servers`].
pub fn build_policy_servers() -> Result<()> {
    build("policy")
}

/// As [`build_node_servers`], with Kubernetes' own tests: another five minutes.
///
/// # Errors
/// As [`build_servers`].
pub fn build_conformance() -> Result<()> {
    build("conformance")
}

fn build(set: &str) -> Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("servers/build");
    let output = Command::new(&script)
        .arg(set)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("running {}", script.display()))?;
    ensure!(
        output.status.success(),
        "Kubernetes' servers are missing, and {} failed: its reason is above",
        script.display()
    );
    let said = String::from_utf8_lossy(&output.stdout);
    FOLDERS.get_or_init(|| said.lines().map(PathBuf::from).collect());
    Ok(())
}

/// The path of a server or of kubectl, by its name.
///
/// # Errors
/// When [`build_servers`] was not called, and when it does not make this one.
pub fn program(name: &str) -> Result<PathBuf> {
    let built = FOLDERS
        .get()
        .context("Kubernetes' servers are not there: call build_servers first in main()")?;
    let assets = std::env::var_os(ASSETS_VARIABLE).map(PathBuf::from);
    let folders = assets.iter().chain(built);
    let mut programs = folders.map(|folder| folder.join(name));
    match programs.find(|program| program.is_file()) {
        Some(program) => Ok(program),
        None => bail!("tests/servers/build made no {name}"),
    }
}
