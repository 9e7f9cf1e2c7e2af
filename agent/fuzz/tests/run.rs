//! What `agent/fuzz/run` makes of targets that end, with stand-ins for them and for the tool chain.

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

type Outcome = Result<(), Box<dyn Error>>;

fn script(path: &Path, body: &str) -> Outcome {
    fs::create_dir_all(path.parent().ok_or("a folder")?)?;
    fs::write(path, format!("#!/bin/sh\n{body}\n"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

#[test]
fn a_target_that_dies_without_an_artifact_fails_the_run() -> Outcome {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz-run");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    for (name, body) in [
        ("cargo", "exit 0"),
        ("cargo-fuzz", "exit 0"),
        ("rustc", "echo 'host: here'"),
        ("git", "echo none"),
    ] {
        script(&root.join("bin").join(name), body)?;
    }
    let progress = "echo '#1 INITED cov: 2 ft: 3 corp: 4/5b'";
    let targets = [
        ("well", progress.to_owned()),
        ("killed", format!("{progress}; kill -9 $$")),
        ("unreadable", "exit 1".to_owned()),
    ];
    for (name, body) in &targets {
        script(&root.join("target/fuzz/here/release").join(name), body)?;
        fs::create_dir_all(root.join("agent/fuzz/corpus").join(name))?;
    }
    let run = root.join("agent/fuzz/run");
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("run"), &run)?;
    let path = format!("{}:{}", root.join("bin").display(), std::env::var("PATH")?);
    let run = |targets: &[&str]| -> Result<_, Box<dyn Error>> {
        let output = Command::new(&run)
            .arg("1")
            .args(targets)
            .env("PATH", &path)
            .env_remove("PODWIRE_RESULTS")
            .output()?;
        let table = fs::read_to_string(root.join("target/results/fuzz.md"))?;
        let rows = table.lines().filter(|line| line.ends_with(" 0 |")).count();
        Ok((output.status.success(), rows))
    };
    assert_eq!(run(&["well"])?, (true, 1));
    // Each alone: the other must not be what fails the run.
    for dead in ["killed", "unreadable"] {
        assert_eq!(run(&["well", dead])?, (false, 1), "{dead}");
    }
    assert_eq!(run(&["well"])?, (true, 1), "what was before is forgotten");
    Ok(())
}
