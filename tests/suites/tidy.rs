//! The house rules that a compiler does not check.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Longest production file; the field's good ones stay below (CONTRIBUTING.md).
const FILE_LINES_MAX: usize = 500;

/// Widest line.
const COLUMNS_MAX: usize = 100;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ lies in the workspace")
        .to_owned()
}

/// Every Rust file under `folder`, as paths relative to the workspace, with their text.
fn sources(folder: &str) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the workspace") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("source is text");
                found.insert(path.strip_prefix(root()).expect("below").to_owned(), text);
            }
        }
    }
    assert!(
        !found.is_empty(),
        "no sources under {folder}: the check would prove nothing"
    );
    found
}

/// The part of a file before its unit tests.
fn production(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod ")
        .next()
        .expect("split yields at least one part")
}

fn is_test_file(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    name == "tests.rs" || path.to_string_lossy().contains("/tests/")
}

fn document(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn crates_depend_on_each_other_only_in_the_designs_direction() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("podwire-core", &[] as &[&str]),
        // In the place of ring for all of them, and by this name in the agent, fuzz and benches.
        ("ring", &[]),
        ("podwire-dataplane", &["podwire-core"]),
        ("podwire-registry", &["podwire-core"]),
        (
            "podwire-agent",
            &["podwire-core", "podwire-dataplane", "podwire-registry"],
        ),
        ("keyctl", &["podwire-core", "podwire-registry"]),
        // Beside the shipped crates: the one that may use each of them, the agent's library too.
        (
            "podwire-fuzz",
            &[
                "podwire-core",
                "podwire-dataplane",
                "podwire-registry",
                "podwire-agent",
            ],
        ),
        ("podwire-testbed", &[]),
        // Its micro-benchmarks call the pure crates; the rest runs binaries.
        (
            "podwire-benches",
            &["podwire-core", "podwire-dataplane", "podwire-testbed"],
        ),
    ]);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let seen: BTreeSet<&str> = packages
        .iter()
        .map(|package| package["name"].as_str().expect("name"))
        .collect();
    assert_eq!(
        seen,
        allowed.keys().copied().collect(),
        "a crate without a rule"
    );
    for package in packages {
        let name = package["name"].as_str().expect("name");
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let on = dependency["name"].as_str().expect("name");
            if on.starts_with("podwire-") {
                assert!(
                    allowed[name].contains(&on),
                    "{name} must not depend on {on}"
                );
            }
        }
    }
}

#[test]
fn no_module_is_named_after_nothing() {
    let banned = ["utils", "util", "common", "helpers", "types", "misc"];
    for folder in ["agent", "benches", "keyctl", "tests"] {
        for path in sources(folder).keys() {
            let stem = path
                .file_stem()
                .and_then(|stem| stem.to_str())
                .unwrap_or_default();
            assert!(
                !banned.contains(&stem),
                "{}: name the concept",
                path.display()
            );
        }
    }
}

