//! `keyctl`, as an operator runs it against the cluster.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
use podwire_testbed::control_plane::ADMIN_TOKEN;
use podwire_testbed::{Cluster, Testbed, binaries};

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Builds it; to be called before the sandbox is entered.
pub(crate) fn build() -> Result<()> {
    let built = binaries::keyctl()?;
    PROGRAM.get_or_init(|| built);
    Ok(())
}

/// What a run of it came to.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    /// Shown when a test fails.
    #[expect(dead_code, reason = "read by Debug alone")]
    pub(crate) err: String,
}

/// Runs it on node 1 as the cluster's administrator.
pub(crate) fn run(bed: &Testbed, cluster: &Cluster, arguments: &[&str]) -> Result<Run> {
    let kubeconfig = bed.folder().join("kubeconfig-of-keyctl");
    cluster.plane().write_kubeconfig(&kubeconfig, ADMIN_TOKEN)?;
    let mut command = Command::new(PROGRAM.get().context("keyctl was not built")?);
    command
        .args(arguments)
        .arg("--kubeconfig")
        .arg(&kubeconfig)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = bed.node(1).namespace().spawn(command)?.wait_with_output()?;
    Ok(Run {
        code: output.status.code(),
        out: String::from_utf8(output.stdout)?,
        err: String::from_utf8(output.stderr)?,
    })
}
