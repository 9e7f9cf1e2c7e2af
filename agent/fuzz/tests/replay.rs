//! Replays what the fuzzer found, and the seeds that it began with.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use podwire_fuzz::TARGETS;

fn entries(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    paths
}

/// The names in a folder, without their endings.
fn stems(folder: &str) -> BTreeSet<String> {
    let stem = |path: PathBuf| Some(path.file_stem()?.to_str()?.to_owned());
    entries(folder).into_iter().filter_map(stem).collect()
}

/// Says which file it was when a target panics.
struct Named<'a>(&'a Path);

impl Drop for Named<'_> {
    #[expect(
        clippy::print_stderr,
        reason = "a panic of a target does not know its file"
    )]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("it was {}", self.0.display());
        }
    }
}

fn replay(name: &str) {
    let (_, one) = TARGETS
        .into_iter()
        .find(|(target, _)| *target == name)
        .expect("a target");
    let files = entries(&format!("corpus/{name}"));
    assert!(
        !files.is_empty(),
        "corpus/{name} is empty: it proves nothing"
    );
    for file in files {
        let _named = Named(&file);
        one(&fs::read(&file).expect("a file"));
    }
}

macro_rules! replays {
    ($($test:ident = $target:literal,)+) => {
        $(#[test]
        fn $test() {
            replay($target);
        })+

        const REPLAYED: &[&str] = &[$($target,)+];
    };
}

replays! {
    the_corpus_of_the_underlay_holds = "underlay",
    the_corpus_of_the_overlay_holds = "overlay",
    the_corpus_of_icmp_errors_holds = "icmp",
    the_corpus_of_cut_packets_holds = "cut_packet",
    the_corpus_of_coalescing_holds = "coalescing",
    the_corpus_of_sealing_holds = "sealing",
    the_corpus_of_records_holds = "record",
    the_corpus_of_manifests_holds = "manifest",
    the_corpus_of_admin_requests_holds = "admin",
}

#[test]
fn every_target_has_a_program_a_corpus_and_a_replay() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let replayed: BTreeSet<String> = REPLAYED.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(stems("fuzz_targets"), targets);
    assert_eq!(stems("corpus"), targets);
    assert_eq!(replayed, targets);
}