#[test]
fn production_files_fit_and_lines_fit() {
    for folder in ["agent", "benches", "keyctl", "tests/src"] {
        for (path, text) in sources(folder) {
            if is_test_file(&path) {
                continue;
            }
            let lines = production(&text).lines().count();
            assert!(lines <= FILE_LINES_MAX, "{}: {lines} lines", path.display());
            // rustfmt wraps code; comments are ours to wrap.
            for (number, line) in (1..).zip(text.lines()) {
                let columns = line.chars().count();
                assert!(
                    columns <= COLUMNS_MAX || !line.trim_start().starts_with("//"),
                    "{}:{number}: {columns} columns",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn only_the_transport_and_the_way_into_avx512_are_unsafe() {
    for (path, text) in sources("agent") {
        let may = ["agent/src/transport", "agent/ring/src/avx512.rs"];
        if may.iter().any(|may| path.starts_with(may)) || is_test_file(&path) {
            continue;
        }
        for (number, line) in (1..).zip(production(&text).lines()) {
            let code = line.split("//").next().unwrap_or_default();
            assert!(
                !code.contains("unsafe {") && !code.contains("unsafe fn"),
                "{}:{number}: unsafe",
                path.display()
            );
        }
    }
}

#[test]
fn boringtun_takes_the_ring_of_this_workspace_and_there_is_no_other() {
    // Cargo only warns of a patch that fits nobody.
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("a lock file");
    let packages = |name: &str| -> Vec<&str> {
        let name = format!("name = \"{name}\"\n");
        let all = lock.split("[[package]]");
        all.filter(|package| package.contains(&name)).collect()
    };
    let [ring] = packages("ring")[..] else {
        panic!("several packages are called ring");
    };
    assert!(!ring.contains("source = "), "it is a registry's: {ring}");
    let [boringtun] = packages("boringtun")[..] else {
        panic!("several packages are called boringtun");
    };
    assert!(boringtun.contains("\n \"ring\",\n"), "{boringtun}");
}

#[test]
fn the_protocol_engine_is_named_in_one_file() {
    let named: Vec<PathBuf> = sources("agent")
        .into_iter()
        // The fuzz targets need peers that are not ours.
        .filter(|(path, text)| {
            !is_test_file(path)
                && !path.starts_with("agent/fuzz")
                && production(text).lines().any(|line| {
                    line.split("//")
                        .next()
                        .unwrap_or_default()
                        .contains("boringtun::")
                })
        })
        .map(|(path, _)| path)
        .collect();
    assert_eq!(named.len(), 1, "{named:?}");
}

/// Names of functions, and what stands alone in quotes, as the names of the mesh tests do.
fn test_names(source: &str) -> Vec<&str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let functions = source
        .split("fn ")
        .skip(1)
        .filter_map(|rest| rest.split(|c| !is_part(c)).next());
    let quoted = source.split('"').filter(|text| text.chars().all(is_part));
    functions.chain(quoted).collect()
}

#[test]
fn a_tests_name_is_a_whole_one() {
    let source =
        "fn it_holds_for_all_of_them() {}\n(\"it_holds_for_two_of_them\", two)\n// it_held";
    let names = test_names(source);
    for whole in ["it_holds_for_all_of_them", "it_holds_for_two_of_them"] {
        assert!(names.contains(&whole), "{names:?}");
    }
    for part in ["it_holds_for_all", "holds_for_two_of_them", "it_held"] {
        assert!(!names.contains(&part), "{names:?}");
    }
}

#[test]
fn each_invariant_names_a_test_that_exists() {
    let sources: Vec<String> = ["agent", "benches", "keyctl", "tests"]
        .into_iter()
        .flat_map(|folder| sources(folder).into_values())
        .collect();
    let tests: BTreeSet<&str> = sources.iter().flat_map(|text| test_names(text)).collect();
    for name in ["ARCHITECTURE.md", "SPECIFICATION.md"] {
        let text = document(name);
        let mut named = 0;
        for word in text.split('`') {
            let sentence = word.contains('_')
                && word.matches('_').count() >= 3
                && word
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if sentence {
                named += 1;
                assert!(
                    tests.contains(word),
                    "{name} names the test {word}, which is not there"
                );
            }
        }
        assert!(named > 0, "{name} names no test");
    }
}

#[test]
fn each_promise_of_the_benchmarks_is_a_row_of_the_specification() {
    let source = document("benches/src/promise.rs");
    let specification = document("SPECIFICATION.md");
    let promises = production(&source).split("name: \"").skip(1);
    let mut found = 0;
    for promise in promises {
        let (name, rest) = promise.split_once('"').expect("a name ends");
        let (_, bound) = rest.split_once("bound: Bound::").expect("a bound");
        let (kind, number) = bound.split_once('(').expect("a number");
        let (number, _) = number.split_once(')').expect("a number");
        let word = if kind == "AtLeast" {
            "at least"
        } else {
            "at most"
        };
        let row = format!("| `{name}` | {word} {number} |");
        assert!(
            specification.contains(&row),
            "SPECIFICATION.md has no row {row}"
        );
        found += 1;
    }
    assert!(
        found > 0,
        "no promise is found: the check would prove nothing"
    );
}

#[test]
fn documents_name_no_machine() {
    for name in [
        "README.md",
        "ARCHITECTURE.md",
        "SPECIFICATION.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "benches/README.md",
        "deploy/README.md",
        "docs/key-rotation.md",
        "docs/keyctl.md",
        "docs/kubernetes-objects.md",
    ] {
        let text = document(name);
        for banned in ["/root/", "/home/", "/work/", "/tmp/"] {
            assert!(!text.contains(banned), "{name} contains {banned}");
        }
    }
}

#[test]
fn deployments_and_dockerfile_name_the_versions_of_the_workspace() {
    let value = |document: &str, before: &str| {
        let (_, rest) = document.split_once(before).expect(before);
        let (value, _) = rest.split_once('"').expect("an end");
        value.to_owned()
    };
    let version = value(&document("Cargo.toml"), "\nversion = \"");
    let toolchain = value(&document("rust-toolchain.toml"), "\nchannel = \"");
    for (name, line) in [
        (
            "deploy/agent/kustomization.yaml",
            format!("newTag: {version}\n"),
        ),
        (
            "deploy/Dockerfile",
            format!("image.version=\"{version}\"\n"),
        ),
        ("deploy/Dockerfile", format!("FROM rust:{toolchain}-")),
        (
            "deploy/Dockerfile",
            format!("RUSTUP_TOOLCHAIN={toolchain}\n"),
        ),
    ] {
        assert!(document(name).contains(&line), "{name} has no {line:?}");
    }
}
