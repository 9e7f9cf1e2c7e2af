//! One run of the program, away from the kubeconfig of whoever runs the tests.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What a run left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) output: String,
    pub(crate) complaint: String,
}

/// The mesh of the tests, of which much is wrong.
pub(crate) fn mesh() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mesh")
}

/// A folder with the nodes of that mesh of which nothing is wrong.
pub(crate) fn healthy() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(mesh()).expect("the mesh") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a name");
        if name < "node-5" {
            std::fs::copy(&path, folder.path().join(name)).expect("copy");
        }
    }
    folder
}

/// The program with these arguments, not run yet.
pub(crate) fn keyctl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyctl"));
    command.args(arguments).env_clear();
    command
}

/// Runs it to its end.
pub(crate) fn run(command: &mut Command) -> Ran {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("it runs");
    Ran {
        code: status.code().expect("an exit code"),
        output: String::from_utf8(stdout).expect("text"),
        complaint: String::from_utf8(stderr).expect("text"),
    }
}

/// Runs it on a folder, as alice.
pub(crate) fn on_folder(arguments: &[&str], folder: &Path) -> Ran {
    let mut command = keyctl(arguments);
    command.arg("--directory").arg(folder).env("USER", "alice");
    run(&mut command)
}
