//! The command line: usage, names, help, completions.

use std::os::unix::process::CommandExt as _;

use crate::invocation::{keyctl, mesh, run};

#[test]
fn what_is_not_understood_is_exit_code_2() {
    let folder = mesh();
    let folder = folder.to_str().expect("text");
    for arguments in [
        &[] as &[&str],
        &["rotate-everything"],
        &["peers"],
        &["peers", "NODE_1"],
        &["status", "-o", "xml"],
        &["status", "--cluster-cidr", "10.244.0.0"],
        &["status", "--directory", folder, "--context", "c"],
        &["status", "--directory", folder, "--kubeconfig", "k"],
        &["completion", "csh"],
        &["rotate"],
        &["rotate", "node-1", "--all"],
        &["rotate", "--all", "-l", "pool=a"],
        &["rotate", "--all", "--max-unavailable", "0"],
        &["rotate", "--all", "--older-than", "long"],
        &["rotate", "--all", "--timeout", "5"],
        &["rotate", "--all", "-o", "name"],
        &["abort"],
        &["revoke", "node-1"],
        &["wait", "node-1"],
        &["wait", "--for=generation=4"],
        &["wait", "--for=ready", "node-1"],
    ] {
        let ran = run(&mut keyctl(arguments));
        assert_eq!((ran.code, &*ran.output), (2, ""), "{arguments:?}");
        assert!(ran.complaint.contains("--help"), "{ran:?}");
    }
}

#[test]
fn help_and_documentation_name_every_exit_code() {
    let documented = include_str!("../../../docs/keyctl.md");
    for arguments in [
        &["--help"] as &[&str],
        &["status", "--help"],
        &["verify", "-h"],
        &["rotate", "--help"],
        &["wait", "--help"],
    ] {
        let ran = run(&mut keyctl(arguments));
        assert_eq!(ran.code, 0);
        for code in [0, 1, 2, 3, 4, 5] {
            assert!(
                ran.output.contains(&format!("\n  {code}  ")),
                "{}",
                ran.output
            );
            assert!(documented.contains(&format!("\n| {code} | ")), "{code}");
        }
    }
}

#[test]
fn the_help_of_what_changes_something_reads_as_it_is_kept() {
    let shown = |command: &str| run(&mut keyctl(&[command, "--help"])).output;
    let rotate = shown("rotate");
    let expected = include_str!("../expected/rotate-help.txt");
    assert!(rotate == expected, "{rotate}");
    let revoke = shown("revoke");
    let expected = include_str!("../expected/revoke-help.txt");
    assert!(revoke == expected, "{revoke}");
}

#[test]
fn the_usage_line_is_what_the_user_types() {
    let ran = run(&mut keyctl(&["peers", "--help"]));
    assert!(ran.output.contains("Usage: keyctl peers"), "{}", ran.output);
    let mut plugin = keyctl(&["peers", "--help"]);
    let ran = run(plugin.arg0("/usr/local/bin/kubectl-podwire"));
    assert!(
        ran.output.contains("Usage: kubectl podwire peers"),
        "{}",
        ran.output
    );
    let mut plugin = keyctl(&["peers"]);
    let ran = run(plugin.arg0("kubectl-podwire"));
    assert!(
        ran.complaint.contains("Usage: kubectl podwire peers"),
        "{ran:?}"
    );
}

#[test]
fn every_shell_has_completions() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ran = run(&mut keyctl(&["completion", shell]));
        assert_eq!(ran.code, 0);
        assert!(
            ran.output.contains("keyctl") && ran.output.contains("peers"),
            "{shell}"
        );
        for word in ["rotate", "max-unavailable", "older-than", "revoke", "abort"] {
            assert!(ran.output.contains(word), "{shell}: {word}");
        }
    }
    let mut plugin = keyctl(&["completion", "bash"]);
    let ran = run(plugin.arg0("kubectl-podwire"));
    assert!(ran.output.contains("kubectl-podwire"), "{}", ran.output);
}

/// What bash offers after each command; the shell code around it is clap's.
#[test]
fn what_is_completed_reads_as_it_is_kept() {
    let ran = run(&mut keyctl(&["completion", "bash"]));
    let mut offered = String::new();
    for line in ran.output.lines().map(str::trim) {
        let words = line.strip_prefix("opts=\"");
        let words = words.map_or("", |words| words.trim_end_matches('"').trim());
        if !words.is_empty() {
            offered += words;
            offered.push('\n');
        }
    }
    let expected = include_str!("../expected/completion-bash.txt");
    assert!(offered == expected, "{offered}");
}

#[test]
fn the_version_is_the_packages() {
    let expected = concat!("keyctl ", env!("CARGO_PKG_VERSION"), "\n");
    for arguments in [["version"], ["--version"]] {
        let ran = run(&mut keyctl(&arguments));
        assert_eq!((ran.code, &*ran.output), (0, expected));
    }
}
